"""Laws of epinions-rating: category is the domain, a rating above 3 the label, repeated reviews go first."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from training.dataset import encode, split_of
from training.errors import SourceError
from training.sources.epinions import epinions_rating


def write(folder: Path, **columns: object) -> list[tuple[int, int, int, int]]:
    draw = np.random.default_rng(2)
    reviews = pl.DataFrame(
        {
            "user_id": draw.integers(20, size=300).astype(np.int32),
            "item_id": draw.integers(30, size=300).astype(np.int32),
            "category": draw.choice([1, 2, 14], size=300).astype(np.int8),
            "rating": draw.integers(1, 6, size=300).astype(np.int8),
            "time": [3] * 300,
            **columns,
        }
    )
    reviews.write_parquet(folder / "epinions.parquet")
    return reviews.select("user_id", "item_id", "category", "rating").rows()


def test_the_first_review_of_a_user_and_item_counts(tmp_path: Path) -> None:
    """Law: one row for each user and item, with the category and the label of the first one in the file."""
    first: dict[tuple[int, int], tuple[str, int]] = {}
    for user, item, category, rating in write(tmp_path):
        first.setdefault((user, item), (f"category-{category:02}", int(rating > 3)))
    prepared = epinions_rating(tmp_path, any_size=True)
    prepared.check()
    expected = [(*pair, *first[pair]) for pair in sorted(first)]
    assert prepared.interactions.rows() == expected


def test_categories_and_activity_divide_the_rows(tmp_path: Path) -> None:
    """Law: the natural domains are the categories; every row is of one activity, by its user's training rows."""
    write(tmp_path)
    prepared = epinions_rating(tmp_path, any_size=True)
    dataset = encode(prepared, split_of(prepared, 0).train, 4)
    assert prepared.spec.natural.domains == ("category-01", "category-02", "category-14")
    assert (dataset.division["category"] >= 0).all()
    assert set(dataset.division["activity"].tolist()) == {0}


def test_the_public_file_is_read_as_it_is_distributed(tmp_path: Path) -> None:
    """Law: the MATLAB matrix of six columns gives what the same rows in parquet give, and is taken before those."""
    io = pytest.importorskip("scipy.io", reason="SciPy is not installed")
    write(tmp_path, helpfulness=[4] * 300)
    expected = epinions_rating(tmp_path, any_size=True)
    frame = pl.read_parquet(tmp_path / "epinions.parquet")
    matrix = frame.select("user_id", "item_id", "category", "rating", "helpfulness", "time").to_numpy().astype(float)
    (tmp_path / "epinions.parquet").write_bytes(b"")
    path = tmp_path / "rating_with_timestamp.mat"
    io.savemat(path, {"rating_with_timestamp": matrix})
    found = epinions_rating(tmp_path, any_size=True)
    assert found.interactions.rows() == expected.interactions.rows()
    assert found.spec == expected.spec
    for content, fault in (
        ({"rating": matrix[:, :5]}, "holds 0 matrices of 6 columns"),
        ({"rating": matrix + 0.5}, "no integer"),
    ):
        io.savemat(path, content)
        with pytest.raises(SourceError, match=fault):
            epinions_rating(tmp_path, any_size=True)
    path.write_bytes(b"no MATLAB file")
    with pytest.raises(SourceError, match="cannot be read"):
        epinions_rating(tmp_path, any_size=True)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"rating": [9] * 300}, "holds rating 9, which is not in 1 to 5"),
        ({"rating": ["good"] * 300}, "has no column rating of integers"),
    ],
)
def test_odd_ratings_are_refused(tmp_path: Path, columns: dict[str, object], message: str) -> None:
    """Law: the message names the column and the value."""
    write(tmp_path, **columns)
    with pytest.raises(SourceError, match=message):
        epinions_rating(tmp_path, any_size=True)


def test_another_file_than_the_public_one_needs_any_size(tmp_path: Path) -> None:
    """Law: what was found stands beside what is known."""
    write(tmp_path)
    with pytest.raises(SourceError, match=r"300 rows instead of 922,267 .* --any-size"):
        epinions_rating(tmp_path)
