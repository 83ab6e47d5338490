"""Laws of the MovieLens source: every public form gives the same data; a fault is named by file and line."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from tests.training.movielens_files import MOVIES, RATINGS, USERS, write_movielens
from training.dataset import encode, split_rows
from training.errors import SourceError
from training.prepared import PreparedDataset
from training.sources.movielens import movielens_1m


def test_files_become_interactions_users_and_items(tmp_path: Path) -> None:
    """Label is rating > 3, the domain the user's age group, the genre the first; all users and movies are kept."""
    prepared = movielens_1m(write_movielens(tmp_path), any_size=True)
    assert prepared.interactions.rows() == [
        (1, 1, "age-1-18", 1),
        (1, 2, "age-1-18", 0),
        (2, 1, "age-35-56", 1),
        (3, 2, "age-25", 0),
        (4, 1, "age-35-56", 0),
        (4, 2, "age-35-56", 1),
    ]
    assert prepared.users.row(1, named=True) == {
        "user_id": 2,
        "gender": "M",
        "age": 56,
        "occupation": 16,
        "zip": "70072-1234",
    }
    assert prepared.items.rows() == [(1, "Animation"), (2, "Drama"), (9, "Horror")]
    assert [division.name for division in prepared.spec.divisions] == ["age", "gender"]


