"""epinions-mdr: Epinions reviews, a category is a domain, sparse ones too; every review is a positive.

Source: the reviews with categories of Tang, Gao and Liu (WSDM 2012). A user's further reviews of an item are removed
first: of equal (user, item) the first row stays, in whichever category it is. Negatives and the split are those of the
other sets.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from training.builders.assembly import BuildOptions, Held, assemble
from training.builders.rules import Positives
from training.errors import SourceError
from training.prepared import PreparedDataset
from training.progress import Meter

FILE = "epinions.parquet"
_COLUMNS = ("user_id", "item_id", "category")
_REMEDY = f"name a folder with {FILE}: one row a review, with integers {', '.join(_COLUMNS)}"
_PUBLIC = {"rows": 922_267, "users": 22_164, "items": 296_277, "categories": 27}


def epinions_mdr(source: Path, options: BuildOptions, meter: Meter) -> PreparedDataset:
    """Build the set.

    Args:
        source: folder with epinions.parquet, or the file.
        options: of the build.
        meter: where progress goes.

    Raises:
        SourceError: the file is missing or broken, or its counts are not the known ones.
        TrainingError: a process died.
    """
    path = source if source.is_file() else source / FILE
    reviews = _read(path)
    if not options.any_size:
        _check_counts(reviews, path)
    reviews = reviews.unique(["user_id", "item_id"], keep="first", maintain_order=True)
    digits = max(2, len(str(reviews["category"].max())))
    sources = []
    for (category,), own in reviews.sort("category").group_by(["category"], maintain_order=True):
        domain = f"category-{category:0{digits}}"
        sources.append(Held(Positives(domain, own["user_id"], own["item_id"])))
    return assemble("epinions-mdr", "category", sources, options, meter)


def _read(path: Path) -> pl.DataFrame:
    try:
        reviews = pl.read_parquet(path)
    except FileNotFoundError:
        raise SourceError(path, None, "is missing", _REMEDY) from None
    except (OSError, pl.exceptions.PolarsError) as error:
        raise SourceError(path, None, f"cannot be read ({error})", _REMEDY) from None
    for column in _COLUMNS:
        if not reviews.schema.get(column, pl.Null()).is_integer():
            raise SourceError(path, None, f"has no column {column} of integers", _REMEDY)
        if reviews[column].null_count():
            raise SourceError(path, None, f"{column} of row {reviews[column].is_null().arg_max()} is empty", _REMEDY)
    if not len(reviews):
        raise SourceError(path, None, "holds no review", _REMEDY)
    return reviews.select(_COLUMNS)


def _check_counts(reviews: pl.DataFrame, path: Path) -> None:
    found = {
        "rows": len(reviews),
        "users": reviews["user_id"].n_unique(),
        "items": reviews["item_id"].n_unique(),
        "categories": reviews["category"].n_unique(),
    }
    odd = [f"{found[what]:,} {what} instead of {known:,}" for what, known in _PUBLIC.items() if found[what] != known]
    if odd:
        raise SourceError(path, None, f"has {' and '.join(odd)}", "pass --any-size for another set of this form")
