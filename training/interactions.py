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
        """The position of its first row, and some columns, of each part, in order.

        Raises:
            PreparedError: the rows cannot be read.
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
        for start in range(0, len(chosen), PART_ROWS):
            yield start, chosen.slice(start, PART_ROWS)


@dataclass(frozen=True)
class ParquetRows:
    """Rows that stay in a parquet file.

    Args:
        path: the file.
        columns: names of its columns.
        rows: how many there are.
    """

    path: Path
    columns: Sequence[str]
    rows: int

    @classmethod
    def open(cls, path: Path) -> ParquetRows:
        """Look at a file.

        Raises:
            PreparedError: it is missing, or not parquet.
        """
        try:
            scanned = pl.scan_parquet(path)
            columns = scanned.collect_schema().names()
            return cls(path, tuple(columns), scanned.select(pl.len()).collect().item())
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
        for start in range(0, self.rows, PART_ROWS):
            try:
                part = chosen.slice(start, PART_ROWS).collect()
            except (OSError, pl.exceptions.PolarsError) as error:
                raise _unreadable(self.path, error) from None
            yield start, part


def _unreadable(path: Path, error: Exception) -> PreparedError:
    return PreparedError(f"{path} cannot be read: {error}; run `espalier data prepare` again")