@pytest.mark.parametrize("form", ["timestamps", "ratings_no_timestamp.csv.gz", "ratings_no_timestamp.csv"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_every_form_of_the_ratings_gives_the_same_data(tmp_path: Path, form: str, line_end: str) -> None:
    """With or without timestamps, as .dat or CSV, in any order and with either line end: the same rows in one order."""
    plain = movielens_1m(write_movielens(tmp_path / "plain"), any_size=True)
    other = movielens_1m(write_movielens(tmp_path / "other", form=form, line_end=line_end), any_size=True)
    assert other.interactions.equals(plain.interactions)
    assert other.users.equals(plain.users)
    assert other.spec == plain.spec


BROKEN: list[tuple[dict[str, Sequence[str]], str]] = [
    ({"ratings": [*RATINGS, "2::2"]}, "ratings.dat, line 7: does not have 3 columns"),
    ({"ratings": ["1::1", *RATINGS]}, "ratings.dat, line 1: has 2 columns, not 3 or 4"),
    ({"ratings": [*RATINGS[:2], "", *RATINGS[2:]]}, "ratings.dat, line 3: does not have 3 columns"),
    ({"ratings": [*RATINGS, "2::two::3"]}, "ratings.dat, line 7: movie_id is no integer"),
    ({"ratings": [*RATINGS, "2::2::6"]}, "ratings.dat, line 7: rating is not in 1 to 5"),
    ({"ratings": [*RATINGS, "2::2::3.5"]}, "ratings.dat, line 7: rating is no integer"),
    ({"ratings": [*RATINGS, "7::2::3"]}, "ratings.dat, line 7: user_id is not in users.dat"),
    ({"ratings": [*RATINGS, "2::7::3"]}, "ratings.dat, line 7: movie_id is not in movies.dat"),
    ({"ratings": [*RATINGS, "1::1::3"]}, "ratings.dat, line 7: user_id and movie_id already stand above"),
    ({"ratings": []}, "ratings.dat: is empty"),
    ({"users": [*USERS, "5::X::25::1::02139"]}, "users.dat, line 5: gender is neither F nor M"),
    ({"users": [*USERS, "5::F::26::1::02139"]}, "users.dat, line 5: age is none of 1, 18"),
    ({"users": [*USERS, "5::F::25::21::02139"]}, "users.dat, line 5: occupation is not in 0 to 20"),
    ({"users": [*USERS, USERS[0]]}, "users.dat, line 5: user_id already stand"),
    ({"users": [*USERS[:2], "3::M::25::0", *USERS[3:]]}, "users.dat, line 3: does not have 5 columns"),
    ({"movies": [*MOVIES, "10::A::Title::Drama"]}, "movies.dat, line 4: does not have 3 columns"),
    ({"movies": [*MOVIES, "10::A Title::"]}, "movies.dat, line 4: genres are empty"),
]


@pytest.mark.parametrize(("lines", "message"), BROKEN)
def test_a_broken_line_is_named_by_file_and_line(
    tmp_path: Path, lines: Mapping[str, Sequence[str]], message: str
) -> None:
    """The error says where, what is wrong, and what to do."""
    folder = write_movielens(tmp_path, **lines)
    with pytest.raises(SourceError) as caught:
        movielens_1m(folder, any_size=True)
    assert message in str(caught.value)
    assert "download ml-1m.zip" in str(caught.value)


def test_a_csv_line_is_counted_with_its_header(tmp_path: Path) -> None:
    """The line named is the one that an editor shows."""
    folder = write_movielens(tmp_path, ratings=["1::1::9"], form="ratings_no_timestamp.csv")
    with pytest.raises(SourceError, match=r"ratings_no_timestamp\.csv, line 2: rating is not in 1 to 5"):
        movielens_1m(folder, any_size=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [("user_id,rating\n1,5\n", "line 1: the header lacks movie_id"), ("user_id,movie_id,rating\n", "nothing follows")],
)
def test_a_csv_needs_its_columns_and_rows(tmp_path: Path, content: str, message: str) -> None:
    """A header without a needed column, or without rows, is refused."""
    folder = write_movielens(tmp_path, form="ratings_no_timestamp.csv")
    (folder / "ratings_no_timestamp.csv").write_text(content, encoding="latin-1")
    with pytest.raises(SourceError, match=message):
        movielens_1m(folder, any_size=True)


@pytest.mark.parametrize("missing", ["users.dat", "movies.dat", "ratings.dat"])
def test_a_missing_file_is_named(tmp_path: Path, missing: str) -> None:
    """Whichever file is not there, the error names it and where to get it."""
    folder = write_movielens(tmp_path)
    (folder / missing).unlink()
    with pytest.raises(SourceError, match=missing):
        movielens_1m(folder, any_size=True)


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    """A cut .gz is no stack trace."""
    folder = write_movielens(tmp_path, form="ratings_no_timestamp.csv.gz")
    path = folder / "ratings_no_timestamp.csv.gz"
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(SourceError, match=r"csv\.gz: cannot be read"):
        movielens_1m(folder, any_size=True)


def test_other_counts_than_the_public_ones_need_any_size(tmp_path: Path) -> None:
    """A cut download is not silently trained on: the error names the file, both counts and the switch."""
    with pytest.raises(SourceError, match=r"users\.dat, line 4: .* 4 users, MovieLens-1M has 6,040; .*--any-size"):
        movielens_1m(write_movielens(tmp_path))


@pytest.fixture(scope="module")
def public() -> PreparedDataset:
    """The public data set, where this machine has it."""
    repository = Path(__file__).resolve().parents[2]
    folder = Path(os.environ.get("ESPALIER_DATA_DIR", repository.parent / "shared" / "data")) / "ml-1m"
    if not (folder / "users.dat").exists():
        pytest.skip(f"MovieLens-1M is not in {folder}; set ESPALIER_DATA_DIR to test with it")
    return movielens_1m(folder)


def test_the_public_data_has_the_public_facts(public: PreparedDataset) -> None:
    """Rows, users, items and share of positives per age domain are those of the public data set."""
    facts = public.spec.facts
    assert (facts["rows"], facts["users"], facts["items"]) == (1_000_209, 6_040, 3_706)
    found = {d["domain_id"]: (d["rows"], d["users"], d["items"], round(d["positive"], 4)) for d in facts["domains"]}
    assert found == {
        "age-1-18": (210_747, 1_325, 3_429, 0.5524),
        "age-25": (395_556, 2_096, 3_508, 0.5626),
        "age-35-56": (393_906, 2_619, 3_595, 0.5999),
    }
    assert len(public.items) == 3_883


def test_the_public_vocabulary_is_that_of_the_papers(public: PreparedDataset) -> None:
    """13,229 values in seven sparse fields (methods.md 1), and one dense field scaled to [0, 1]."""
    dataset = encode(public, split_rows(len(public.interactions), 0).train, 16)
    sizes: dict[str, Any] = {
        field.name: field.vocabulary_size - 1 for field in dataset.fields if field.kind == "sparse"
    }
    assert sum(sizes.values()) == 13_229
    assert (sizes["zip"], sizes["genre"], sizes["domain"]) == (3_439, 18, 3)
    assert dataset.dense.min() == 0.0
    assert dataset.dense.max() == 1.0
    unrated = public.items.join(public.interactions, on="item_id", how="anti")["item_id"]
    unknown = dataset.items.gather(dataset.items.find(unrated.to_numpy())).arrays
    assert np.all(unknown["movie_id"] == 0)
    assert np.all(unknown["genre"] > 0)
    assert dataset.division["gender"].min() >= 0
    assert pl.Series(dataset.division["age"]).value_counts().sort("")["count"].to_list() == [210_747, 395_556, 393_906]
