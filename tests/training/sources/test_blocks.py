"""Laws of reading block by block: the same rows with blocks of any size, and line numbers that hold."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from training.errors import SourceError
from training.sources.blocks import read_blocks

LINES = [f"{number},{'x' * (number % 7)}\x01y" for number in range(1, 60)]


@pytest.mark.parametrize("end", ["\n", ""])
@pytest.mark.parametrize("block_bytes", [1, 13, 100, 10_000])
def test_blocks_together_are_the_file(tmp_path: Path, block_bytes: int, end: str) -> None:
    """Law: every line once, in order, with its number, wherever a block ends."""
    (tmp_path / "f.csv").write_text("\n".join(LINES) + end)
    rows = pl.concat(read_blocks(tmp_path / "f.csv", ("a", "b"), "again", block_bytes))
    assert rows["line"].to_list() == list(range(1, 60))
    assert [f"{a},{b}" for a, b in rows.select("a", "b").iter_rows()] == LINES


def test_a_short_line_is_filled_up_and_a_long_one_refused(tmp_path: Path) -> None:
    """Law: what a line lacks is null; a line with more columns is refused, from its block's first line on."""
    (tmp_path / "f.csv").write_text("1,2\n3\n")
    assert pl.concat(read_blocks(tmp_path / "f.csv", ("a", "b"), "again")).rows() == [(1, "1", "2"), (2, "3", None)]
    (tmp_path / "f.csv").write_text("1,2\n3,4\n5,6,7\n")
    with pytest.raises(SourceError, match="line 3: cannot be read from here on"):
        list(read_blocks(tmp_path / "f.csv", ("a", "b"), "again", 4))


def test_nothing_is_refused(tmp_path: Path) -> None:
    """Law: a file that is missing or empty is named."""
    with pytest.raises(SourceError, match=r"f\.csv: is missing; again"):
        list(read_blocks(tmp_path / "f.csv", ("a",), "again"))
    (tmp_path / "f.csv").write_text("")
    with pytest.raises(SourceError, match=r"f\.csv: is empty"):
        list(read_blocks(tmp_path / "f.csv", ("a",), "again"))
