"""Taobao-10, -20 and -30: a theme is a domain, every click a positive.

Source: the theme click logs of Tianchi's data set 9716. Themes count in the order in which the log first names them;
only users and items that have an embedding there are kept, and a user's repeated clicks on an item in a theme are one.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from training.builders.assembly import BuildOptions, Held, assemble
from training.builders.rules import Positives
from training.errors import SourceError
from training.prepared import PreparedDataset
from training.progress import Meter
from training.sources.text import read_with_header

CLICKS = "theme_click_log.csv"
EMBEDDINGS = {"user_id": "user_embedding.csv", "item_id": "item_embedding.csv"}
_COLUMNS = ("user_id", "item_id", "theme_id")
_REMEDY = "download data set 9716 from https://tianchi.aliyun.com again and unpack it"


def taobao(name: str, themes: int, source: Path, options: BuildOptions, meter: Meter) -> PreparedDataset:
    """Build a set of the first themes.

    Args:
        name: of the set.
        themes: how many.
        source: folder with theme_click_log.csv, user_embedding.csv and item_embedding.csv; with `any_size` the latter
            two may be missing, and then no user or item is dropped.
        options: of the build.
        meter: where progress goes.

    Raises:
        SourceError: a file is missing or broken, or has too few themes; it names file and line.
        TrainingError: a process died.
    """
    clicks = read_with_header(source / CLICKS, ",", _COLUMNS, _REMEDY).integers(*_COLUMNS).columns.select(_COLUMNS)
    order = clicks["theme_id"].unique(maintain_order=True)
    for key, file in EMBEDDINGS.items():
        if (source / file).exists() or not options.any_size:
            clicks = clicks.join(_embedded(source / file, key), on=key, how="semi", maintain_order="left")
    return assemble(name, "theme", _themes(clicks, order, themes, source / CLICKS), options, meter)


def _themes(clicks: pl.DataFrame, order: pl.Series, themes: int, path: Path) -> list[Held]:
    order = order.filter(order.is_in(clicks["theme_id"].unique().implode()))
    if len(order) < themes:
        raise SourceError(path, None, f"has {len(order)} themes with clicks, not {themes}", _REMEDY)
    held = []
    for theme in order[:themes]:
        own = clicks.filter(pl.col("theme_id") == theme).unique(["user_id", "item_id"])
        held.append(Held(Positives(f"theme-{theme}", own["user_id"], own["item_id"])))
    return held


def _embedded(path: Path, key: str) -> pl.DataFrame:
    """The first column; the vectors beside it are not read into memory."""
    try:
        # the header may leave the first column without a name, and a vector may hold commas
        lines = pl.scan_csv(
            path, separator="\x01", quote_char=None, has_header=False, skip_rows=1, new_columns=["line"]
        )
        ids = lines.select(
            pl.col("line").str.split_exact(",", 1).struct.field("field_0").str.strip_chars('"').alias("text")
        ).collect(engine="streaming")
    except FileNotFoundError:
        raise SourceError(path, None, "is missing", f"{_REMEDY}, or pass --any-size to do without") from None
    except (OSError, pl.exceptions.PolarsError) as error:
        raise SourceError(path, None, f"cannot be read ({str(error).splitlines()[0]})", _REMEDY) from None
    parsed = ids.select(pl.col("text"), pl.col("text").cast(pl.Int64, strict=False).alias(key))
    odd = parsed[key].is_null()
    if odd.any():
        row = odd.arg_max() or 0
        raise SourceError(path, row + 2, f"{key} is no integer ({parsed['text'][row]!r})", _REMEDY)
    return parsed.select(key)
