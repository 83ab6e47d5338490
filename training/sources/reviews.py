"""Amazon's review files: a JSON object a line, plain or .gz; of a line only user, item, stars and time are kept."""

from __future__ import annotations

import gzip
import zlib
from array import array
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import polars as pl

from training.errors import SourceError


class _Review(msgspec.Struct):
    user: str = msgspec.field(name="reviewerID")
    item: str = msgspec.field(name="asin")
    stars: float = msgspec.field(name="overall")


class _TimedReview(_Review):
    time: int = msgspec.field(name="unixReviewTime")


def read_reviews(path: Path, remedy: str, *, timed: bool = False) -> pl.DataFrame:
    """Read a file line by line; a string that stands in many lines is held once.

    Args:
        path: the file; .gz where its name ends so.
        remedy: what to do when something is wrong.
        timed: whether the time is needed.

    Returns:
        user_id, item_id, stars and, if asked for, time (seconds since 1970), in the order of the lines.

    Raises:
        SourceError: the file is missing, empty, cut or no list of reviews; it names the line.
    """
    users, items, stars, times = _Codes(), _Codes(), array("d"), array("q")
    for review in _reviews(path, _TimedReview if timed else _Review, remedy):
        users.add(review.user)
        items.add(review.item)
        stars.append(review.stars)
        if isinstance(review, _TimedReview):
            times.append(review.time)
    columns = {"user_id": users.values(), "item_id": items.values(), "stars": pl.Series(np.array(stars))}
    if timed:
        columns["time"] = pl.Series(np.array(times))
    return pl.DataFrame(columns)


def review_file(folder: Path, stem: str, remedy: str) -> Path:
    """The file `<stem>.json.gz` or `<stem>.json`.

    Raises:
        SourceError: neither is there.
    """
    for suffix in (".json.gz", ".json"):
        if (folder / f"{stem}{suffix}").exists():
            return folder / f"{stem}{suffix}"
    raise SourceError(folder / f"{stem}.json.gz", None, "is missing", remedy)


class _Codes:
    """Strings as small numbers while a file is read."""

    def __init__(self) -> None:
        self._code: dict[str, int] = {}
        self._codes = array("q")

    def add(self, value: str) -> None:
        self._codes.append(self._code.setdefault(value, len(self._code)))

    def values(self) -> pl.Series:
        return pl.Series(list(self._code), dtype=pl.String).gather(pl.Series(np.array(self._codes)))


def _reviews(path: Path, kind: type[_Review], remedy: str) -> Iterator[_Review]:
    decoder, read = msgspec.json.Decoder(kind), 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as lines:
            for content in lines:
                yield decoder.decode(content)
                read += 1
    except msgspec.MsgspecError as error:
        raise SourceError(path, read + 1, f"is no review ({error})", remedy) from None
    except (OSError, EOFError, zlib.error) as error:
        raise SourceError(path, read + 1, f"cannot be read ({error})", remedy) from None
    if not read:
        raise SourceError(path, None, "is empty", remedy)
