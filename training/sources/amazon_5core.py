"""Amazon 5-core of 2014: Clothing, Beauty and Health as natural domains, user activity as the auxiliary division.

Source: He & McAuley, Ups and downs (WWW 2016); MultiLoRA's Amazon data. Label 1 is more than 3 stars.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import polars as pl

from features.fields import Division
from training.prepared import SPLIT, DatasetSpec, FieldSpec, PreparedDataset, dataset_facts
from training.sources.counts import check_counts
from training.sources.reviews import read_reviews, review_file

_REMEDY = "download the 5-core files of 2014 from https://jmcauley.ucsd.edu/data/amazon/ again"
_FILES = {
    "clothing": "reviews_Clothing_Shoes_and_Jewelry_5",
    "beauty": "reviews_Beauty_5",
    "health": "reviews_Health_and_Personal_Care_5",
}
_PUBLIC = {
    "clothing": {"rows": 278_677, "users": 39_387, "items": 23_033},
    "beauty": {"rows": 198_502, "users": 22_363, "items": 12_101},
    "health": {"rows": 346_355, "users": 38_609, "items": 18_534},
}
_LIKED = 3
_VALIDATION, _TEST = datetime(2014, 3, 1, tzinfo=UTC), datetime(2014, 4, 30, tzinfo=UTC)

_FIELDS = (
    FieldSpec(name="user_id", kind="sparse", of="user", column="user_id", id=True),
    FieldSpec(name="item_id", kind="sparse", of="item", column="item_id", id=True),
    FieldSpec(name="domain", kind="sparse", of="domain", column="domain_id"),
)
_DIVISIONS = (
    Division(name="category", natural=True, of="domain", domains=tuple(_FILES)),
    Division(
        name="activity",
        natural=False,
        of="user",
        rule="count:6,10",
        domains=("activity-low", "activity-middle", "activity-high"),
    ),
)


def amazon_5core(
    source: Path, *, split: Literal["time", "random"] = "random", any_size: bool = False
) -> PreparedDataset:
    """Read the review files.

    Args:
        source: folder with reviews_Clothing_Shoes_and_Jewelry_5, reviews_Beauty_5 and
            reviews_Health_and_Personal_Care_5, each .json.gz or .json.
        split: random leaves it to the run (8:1:1); time gives it: trained on what is before 1 March 2014, validated
            on what is before 30 April, tested on the rest.
        any_size: accept files of other sizes than the public ones.

    Returns:
        The prepared data, sorted by domain, user, item and time.

    Raises:
        SourceError: a file is missing or broken, or its counts are not the public ones; it names file and line.
    """
    frames = []
    for domain, stem in _FILES.items():
        path = review_file(source, stem, _REMEDY)
        reviews = read_reviews(path, _REMEDY, timed=True)
        if not any_size:
            check_counts(path, _counts(reviews), _PUBLIC[domain], _REMEDY)
        frames.append(reviews.with_columns(domain_id=pl.lit(domain)))
    reviews = pl.concat(frames).sort("domain_id", "user_id", "item_id", "time", "stars")
    label = (pl.col("stars") > _LIKED).cast(pl.Int8).alias("label")
    interactions = reviews.select("user_id", "item_id", "domain_id", label)
    if split == "time":
        interactions = interactions.with_columns(reviews.select(_part()).to_series().alias(SPLIT))
    spec = DatasetSpec(
        name="amazon-5core",
        fields=_FIELDS,
        divisions=_DIVISIONS,
        facts=dataset_facts(interactions, split=split, source="https://jmcauley.ucsd.edu/data/amazon/"),
    )
    users = interactions.select(pl.col("user_id").unique().sort())
    return PreparedDataset(spec, interactions, users, interactions.select(pl.col("item_id").unique().sort()))


def _part() -> pl.Expr:
    time = pl.col("time")
    return (
        pl.when(time < int(_VALIDATION.timestamp()))
        .then(pl.lit("train"))
        .when(time < int(_TEST.timestamp()))
        .then(pl.lit("validation"))
        .otherwise(pl.lit("test"))
    )


def _counts(reviews: pl.DataFrame) -> dict[str, int]:
    users, items = reviews["user_id"].n_unique(), reviews["item_id"].n_unique()
    return {"rows": len(reviews), "users": users, "items": items}
