"""The rows of a prepared data set, a bounded number at a time: out of memory, or out of their parquet file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import polars as pl

from training.errors import PreparedError

PART_ROWS = 2**20
"""Rows of a part. Sums are taken part by part, so it decides their last bits, wherever the rows are."""


class Interactions(Protocol):
    """n rows with columns."""

    @property
    def columns(self) -> Sequence[str]:
        """Their names."""
        ...

    def __len__(self) -> int:
        """How many rows there are."""
        ...

    def parts(self, *columns: str) -> Iterator[tuple[int, pl.DataFrame]]:
        """The position of its first row, and some columns, of each part, in order; one that is empty where no row is.

        Raises:
            PreparedError: the rows cannot be read, or are not those any more that were there before.
        """
        ...


@dataclass(frozen=True)
class FrameRows:
    """Rows in memory."""

    frame: pl.DataFrame

    @property
    def columns(self) -> Sequence[str]:
        """Their names."""
        return self.frame.columns

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self.frame)

    def parts(self, *columns: str) -> Iterator[tuple[int, pl.DataFrame]]:
        """Slices; see `Interactions.parts`."""
        chosen = self.frame.select(columns)
        for start in _starts(len(chosen)):
            yield start, chosen.slice(start, PART_ROWS)


@dataclass(frozen=True)
class ParquetRows:
    """Rows that stay in a parquet file.

    Args:
        path: the file.
        columns: names of its columns.
        rows: how many there are.
        version: of the file, which is opened again for each part.
    """

    path: Path
    columns: Sequence[str]
    rows: int
    version: tuple[int, ...]

    @classmethod
    def open(cls, path: Path) -> ParquetRows:
        """Look at a file.

        Raises:
            PreparedError: it is missing, or not parquet.
        """
        try:
            scanned = pl.scan_parquet(path)
            columns = scanned.collect_schema().names()
            version = _version(path)
            return cls(path, tuple(columns), scanned.select(pl.len()).collect().item(), version)
        except FileNotFoundError:
            raise PreparedError(f"{path} is missing; run `espalier data prepare` again") from None
        except (OSError, pl.exceptions.PolarsError) as error:
            raise _unreadable(path, error) from None

    def __len__(self) -> int:
        """How many rows there are."""
        return self.rows

    def parts(self, *columns: str) -> Iterator[tuple[int, pl.DataFrame]]:
        """Reads of the file; see `Interactions.parts`."""
        chosen = pl.scan_parquet(self.path).select(columns)
        for start in _starts(self.rows):
            try:
                part = chosen.slice(start, PART_ROWS).collect()
                same = _version(self.path) == self.version
            except (OSError, pl.exceptions.PolarsError) as error:
                raise _unreadable(self.path, error) from None
            if not same:
                raise PreparedError(f"{self.path} was replaced while it was read: start again")
            yield start, part


def _starts(rows: int) -> range:
    return range(0, max(rows, 1), PART_ROWS)


def _version(path: Path) -> tuple[int, ...]:
    """What a file that was replaced or written to has another of."""
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _unreadable(path: Path, error: Exception) -> PreparedError:
    return PreparedError(f"{path} cannot be read: {error}; run `espalier data prepare` again")
