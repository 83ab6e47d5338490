"""Epinions reviews with their categories, and the set epinions-rating: does a reviewer like what they review?

Source: Tang, Gao, Liu, mTrust: discerning multi-faceted trust in a connected world (WSDM 2012).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from features.fields import Division
from training.errors import SourceError
from training.prepared import DatasetSpec, FieldSpec, PreparedDataset, dataset_facts
from training.sources.counts import check_counts

FILE, PUBLIC = "epinions.parquet", "rating_with_timestamp.mat"
_COLUMNS = ("user_id", "item_id", "category", "rating", "helpfulness", "time")  # of the public file, in its order
_REMEDY = f"name a folder with {PUBLIC} as it is distributed, or with {FILE}: one row a review, its columns integers"
_PUBLIC = {"rows": 922_267, "users": 22_164, "items": 296_277, "categories": 27}
_LIKED = 3  # a rating above it is label 1
_ACTIVITY = "count:30,200"  # training rows of a user; each of the three has about a third of the rows

_FIELDS = (
    FieldSpec(name="user_id", kind="sparse", of="user", column="user_id", id=True),
    FieldSpec(name="item_id", kind="sparse", of="item", column="item_id", id=True),
    FieldSpec(name="domain", kind="sparse", of="domain", column="domain_id"),
)


def epinions_rating(source: Path, *, any_size: bool = False) -> PreparedDataset:
    """Read the reviews: label 1 is a rating above 3, a category is a domain, user activity the auxiliary division.

    Args:
        source: folder with rating_with_timestamp.mat or epinions.parquet, or the file.
        any_size: accept another file of the same form.

    Returns:
        The prepared data, one row for each user and item, sorted by both.

    Raises:
        SourceError: the file is missing or broken, or its counts are not the known ones.
    """
    reviews = read_reviews(source, ("user_id", "item_id", "category", "rating"), any_size=any_size)
    odd = reviews.filter(~pl.col("rating").is_between(1, 5))
    if len(odd):
        raise SourceError(source, None, f"holds rating {odd['rating'][0]}, which is not in 1 to 5", _REMEDY)
    interactions = reviews.select(
        "user_id", "item_id", domain_id(reviews), (pl.col("rating") > _LIKED).cast(pl.Int8).alias("label")
    ).sort("user_id", "item_id")
    divisions = (
        Division(
            name="category",
            natural=True,
            of="domain",
            domains=tuple(interactions["domain_id"].unique().sort().to_list()),
        ),
        Division(
            name="activity",
            natural=False,
            of="user",
            rule=_ACTIVITY,
            domains=("activity-low", "activity-middle", "activity-high"),
        ),
    )
    spec = DatasetSpec(name="epinions-rating", fields=_FIELDS, divisions=divisions, facts=dataset_facts(interactions))
    users = interactions.select(pl.col("user_id").unique().sort())
    return PreparedDataset(spec, interactions, users, interactions.select(pl.col("item_id").unique().sort()))


def read_reviews(source: Path, columns: Sequence[str], *, any_size: bool) -> pl.DataFrame:
    """Read the reviews; of equal (user, item) the first row stays.

    Args:
        source: folder with rating_with_timestamp.mat or epinions.parquet, or the file.
        columns: what is needed, user_id, item_id and category among it.
        any_size: accept other counts than those of the public file.

    Raises:
        SourceError: the file is missing or broken, or its counts are not the known ones.
    """
    path = source if source.is_file() else source / (PUBLIC if (source / PUBLIC).exists() else FILE)
    reviews = _checked(path, _read_public(path) if path.suffix == ".mat" else _read(path), columns)
    if not any_size:
        _check_counts(reviews, path)
    return reviews.unique(["user_id", "item_id"], keep="first", maintain_order=True)


def domain_id(reviews: pl.DataFrame) -> pl.Expr:
    """The id of each row's category, `category-01` and so on."""
    digits = max(2, len(str(reviews["category"].max())))
    number = pl.col("category").cast(pl.String).str.zfill(digits)
    return pl.format("category-{}", number).alias("domain_id")


def _read(path: Path) -> pl.DataFrame:
    try:
        return pl.read_parquet(path)
    except FileNotFoundError:
        raise SourceError(path, None, "is missing", _REMEDY) from None
    except (OSError, pl.exceptions.PolarsError) as error:
        raise SourceError(path, None, f"cannot be read ({str(error).splitlines()[0]})", _REMEDY) from None


def _read_public(path: Path) -> pl.DataFrame:
    """The one matrix of six columns that the MATLAB file holds, whatever it is called there."""
    try:
        from scipy.io import loadmat
    except ImportError:
        raise SourceError(path, None, "is a MATLAB file, which needs SciPy", "run `pip install scipy`") from None
    try:
        found = loadmat(path)
    except Exception as error:  # whatever SciPy meets in a file that is none
        raise SourceError(path, None, f"cannot be read ({error})", _REMEDY) from None
    named = (value for name, value in found.items() if not name.startswith("__"))
    tables = [value for value in named if value.shape[1:] == (len(_COLUMNS),)]
    if len(tables) != 1:
        raise SourceError(path, None, f"holds {len(tables)} matrices of {len(_COLUMNS)} columns, not one", _REMEDY)
    whole = tables[0].astype("int64")
    if not (whole == tables[0]).all():
        raise SourceError(path, None, "holds a number that is no integer", _REMEDY)
    return pl.DataFrame(whole, schema=list(_COLUMNS))


def _checked(path: Path, reviews: pl.DataFrame, columns: Sequence[str]) -> pl.DataFrame:
    for column in columns:
        if not reviews.schema.get(column, pl.Null()).is_integer():
            raise SourceError(path, None, f"has no column {column} of integers", _REMEDY)
        if reviews[column].null_count():
            raise SourceError(path, None, f"{column} of row {reviews[column].is_null().arg_max()} is empty", _REMEDY)
    if not len(reviews):
        raise SourceError(path, None, "holds no review", _REMEDY)
    return reviews.select(columns)


def _check_counts(reviews: pl.DataFrame, path: Path) -> None:
    found = {
        "rows": len(reviews),
        "users": reviews["user_id"].n_unique(),
        "items": reviews["item_id"].n_unique(),
        "categories": reviews["category"].n_unique(),
    }
    check_counts(path, found, _PUBLIC, "name the public file")
