"""Download public files where their owner lets a program do so; else say where a person gets them."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import httpx

from training.errors import SourceError

Watch = Callable[[int, int | None], None]
"""Told how many bytes are there, and how many there will be if the server says so."""


@dataclass(frozen=True)
class Download:
    """A file that may be downloaded.

    Args:
        url: where it is.
        md5: hexadecimal digest of the file.
        holds: the folder inside the .zip that is the source.
    """

    url: str
    md5: str
    holds: str

    @property
    def file(self) -> str:
        """Its name."""
        return self.url.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class ByHand:
    """Files that a person gets.

    Args:
        page: where.
        why: what stands against a program.
    """

    page: str
    why: str


_EPINIONS = "https://www.cse.msu.edu/~tangjili/datasetcode/truststudy.htm"
_LOGIN = "asks for an account and its terms to be accepted"
_NO_DIGEST = "publishes no digest to hold the files to"
SOURCES: Mapping[str, Download | ByHand] = MappingProxyType(
    {
        "movielens-1m": Download(
            "https://files.grouplens.org/datasets/movielens/ml-1m.zip", "c4d9eecfca2ab87c1945afe126590906", "ml-1m"
        ),
        "amazon-5core": ByHand("https://jmcauley.ucsd.edu/data/amazon/", _NO_DIGEST),
        "amazon-6": ByHand("https://nijianmo.github.io/amazon/", _NO_DIGEST),
        "amazon-13": ByHand("https://nijianmo.github.io/amazon/", _NO_DIGEST),
        **{f"taobao-{n}": ByHand("https://tianchi.aliyun.com/dataset/9716", _LOGIN) for n in (10, 20, 30)},
        "ali-ccp": ByHand("https://tianchi.aliyun.com/dataset/408", _LOGIN),
        "douban": ByHand(
            "https://www.kaggle.com/datasets/fengzhujoey/douban-datasetratingreviewside-information", _LOGIN
        ),
        **{f"epinions-{kind}": ByHand(_EPINIONS, _NO_DIGEST) for kind in ("rating", "mdr")},
        "kuairand-1k": ByHand("https://kuairand.com", _NO_DIGEST),
    }
)


def fetch(
    name: str, folder: Path, client: httpx.Client, watch: Watch, sources: Mapping[str, Download | ByHand] = SOURCES
) -> Path:
    """Download and unpack a source; what was cut off is resumed, what is there already is not fetched again.

    Args:
        name: of the set.
        folder: where the .zip and its content go; made if it is not there.
        client: asks for the file; it follows redirects.
        watch: told of the bytes that are there.
        sources: what may be fetched.

    Returns:
        The folder that `espalier data prepare` takes.

    Raises:
        SourceError: the set is unknown or to be got by hand, the server failed, or the digest is another one.
    """
    source = sources.get(name)
    if source is None:
        raise SourceError(folder, None, f"{name!r} is no known set", f"known are {', '.join(sorted(sources))}")
    if isinstance(source, ByHand):
        raise SourceError(
            folder, None, f"{name} cannot be fetched by a program: its page {source.why}", f"get it from {source.page}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / source.file
    if not path.exists():
        part = path.with_name(f"{path.name}.part")
        _download(source, part, client, watch)
        _check_digest(source, part)
        part.replace(path)
    return _unpacked(path, source, folder)


def _download(source: Download, part: Path, client: httpx.Client, watch: Watch) -> None:
    have = part.stat().st_size if part.exists() else 0
    headers = {"Range": f"bytes={have}-"} if have else {}
    remedy = "run the same command again; it goes on where it was cut off"
    try:
        with client.stream("GET", source.url, headers=headers) as answer:
            if answer.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
                return  # all of it is there already; the digest decides
            answer.raise_for_status()
            if answer.status_code != httpx.codes.PARTIAL_CONTENT:
                have = 0
            length = answer.headers.get("Content-Length")
            total = have + int(length) if length else None
            with part.open("ab" if have else "wb") as sink:
                for block in answer.iter_raw():
                    sink.write(block)
                    have += len(block)
                    watch(have, total)
    except httpx.HTTPError as error:
        raise SourceError(part, None, f"{source.url} failed ({error})", remedy) from None
    except OSError as error:
        raise SourceError(part, None, f"cannot be written ({error.strerror})", "make room, and run it again") from None


def _check_digest(source: Download, part: Path) -> None:
    with part.open("rb") as content:
        found = hashlib.file_digest(content, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != source.md5:
        part.unlink()
        raise SourceError(
            part, None, f"{source.url} has MD5 {found} instead of {source.md5}; it was deleted", "run the command again"
        )


def _unpacked(path: Path, source: Download, folder: Path) -> Path:
    try:
        with zipfile.ZipFile(path) as archive:
            archive.extractall(folder)
    except (zipfile.BadZipFile, OSError) as error:
        raise SourceError(path, None, f"cannot be unpacked ({error})", "delete it and run the command again") from None
    if not (folder / source.holds).is_dir():
        raise SourceError(path, None, f"has no folder {source.holds}", "delete it and run the command again")
    return folder / source.holds
