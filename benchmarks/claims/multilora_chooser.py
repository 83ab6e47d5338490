"""One informative and three noise divisions of the same users: does the chooser rank the informative one first?"""

from __future__ import annotations

import string
from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl

from benchmarks.claims.line import Line, exactly, measured
from benchmarks.claims.workplace import Workplace
from features.fields import Division
from training.chooser.choosing import choose_divisions
from training.chooser.findings import Ranking
from training.config import TrainingConfig
from training.prepared import PreparedDataset
from training.sources.synthetic import SyntheticWorld, synthetic

SEEDS, QUICK_SEEDS = range(5), range(1)
INFORMATIVE = "segment"
NOISE = ("noise-a", "noise-b", "noise-c")
SEGMENTS = 4
STAGE: dict[str, Any] = {"lr": 3e-3, "weight_decay": 3e-4, "batch_rows": 1024, "patience": 2}
SETTINGS: dict[str, Any] = {
    "threads": 1,
    "backbone": {"width": 16, "tower": [64, 32], "embedding_std": 1e-4},
    "pretrain": {**STAGE, "epochs": 12, "dropout": 0.2},
    "adapter": {"ranks": [8, 8]},
    "adapters": {**STAGE, "dropout": 0.0},
    "packed": {},
    "divisions": {"columns": [], "counts": False, "clusters": 0},
}


def lines(work: Workplace) -> Iterator[Line]:
    """Five worlds, each with a backbone of its own."""
    first = []
    for seed in QUICK_SEEDS if work.quick else SEEDS:
        ranking = ranked(work, seed)
        first.append(ranking.findings[0].candidate.division.name)
        gains = ", ".join(f"{one.candidate.division.name} {one.gain.value:+.5f}" for one in ranking.findings)
        chosen = ", ".join(one.division.name for one in ranking.chosen) or "none"
        yield measured(f"chooser, seed {seed}: gain of each division, nats a row", f"{gains}; chosen: {chosen}")
    ranked_first = sum(name == INFORMATIVE for name in first)
    yield exactly("chooser: seeds in which the informative division of four is ranked first", ranked_first, len(first))


def ranked(work: Workplace, seed: int) -> Ranking:
    """What the chooser makes of one world."""
    data = work.folder / f"chooser-data-{seed}"
    world(seed, work.quick).write(data)
    config = TrainingConfig.model_validate({**SETTINGS, "data": data, "seed": seed})
    return choose_divisions(config, work.folder / f"chooser-{seed}", resume=True)


def world(seed: int, quick: bool) -> PreparedDataset:
    """Planted segments of users, and three divisions of the same users at random."""
    rows = 20_000 if quick else 60_000
    prepared = synthetic(SyntheticWorld(seed=seed, rows=rows, users=600, items=200, domains=6, segments=SEGMENTS))
    draw = np.random.default_rng([seed, 1])
    letters = np.array(list(string.ascii_lowercase[:SEGMENTS]))
    columns = {name: pl.Series(name, draw.choice(letters, len(prepared.users))) for name in NOISE}
    noise = tuple(
        Division(
            name=name,
            natural=False,
            of="user",
            field=name,
            rule="value",
            domains=tuple(f"{name}-{letter}" for letter in letters),
        )
        for name in NOISE
    )
    spec = prepared.spec.model_copy(update={"divisions": (*noise, *prepared.spec.divisions)})
    return PreparedDataset(spec, prepared.interactions, prepared.users.with_columns(**columns), prepared.items)
