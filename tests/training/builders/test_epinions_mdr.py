"""Laws of epinions-mdr: repeated reviews go first, sparse categories stay, the rest is the shared rules."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tests.training.builders.slow_rules import slow_domain
from training.builders.assembly import BuildOptions
from training.builders.epinions_mdr import epinions_mdr
from training.builders.rules import ratios
from training.errors import SourceError
from training.progress import SilentMeter

ANY = BuildOptions(seed=4, any_size=True)


def write(folder: Path, rows: int = 400, **columns: object) -> pl.DataFrame:
    draw = np.random.default_rng(1)
    reviews = pl.DataFrame(
        {
            "user_id": draw.integers(30, size=rows).astype(np.int32),
            "item_id": draw.integers(60, size=rows).astype(np.int32),
            "category": draw.choice([1, 2, 4], size=rows).astype(np.int8),
            "rating": draw.integers(1, 6, size=rows).astype(np.int8),
            **columns,
        }
    )
    reviews = pl.concat([reviews, reviews[:1].with_columns(user_id=pl.lit(99, pl.Int32), category=pl.lit(27, pl.Int8))])
    reviews.write_parquet(folder / "epinions.parquet")
    return reviews


def test_rows_are_those_of_the_slow_rules(tmp_path: Path) -> None:
    """Law: the first review of each user and item counts, in its category; every one that counts is a positive."""
    reviews = write(tmp_path)
    seen: set[tuple[int, int]] = set()
    clicks: dict[int, list[tuple[object, object]]] = {}
    for user, item, category in reviews.select("user_id", "item_id", "category").iter_rows():
        if (user, item) not in seen:
            seen.add((user, item))
            clicks.setdefault(category, []).append((user, item))
    assert len(seen) < len(reviews)
    expected = []
    for category, ratio in zip(sorted(clicks), ratios(4), strict=True):
        expected += slow_domain(f"category-{category:02}", clicks[category], ratio, 4)
    prepared = epinions_mdr(tmp_path, ANY, SilentMeter())
    prepared.check()
    assert prepared.interactions.rows() == expected


def test_a_sparse_category_is_kept(tmp_path: Path) -> None:
    """Law: a category of one review is a domain of one row, which trains."""
    write(tmp_path)
    rows = epinions_mdr(tmp_path, ANY, SilentMeter()).interactions.filter(domain_id="category-27")
    assert rows.select("user_id", "label", "split").rows() == [(99, 1, "train")]


def test_another_file_than_the_public_one_needs_any_size(tmp_path: Path) -> None:
    """Law: the message says what the file has, what the public one has, and what to pass."""
    write(tmp_path)
    with pytest.raises(SourceError, match=r"401 rows instead of 922,267 .* 4 categories instead of 27; .*--any-size"):
        epinions_mdr(tmp_path, BuildOptions(), SilentMeter())


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"category": ["books"] * 400}, "has no column category of integers"),
        ({"item_id": pl.Series([None] + [3] * 399, dtype=pl.Int32)}, "item_id of row 0 is empty"),
    ],
)
def test_a_broken_file_is_refused(tmp_path: Path, columns: dict[str, object], message: str) -> None:
    """Law: the message names the column, and the row where it is empty."""
    write(tmp_path).clear().write_parquet(tmp_path / "epinions.parquet")
    with pytest.raises(SourceError, match="holds no review"):
        epinions_mdr(tmp_path, ANY, SilentMeter())
    draw = pl.DataFrame({"user_id": [1] * 400, "item_id": [2] * 400, "category": [1] * 400})
    draw.with_columns(**{name: pl.Series(values) for name, values in columns.items()}).write_parquet(
        tmp_path / "epinions.parquet"
    )
    with pytest.raises(SourceError, match=message):
        epinions_mdr(tmp_path, ANY, SilentMeter())


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """Law: the message names the file that is looked for."""
    with pytest.raises(SourceError, match=r"epinions\.parquet: is missing"):
        epinions_mdr(tmp_path, ANY, SilentMeter())
