"""A synthetic world with one division that means something and three that say nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from training.config import TrainingConfig
from training.prepared import PreparedDataset
from training.sources.synthetic import SyntheticWorld, synthetic

INFORMATIVE = "segment"
NOISE = ("noise-1", "noise-2", "noise-3")


def planted(seed: int, rows: int) -> PreparedDataset:
    """Four segments of users who differ in what they like, and three columns of four values drawn at random.

    The segments are a column like the noise: no declared division, and no field of the network.
    """
    world = synthetic(SyntheticWorld(seed=seed, rows=rows, users=rows // 100, items=150, domains=3, segments=4))
    draw = np.random.default_rng([seed, 1])
    noise = [pl.Series(name, draw.integers(4, size=len(world.users)).astype(str)) for name in NOISE]
    natural = tuple(division for division in world.spec.divisions if division.natural)
    fields = tuple(field for field in world.spec.fields if field.name != INFORMATIVE)
    spec = world.spec.model_copy(update={"divisions": natural, "fields": fields})
    return replace(world, spec=spec, users=world.users.with_columns(*noise))


def planted_config(data: Path, seed: int, **divisions: Any) -> TrainingConfig:
    """Settings that train a backbone on it in seconds and probe the four columns."""
    return TrainingConfig.model_validate(
        {
            "data": data,
            "seed": seed,
            "threads": 1,
            "backbone": {"width": 8, "tower": [32, 16]},
            "pretrain": {"lr": 3e-3, "weight_decay": 3e-4, "batch_rows": 1024, "epochs": 4, "dropout": 0.1},
            "adapter": {"ranks": [4, 4]},
            "adapters": {"lr": 3e-3, "weight_decay": 3e-4, "batch_rows": 512, "epochs": 3, "dropout": 0.1},
            "divisions": {"columns": [INFORMATIVE, *NOISE], "counts": False, "clusters": 0, **divisions},
        }
    )
