"""Delimited text files, read column by column; a fault names the file and the line."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from training.errors import SourceError

_SHOWN_CHARACTERS = 60


@dataclass(frozen=True)
class TextTable:
    """Lines of one file, split into columns of strings.

    Args:
        path: the file, for messages.
        columns: one line of the file each.
        first_line: line number of the first one, counted from 1.
        remedy: what a reader of a message should do.
    """

    path: Path
    columns: pl.DataFrame
    first_line: int
    remedy: str

    def require(self, valid: pl.Expr, fault: str) -> None:
        """Raise SourceError at the first line for which `valid` is not true.

        Args:
            valid: a condition on the columns.
            fault: what is wrong with a line that fails it; the line follows.
        """
        failed = self.columns.select((~valid).fill_null(True).alias("failed"))["failed"]
        row = failed.arg_max()
        if row is not None and failed[row]:
            shown = " ".join(f"{name}={value!r}"[:_SHOWN_CHARACTERS] for name, value in self._row(row).items())
            raise SourceError(self.path, self.first_line + row, f"{fault} ({shown})", self.remedy)

    def integers(self, *names: str) -> TextTable:
        """Turn columns into integers; a SourceError names the first line where one is none."""
        parsed = self.columns.with_columns(pl.col(names).cast(pl.Int64, strict=False).name.suffix("!"))
        checked = TextTable(self.path, parsed, self.first_line, self.remedy)
        for name in names:
            checked.require(pl.col(f"{name}!").is_not_null(), f"{name} is no integer")
        integers = parsed.with_columns(pl.col(f"{name}!").alias(name) for name in names)
        return TextTable(self.path, integers.drop(f"{name}!" for name in names), self.first_line, self.remedy)

    def unique(self, *names: str) -> None:
        """Raise SourceError at the first line whose values of these columns already stand above it."""
        self.require(pl.struct(names).is_first_distinct(), f"{' and '.join(names)} already stand above")

    def _row(self, row: int) -> dict[str, object]:
        return {name: value for name, value in self.columns.row(row, named=True).items() if not name.endswith("!")}


def read_columns(path: Path, separator: str, layouts: Sequence[Sequence[str]], remedy: str) -> TextTable:
    """Read a file without header.

    Args:
        path: latin-1 text.
        separator: between columns.
        layouts: the column names that a line may have; all lines must have as many columns as the first one.
        remedy: what to do when something is wrong.

    Raises:
        SourceError: the file is missing or empty, or a line has another number of columns.
    """
    lines = _lines(path, remedy)
    by_count = {len(layout): layout for layout in layouts}
    count = len(lines[0].split(separator))
    if count not in by_count:
        expected = " or ".join(str(number) for number in sorted(by_count))
        raise SourceError(path, 1, f"has {count} columns, not {expected} separated by {separator!r}", remedy)
    return _split(path, lines, separator, by_count[count], 1, remedy)


def read_with_header(path: Path, separator: str, needed: Sequence[str], remedy: str) -> TextTable:
    """Read a file whose first line names its columns; plain or .gz.

    Args:
        path: latin-1 text.
        separator: between columns.
        needed: columns that must be there.
        remedy: what to do when something is wrong.

    Raises:
        SourceError: the file is missing, empty or damaged, lacks a column, or a line has another number of columns.
    """
    lines = _lines(path, remedy)
    header = lines[0].split(separator)
    missing = [name for name in needed if name not in header]
    if missing:
        raise SourceError(path, 1, f"the header lacks {', '.join(missing)}", remedy)
    if len(lines) == 1:
        raise SourceError(path, 1, "nothing follows the header", remedy)
    return _split(path, lines[1:], separator, header, 2, remedy)


def _lines(path: Path, remedy: str) -> list[str]:
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except FileNotFoundError:
        raise SourceError(path, None, "is missing", remedy) from None
    except (OSError, EOFError, zlib.error) as error:
        raise SourceError(path, None, f"cannot be read ({error})", remedy) from None
    # not splitlines: latin-1 text may hold \x85, which that takes for a line end
    lines = content.decode("latin-1").replace("\r\n", "\n").removesuffix("\n").split("\n")
    if lines == [""]:
        raise SourceError(path, None, "is empty", remedy)
    return lines


def _split(
    path: Path, lines: list[str], separator: str, names: Sequence[str], first_line: int, remedy: str
) -> TextTable:
    table = TextTable(path, pl.DataFrame({"line": lines}), first_line, remedy)
    separators = pl.col("line").str.count_matches(separator, literal=True)
    table.require(separators == len(names) - 1, f"does not have {len(names)} columns separated by {separator!r}")
    parts = pl.col("line").str.split(separator)
    columns = table.columns.select(parts.list.get(position).alias(name) for position, name in enumerate(names))
    return TextTable(path, columns, first_line, remedy)
