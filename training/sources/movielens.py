"""MovieLens-1M: three age groups as natural domains, gender as the auxiliary division.

Source: Harper & Konstan, The MovieLens Datasets (2015); the setting is that of the papers (methods.md 2).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from features.fields import Division
from training.errors import SourceError
from training.prepared import DatasetSpec, FieldSpec, PreparedDataset, domain_facts
from training.sources.text import TextTable, read_columns, read_with_header

_REMEDY = "download ml-1m.zip from https://grouplens.org/datasets/movielens/1m/ again and unpack it"
_RATINGS_CSV = ("ratings_no_timestamp.csv.gz", "ratings_no_timestamp.csv")
_AGE_DOMAINS = {
    1: "age-1-18",
    18: "age-1-18",
    25: "age-25",
    35: "age-35-56",
    45: "age-35-56",
    50: "age-35-56",
    56: "age-35-56",
}
_LIKED = 3  # a rating above it is label 1
_OCCUPATIONS = 20


@dataclass(frozen=True)
class _Counts:
    users: int
    movies: int
    ratings: tuple[int, ...]  # of 1 to 5 stars


_PUBLIC = _Counts(users=6_040, movies=3_883, ratings=(56_174, 107_557, 261_197, 348_971, 226_310))

_FIELDS = (
    FieldSpec(name="user_id", kind="sparse", of="user", column="user_id", id=True),
    FieldSpec(name="movie_id", kind="sparse", of="item", column="item_id", id=True),
    FieldSpec(name="gender", kind="sparse", of="user", column="gender"),
    FieldSpec(name="occupation", kind="sparse", of="user", column="occupation"),
    FieldSpec(name="zip", kind="sparse", of="user", column="zip"),
    FieldSpec(name="genre", kind="sparse", of="item", column="genre"),
    FieldSpec(name="domain", kind="sparse", of="domain", column="domain_id"),
    FieldSpec(name="age", kind="dense", of="user", column="age", normalization="min_max"),
)
_DIVISIONS = (
    Division(name="age", natural=True, of="domain", domains=tuple(dict.fromkeys(_AGE_DOMAINS.values()))),
    Division(name="gender", natural=False, of="user", field="gender", rule="value", domains=("gender-F", "gender-M")),
)


def movielens_1m(source: Path, *, any_size: bool = False) -> PreparedDataset:
    """Read the public files of MovieLens-1M.

    Args:
        source: folder with users.dat, movies.dat and one of ratings.dat (with or without the timestamp column),
            ratings_no_timestamp.csv.gz, ratings_no_timestamp.csv.
        any_size: accept files of other sizes than the public ones.

    Returns:
        The prepared data; rows are sorted by user and movie, so every form of the ratings gives the same.

    Raises:
        SourceError: a file is missing or broken, or its counts are not the public ones; it names file and line.
    """
    users, movies, ratings = _users(source / "users.dat"), _movies(source / "movies.dat"), _ratings(source)
    ratings.require(pl.col("user_id").is_in(users.columns["user_id"].to_list()), "user_id is not in users.dat")
    ratings.require(pl.col("movie_id").is_in(movies.columns["movie_id"].to_list()), "movie_id is not in movies.dat")
    if not any_size:
        _check_counts(users, movies, ratings)
    age_domain = pl.col("age").replace_strict(_AGE_DOMAINS, return_dtype=pl.String)
    interactions = (
        ratings.columns.join(users.columns.select("user_id", domain_id=age_domain), on="user_id")
        .select(
            "user_id", pl.col("movie_id").alias("item_id"), "domain_id", label=(pl.col("rating") > _LIKED).cast(pl.Int8)
        )
        .sort("user_id", "item_id")
    )
    items = movies.columns.select(
        pl.col("movie_id").alias("item_id"), genre=pl.col("genres").str.split("|").list.first()
    )
    spec = DatasetSpec(name="movielens-1m", fields=_FIELDS, divisions=_DIVISIONS, facts=_facts(interactions))
    return PreparedDataset(spec, interactions, users.columns.sort("user_id"), items.sort("item_id"))


def _users(path: Path) -> TextTable:
    table = read_columns(path, "::", [("user_id", "gender", "age", "occupation", "zip")], _REMEDY)
    table = table.integers("user_id", "age", "occupation")
    table.require(pl.col("gender").is_in(["F", "M"]), "gender is neither F nor M")
    table.require(pl.col("age").is_in(list(_AGE_DOMAINS)), f"age is none of {', '.join(map(str, _AGE_DOMAINS))}")
    table.require(pl.col("occupation").is_between(0, _OCCUPATIONS), f"occupation is not in 0 to {_OCCUPATIONS}")
    table.unique("user_id")
    return table


def _movies(path: Path) -> TextTable:
    table = read_columns(path, "::", [("movie_id", "title", "genres")], _REMEDY).integers("movie_id")
    table.require(pl.col("genres") != "", "genres are empty")
    table.unique("movie_id")
    return table


def _ratings(source: Path) -> TextTable:
    columns = ("user_id", "movie_id", "rating")
    if (source / "ratings.dat").exists():
        table = read_columns(source / "ratings.dat", "::", [columns, (*columns, "timestamp")], _REMEDY)
    else:
        csv = next((source / name for name in _RATINGS_CSV if (source / name).exists()), None)
        if csv is None:
            names = " nor ".join(("ratings.dat", *_RATINGS_CSV))
            raise SourceError(source, None, f"holds neither {names}", _REMEDY)
        table = read_with_header(csv, ",", columns, _REMEDY)
    table = table.integers(*columns)
    table.require(pl.col("rating").is_between(1, 5), "rating is not in 1 to 5")
    table.unique("user_id", "movie_id")
    return table


def _check_counts(users: TextTable, movies: TextTable, ratings: TextTable) -> None:
    for table, what, expected in ((users, "users", _PUBLIC.users), (movies, "movies", _PUBLIC.movies)):
        _check_count(table, what, len(table.columns), expected)
    _check_count(ratings, "ratings", len(ratings.columns), sum(_PUBLIC.ratings))
    for stars, expected in enumerate(_PUBLIC.ratings, start=1):
        _check_count(ratings, f"ratings of {stars}", int((ratings.columns["rating"] == stars).sum()), expected)


def _check_count(table: TextTable, what: str, found: int, expected: int) -> None:
    if found != expected:
        last = table.first_line + len(table.columns) - 1
        raise SourceError(
            table.path,
            last,
            f"the file ends here with {found:,} {what}, MovieLens-1M has {expected:,}",
            f"{_REMEDY}, or pass --any-size for another set of this form",
        )


def _facts(interactions: pl.DataFrame) -> dict[str, Any]:
    return {
        "rows": len(interactions),
        "users": interactions["user_id"].n_unique(),
        "items": interactions["item_id"].n_unique(),
        "positive": interactions["label"].mean(),
        "domains": domain_facts(interactions),
        "source": "https://grouplens.org/datasets/movielens/1m/",
    }
