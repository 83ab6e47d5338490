"""Amazon-6 and Amazon-13: a category is a domain, every review a positive.

Source: the 5-core review files of the Amazon review data of 2018 (Ni, Li, McAuley, EMNLP 2019), one a category, a JSON
object a line. Two reviews are the same when user, item and stars are.
"""

from __future__ import annotations

import gzip
import zlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import polars as pl

from training.builders.assembly import BuildOptions, assemble
from training.builders.rules import Positives
from training.errors import SourceError
from training.prepared import PreparedDataset
from training.progress import Meter

AMAZON_13 = (
    "Arts Crafts and Sewing",
    "Digital Music",
    "Gift Cards",
    "Industrial and Scientific",
    "Luxury Beauty",
    "Magazine Subscriptions",
    "Musical Instruments",
    "Office Products",
    "Patio Lawn and Garden",
    "Prime Pantry",
    "Software",
    "Toys and Games",
    "Video Games",
)
AMAZON_6 = (
    "Musical Instruments",
    "Office Products",
    "Patio Lawn and Garden",
    "Prime Pantry",
    "Toys and Games",
    "Video Games",
)
_REMEDY = "download the 5-core files from https://nijianmo.github.io/amazon/ again"
_SUFFIXES = ("_5.json.gz", "_5.json")


def amazon(name: str, categories: Sequence[str], source: Path, options: BuildOptions, meter: Meter) -> PreparedDataset:
    """Build a set of categories.

    Args:
        name: of the set.
        categories: as the public page lists them.
        source: folder with `<Category>_5.json.gz`, or .json, of each.
        options: of the build.
        meter: where progress goes.

    Raises:
        SourceError: a file is missing or broken; it names file and line.
        TrainingError: a process died.
    """
    return assemble(name, "category", [_review_file(category, source) for category in categories], options, meter)


@dataclass(frozen=True)
class ReviewFile:
    """The reviews of one category, read line by line; of a line only user, item and stars are kept."""

    domain: str
    path: Path

    def positives(self) -> Positives:
        """Read the file.

        Raises:
            SourceError: it is cut or broken; it names the line.
        """
        users, items, stars = _Codes(), _Codes(), array("d")
        for review in _reviews(self.path):
            users.add(review.user)
            items.add(review.item)
            stars.append(review.stars)
        rows = pl.DataFrame({"user": users.codes(), "item": items.codes(), "stars": np.array(stars)})
        rows = rows.unique(maintain_order=True)
        return Positives(self.domain, users.ids().gather(rows["user"]), items.ids().gather(rows["item"]))


class _Review(msgspec.Struct):
    user: str = msgspec.field(name="reviewerID")
    item: str = msgspec.field(name="asin")
    stars: float = msgspec.field(name="overall")


class _Codes:
    """Strings as small numbers, so that a string that stands in many lines is held once."""

    def __init__(self) -> None:
        self._code: dict[str, int] = {}
        self._codes = array("q")

    def add(self, value: str) -> None:
        self._codes.append(self._code.setdefault(value, len(self._code)))

    def codes(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        return np.array(self._codes, np.int64)

    def ids(self) -> pl.Series:
        return pl.Series(list(self._code), dtype=pl.String)


def _review_file(category: str, source: Path) -> ReviewFile:
    stem = category.replace(" ", "_")
    domain = category.lower().replace(" ", "-")
    for suffix in _SUFFIXES:
        if (source / f"{stem}{suffix}").exists():
            return ReviewFile(domain, source / f"{stem}{suffix}")
    raise SourceError(source / f"{stem}{_SUFFIXES[0]}", None, "is missing", _REMEDY)


def _reviews(path: Path) -> Iterator[_Review]:
    decoder, read = msgspec.json.Decoder(_Review), 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as lines:
            for content in lines:
                yield decoder.decode(content)
                read += 1
    except msgspec.MsgspecError as error:
        raise SourceError(path, read + 1, f"is no review ({error})", _REMEDY) from None
    except (OSError, EOFError, zlib.error) as error:
        raise SourceError(path, read + 1, f"cannot be read ({error})", _REMEDY) from None
    if not read:
        raise SourceError(path, None, "is empty", _REMEDY)
