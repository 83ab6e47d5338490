"""Taobao-10, -20 and -30: a theme is a domain, every click a positive.

Source: the theme click logs of Tianchi's data set 9716. Themes count in the order in which the log first names them;
only users and items that have an embedding there are kept, and a user's repeated clicks on an item in a theme are one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
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
VECTORS = "embedding"
"""Column of users.parquet and items.parquet with the vectors, where they are asked for."""
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_COLUMNS = ("user_id", "item_id", "theme_id")
_REMEDY = "download data set 9716 from https://tianchi.aliyun.com again and unpack it"


def taobao(name: str, themes: int, source: Path, options: BuildOptions, meter: Meter) -> PreparedDataset:
    """Build a set of the first themes.

    Args:
        name: of the set.
        themes: how many.
        source: folder with theme_click_log.csv, user_embedding.csv and item_embedding.csv; with `any_size` the latter
            two may be missing, and then no user or item is dropped.
        options: of the build; with `vectors` users and items have those of the embedding files, never trained.
        meter: where progress goes.

    Raises:
        SourceError: a file is missing or broken, or has too few themes; it names file and line.
        TrainingError: a process died.
    """
    clicks = read_with_header(source / CLICKS, ",", _COLUMNS, _REMEDY).integers(*_COLUMNS).columns.select(_COLUMNS)
    order = clicks["theme_id"].unique(maintain_order=True)
    for key, file in EMBEDDINGS.items():
        if (source / file).exists() or not options.any_size or options.vectors:
            clicks = clicks.join(_embedded(source / file, key), on=key, how="semi", maintain_order="left")
    prepared = assemble(name, "theme", _themes(clicks, order, themes, source / CLICKS), options, meter)
    return _with_vectors(prepared, source) if options.vectors else prepared


def _themes(clicks: pl.DataFrame, order: pl.Series, themes: int, path: Path) -> list[Held]:
    order = order.filter(order.is_in(clicks["theme_id"].unique().implode()))
    if len(order) < themes:
        raise SourceError(path, None, f"has {len(order)} themes with clicks, not {themes}", _REMEDY)
    held = []
    for theme in order[:themes]:
        own = clicks.filter(pl.col("theme_id") == theme).unique(["user_id", "item_id"])
        held.append(Held(Positives(f"theme-{theme}", own["user_id"], own["item_id"])))
    return held


def _with_vectors(prepared: PreparedDataset, source: Path) -> PreparedDataset:
    """Give users and items their vectors; all of them have one, for the others were left out."""
    tables = {"user_id": prepared.users, "item_id": prepared.items}
    found = {
        key: table.join(_vectors(source / EMBEDDINGS[key], key, table[key]), on=key, how="left", maintain_order="left")
        for key, table in tables.items()
    }
    fields = tuple(
        field.model_copy(update={"vectors": VECTORS}) if field.column in EMBEDDINGS else field
        for field in prepared.spec.fields
    )
    spec = prepared.spec.model_copy(update={"fields": fields})
    return replace(prepared, spec=spec, users=found["user_id"], items=found["item_id"])


def _vectors(path: Path, key: str, ids: pl.Series) -> pl.DataFrame:
    """The ids asked for, each with its vector: every number behind the id, however they are parted and quoted."""
    text = pl.col("line").str.splitn(",", 2).struct

    def asked(lines: pl.LazyFrame) -> pl.LazyFrame:
        parted = lines.with_row_index("place", offset=2).select(
            "place",
            text.field("field_0").str.strip_chars('"').cast(pl.Int64, strict=False).alias(key),
            text.field("field_1").alias("rest"),
        )
        of_ids = parted.filter(pl.col(key).is_in(ids.implode())).unique(key, keep="first", maintain_order=True)
        return of_ids.select("place", key, pl.col("rest").str.extract_all(_NUMBER).alias(VECTORS))

    found = _read(path, asked)
    widths = found[VECTORS].list.len().fill_null(0)
    odd = (widths != widths[0]) | (widths == 0)
    if odd.any():
        row = odd.arg_max() or 0
        fault = f"has {widths[row]} numbers behind its id, other lines have {max(widths.to_list())}"
        raise SourceError(path, found["place"][row], fault, _REMEDY)
    return found.select(key, pl.col(VECTORS).cast(pl.List(pl.Float32)))


def _embedded(path: Path, key: str) -> pl.DataFrame:
    """The first column; the vectors beside it are not read into memory."""
    first = pl.col("line").str.split_exact(",", 1).struct.field("field_0").str.strip_chars('"')
    ids = _read(path, lambda lines: lines.select(first.alias("text")))
    parsed = ids.select(pl.col("text"), pl.col("text").cast(pl.Int64, strict=False).alias(key))
    odd = parsed[key].is_null()
    if odd.any():
        row = odd.arg_max() or 0
        raise SourceError(path, row + 2, f"{key} is no integer ({parsed['text'][row]!r})", _REMEDY)
    return parsed.select(key)


def _read(path: Path, of: Callable[[pl.LazyFrame], pl.LazyFrame]) -> pl.DataFrame:
    """What is made of the lines behind the header; not all of them are in memory at once."""
    try:
        # the header may leave the first column without a name, and a vector may hold commas
        lines = pl.scan_csv(
            path, separator="\x01", quote_char=None, has_header=False, skip_rows=1, new_columns=["line"]
        )
        return of(lines).collect(engine="streaming")
    except FileNotFoundError:
        raise SourceError(path, None, "is missing", f"{_REMEDY}, or pass --any-size to do without") from None
    except (OSError, pl.exceptions.PolarsError) as error:
        raise SourceError(path, None, f"cannot be read ({str(error).splitlines()[0]})", _REMEDY) from None
