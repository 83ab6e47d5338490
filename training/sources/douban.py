"""Douban: books, music and movies as natural domains, user activity as the auxiliary division.

Source: Zhu et al., A graphical and attentional framework for dual-target cross-domain recommendation (IJCAI 2020).
Label 1 is a rating above 3. Ids of books, music and movies are numbers of their own; here they carry their domain.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from features.fields import Division
from training.errors import SourceError
from training.prepared import DatasetSpec, FieldSpec, PreparedDataset, dataset_facts
from training.sources.counts import check_counts

_REMEDY = "download the Douban data of Zhu et al. again and unpack its text information"
_USERS = "users_cleaned.txt"
_DOMAINS = ("book", "music", "movie")
_PUBLIC = {
    "book": {"rows": 227_251, "users": 2_212, "items": 95_872},
    "music": {"rows": 179_847, "users": 1_820, "items": 79_878},
    "movie": {"rows": 1_278_401, "users": 2_712, "items": 34_893},
}
_LIKED = 3

_FIELDS = (
    FieldSpec(name="user_id", kind="sparse", of="user", column="user_id", id=True),
    FieldSpec(name="item_id", kind="sparse", of="item", column="item_id", id=True),
    FieldSpec(name="living_place", kind="sparse", of="user", column="living_place"),
    FieldSpec(name="joined", kind="sparse", of="user", column="joined"),
    FieldSpec(name="domain", kind="sparse", of="domain", column="domain_id"),
)
_DIVISIONS = (
    Division(name="kind", natural=True, of="domain", domains=_DOMAINS),
    Division(
        name="activity",
        natural=False,
        of="user",
        rule="count:400,1200",
        domains=("activity-low", "activity-middle", "activity-high"),
    ),
)


def douban(source: Path, *, any_size: bool = False) -> PreparedDataset:
    """Read the tables.

    Args:
        source: folder with users_cleaned.txt and {book,music,movie}reviews_cleaned.txt, tab-separated with a header.
        any_size: accept files of other sizes than the public ones.

    Returns:
        The prepared data, sorted by domain, user and item. Of the users only where they live and the month in which
        they joined are kept; both are empty where users_cleaned.txt does not know the user.

    Raises:
        SourceError: a file is missing or broken, or its counts are not the public ones.
    """
    frames = []
    for domain in _DOMAINS:
        path = source / f"{domain}reviews_cleaned.txt"
        reviews = _table(path, ("user_id", f"{domain}_id", "rating"))
        reviews = _integers(reviews, path).rename({f"{domain}_id": "number"})
        if not any_size:
            check_counts(path, _counts(reviews), _PUBLIC[domain], _REMEDY)
        item_id = pl.format("{}-{}", pl.lit(domain), pl.col("number")).alias("item_id")
        label = (pl.col("rating") > _LIKED).cast(pl.Int8).alias("label")
        frames.append(reviews.select("user_id", item_id, pl.lit(domain).alias("domain_id"), label))
    interactions = pl.concat(frames).sort("domain_id", "user_id", "item_id", "label")
    spec = DatasetSpec(name="douban", fields=_FIELDS, divisions=_DIVISIONS, facts=dataset_facts(interactions))
    items = interactions.select(pl.col("item_id").unique().sort())
    return PreparedDataset(spec, interactions, _users(source / _USERS, interactions), items)


def _users(path: Path, interactions: pl.DataFrame) -> pl.DataFrame:
    known = _table(path, ("UID", "living_place", "join_time"))
    user_id = pl.col("UID").cast(pl.Int64, strict=False)
    known = known.select(user_id.alias("user_id"), "living_place", pl.col("join_time").str.slice(0, 7).alias("joined"))
    known = known.filter(pl.col("user_id").is_not_null()).unique("user_id", keep="first", maintain_order=True)
    shown = interactions.select(pl.col("user_id").unique().sort())
    return shown.join(known, on="user_id", how="left", maintain_order="left")


def _table(path: Path, columns: tuple[str, ...]) -> pl.DataFrame:
    try:
        table = pl.read_csv(path, separator="\t", infer_schema=False, columns=list(columns))
    except FileNotFoundError:
        raise SourceError(path, None, "is missing", _REMEDY) from None
    except pl.exceptions.ColumnNotFoundError:
        raise SourceError(path, 1, f"the header lacks one of {', '.join(columns)}", _REMEDY) from None
    except (OSError, pl.exceptions.PolarsError) as error:
        raise SourceError(path, None, f"cannot be read ({str(error).splitlines()[0]})", _REMEDY) from None
    return table.select(columns)


def _integers(reviews: pl.DataFrame, path: Path) -> pl.DataFrame:
    numbers = reviews.with_columns(pl.all().cast(pl.Float64, strict=False).cast(pl.Int64, strict=False))
    odd = numbers.select(pl.any_horizontal(pl.all().is_null())).to_series()
    if odd.any():
        row = odd.arg_max() or 0
        raise SourceError(
            path, None, f"review {row + 1} is no row of numbers ({reviews.row(row, named=True)})", _REMEDY
        )
    return numbers


def _counts(reviews: pl.DataFrame) -> dict[str, int]:
    users, items = reviews["user_id"].n_unique(), reviews["number"].n_unique()
    return {"rows": len(reviews), "users": users, "items": items}
