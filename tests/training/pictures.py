"""A field that brings its own vectors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from training.prepared import DatasetSpec, FieldSpec, PreparedDataset

PICTURE = FieldSpec(name="picture", kind="sparse", of="item", column="item_id", vectors="pixels")


def with_pictures(small_world: Path, pixels: Any = None) -> PreparedDataset:
    """The small world, each of its items with three numbers."""
    prepared = PreparedDataset.load(small_world)
    drawn = np.random.default_rng(0).normal(size=(len(prepared.items), 3)).round(4).tolist()
    items = prepared.items.with_columns(pl.Series("pixels", drawn if pixels is None else pixels, strict=False))
    spec = DatasetSpec(**{**dict(prepared.spec), "fields": (*prepared.spec.fields, PICTURE)})
    return replace(prepared, spec=spec, items=items)
