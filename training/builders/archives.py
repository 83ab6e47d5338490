"""The prepared sets as MAMDR's authors give them away: a folder a domain, with the rows and their split.

Form: `domain_<n>/{train,val,test}.csv` with the columns uid, pid, domain, label, and `domain_property.json` with the
domain's name and ratio; unpacked, or as the .zip. Ids are the authors' own numbers.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import polars as pl

from training.builders.assembly import joined
from training.errors import SourceError
from training.prepared import PARTS, SPLIT, PreparedDataset
from training.progress import Meter

_FILES = dict(zip(PARTS, ("train.csv", "val.csv", "test.csv"), strict=True))
_PROPERTY = "domain_property.json"
_COLUMNS = ("uid", "pid", "domain", "label")
_DOMAIN = re.compile(r"domain_(\d+)\Z")
_REMEDY = "unpack the authors' archive again, or name the .zip itself"
_UNSAFE = re.compile(r"[^A-Za-z0-9_:=.-]+")


def is_archive(source: Path) -> bool:
    """Whether this is a prepared set of the authors, and not public files."""
    return zipfile.is_zipfile(source) or (source.is_dir() and bool(_domain_folders(_Place(source))))


def read_archive(name: str, division: str, domains: int, source: Path, meter: Meter) -> PreparedDataset:
    """Read a prepared set; rows, labels and parts are taken as they are.

    Args:
        name: of the set.
        division: name of the natural division.
        domains: how many the set has; where the archive holds several sets, the one with as many is taken.
        source: folder or .zip.
        meter: told of every domain.

    Raises:
        SourceError: no set of so many domains is there, or a file is missing or broken; it names file and line.
    """
    place = _Place(source)
    sets = _domain_folders(place)
    fitting = [folders for folders in sets.values() if len(folders) == domains]
    if len(fitting) != 1:
        held = ", ".join(f"{parent}: {len(folders)}" for parent, folders in sorted(sets.items())) or "none"
        raise SourceError(source, None, f"holds {len(fitting)} sets of {domains} domains ({held})", _REMEDY)
    frames, ids, shares = [], [], {}
    for number, folder in sorted(fitting[0].items()):
        known = _property(place, folder)
        domain = _domain_id(known.get("domain_name"), division, number)
        frames.append(_rows(place, folder, number, domain))
        ids.append(domain)
        shares[domain] = known.get("ctr_ratio")
        meter.say(f"{domain}: {len(frames[-1]):,} rows")
    return joined(name, division, ids, frames, {"ratios": shares, "archive": True})


@dataclass(frozen=True)
class _Place:
    """A folder or a .zip, as files by their path inside it."""

    root: Path

    def names(self) -> list[str]:
        if self.root.is_dir():
            return sorted(path.relative_to(self.root).as_posix() for path in self.root.rglob("*.csv"))
        with zipfile.ZipFile(self.root) as archive:
            return sorted(archive.namelist())

    def read(self, name: str) -> bytes:
        """Raise SourceError if it is not there or broken."""
        try:
            if self.root.is_dir():
                return (self.root / name).read_bytes()
            with zipfile.ZipFile(self.root) as archive:
                return archive.read(name)
        except (FileNotFoundError, KeyError):
            raise SourceError(self.root / name, None, "is missing", _REMEDY) from None
        except (OSError, zipfile.BadZipFile) as error:
            raise SourceError(self.root / name, None, f"cannot be read ({error})", _REMEDY) from None


def _domain_folders(place: _Place) -> dict[str, dict[int, str]]:
    """Folder of each domain by its number, for each folder that holds such folders."""
    sets: dict[str, dict[int, str]] = defaultdict(dict)
    for name in place.names():
        path = PurePosixPath(name)
        found = _DOMAIN.match(path.parent.name)
        if path.name == _FILES["train"] and found:
            sets[str(path.parent.parent)][int(found[1])] = str(path.parent)
    return dict(sets)


def _property(place: _Place, folder: str) -> dict[str, Any]:
    path = f"{folder}/{_PROPERTY}"
    try:
        content = json.loads(place.read(path))
    except ValueError as error:
        raise SourceError(place.root / path, None, f"is no JSON ({error})", _REMEDY) from None
    return content if isinstance(content, dict) else {}


def _domain_id(named: object, division: str, number: int) -> str:
    text = _UNSAFE.sub("-", str(named)).strip("-").lower().replace("_", "-") if named else ""
    return text or f"{division}-{number}"


def _rows(place: _Place, folder: str, number: int, domain: str) -> pl.DataFrame:
    parts = [_part(place, f"{folder}/{file}", number, part) for part, file in _FILES.items()]
    rows = pl.concat(parts).sort("user_id", "item_id", "label", maintain_order=True)
    return rows.select("user_id", "item_id", pl.lit(domain).alias("domain_id"), "label", SPLIT)


def _part(place: _Place, name: str, number: int, part: str) -> pl.DataFrame:
    path = place.root / name
    try:
        text = pl.read_csv(place.read(name), infer_schema=False)
    except pl.exceptions.PolarsError as error:
        raise SourceError(path, None, f"is no CSV ({str(error).splitlines()[0]})", _REMEDY) from None
    missing = [column for column in _COLUMNS if column not in text.columns]
    if missing:
        raise SourceError(path, 1, f"the header lacks {', '.join(missing)}", _REMEDY)
    rows = text.select(pl.col(column).cast(pl.Int64, strict=False) for column in _COLUMNS)
    valid = pl.all_horizontal(
        pl.col("uid", "pid").is_not_null(), pl.col("domain") == number, pl.col("label").is_in([0, 1])
    )
    odd = rows.select(~valid.fill_null(False)).to_series()
    if odd.any():
        row = odd.arg_max() or 0
        raise SourceError(path, row + 2, f"is no row of domain {number}: {','.join(map(str, text.row(row)))}", _REMEDY)
    return rows.select(
        pl.col("uid").alias("user_id"),
        pl.col("pid").alias("item_id"),
        pl.col("label").cast(pl.Int8),
        pl.lit(part).alias(SPLIT),
    )
