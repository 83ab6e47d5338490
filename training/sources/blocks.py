"""Large text files block by block: memory is that of one block, whatever the file's size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl

from training.errors import SourceError

BLOCK_BYTES = 32 << 20


def read_blocks(
    path: Path, columns: Sequence[str], remedy: str, block_bytes: int = BLOCK_BYTES
) -> Iterator[pl.DataFrame]:
    """Read comma-separated lines without header or quotes.

    Args:
        path: the file.
        columns: their names; where a line has fewer the rest is null.
        remedy: what to do when something is wrong.
        block_bytes: about how many are read at a time; at least a line is.

    Yields:
        Strings, and `line`, counted from 1, of whole lines in the order of the file.

    Raises:
        SourceError: the file is missing or empty, or a line has more columns.
    """
    line = 1
    for block in _whole_lines(path, remedy, block_bytes):
        try:
            frame = pl.read_csv(
                block, has_header=False, quote_char=None, schema=dict.fromkeys(columns, pl.String), infer_schema=False
            )
        except pl.exceptions.PolarsError as error:
            fault = f"cannot be read from here on ({str(error).splitlines()[0]})"
            raise SourceError(path, line, fault, remedy) from None
        yield frame.with_row_index("line", offset=line)
        line += len(frame)
    if line == 1:
        raise SourceError(path, None, "is empty", remedy)


def _whole_lines(path: Path, remedy: str, block_bytes: int) -> Iterator[bytes]:
    rest = b""
    try:
        with path.open("rb") as content:
            while block := content.read(block_bytes):
                whole, newline, after = block.rpartition(b"\n")
                if newline:
                    yield rest + whole + newline
                    rest = after
                else:
                    rest += block
    except FileNotFoundError:
        raise SourceError(path, None, "is missing", remedy) from None
    except OSError as error:
        raise SourceError(path, None, f"cannot be read ({error.strerror})", remedy) from None
    if rest:
        yield rest
