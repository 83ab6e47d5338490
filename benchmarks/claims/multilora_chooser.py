"""One informative and three noise divisions of the same users: does the chooser rank the informative one first?"""

from __future__ import annotations

import string
from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl

from benchmarks.claims.line import Line, exactly, measured
from benchmarks.claims.trainings import fresh
from benchmarks.claims.workplace import Workplace
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
    "backbone": {"width": 8, "tower": [32, 16]},
    "pretrain": {**STAGE, "epochs": 4, "dropout": 0.1},
    "adapter": {"ranks": [4, 4]},
    "adapters": {**STAGE, "batch_rows": 512, "dropout": 0.1},
    "packed": {},
    "divisions": {"columns": [INFORMATIVE, *NOISE], "counts": False, "clusters": 0},
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
    return choose_divisions(config, fresh(work, f"chooser-{seed}"), resume=True)


def world(seed: int, quick: bool) -> PreparedDataset:
    """Planted segments of users and three columns drawn at random, all four alike to who looks at their form.

    None is a field of the network: what a segment likes is left for a division to find.
    """
    rows = 20_000 if quick else 60_000
    size = SyntheticWorld(seed=seed, rows=rows, users=rows // 100, items=150, domains=3, segments=SEGMENTS)
    prepared = synthetic(size)
    draw = np.random.default_rng([seed, 1])
    letters = np.array(list(string.ascii_lowercase[:SEGMENTS]))
    columns = {name: pl.Series(name, draw.choice(letters, len(prepared.users))) for name in NOISE}
    natural = tuple(division for division in prepared.spec.divisions if division.natural)
    fields = tuple(field for field in prepared.spec.fields if field.name != INFORMATIVE)
    spec = prepared.spec.model_copy(update={"divisions": natural, "fields": fields})
    return PreparedDataset(spec, prepared.interactions, prepared.users.with_columns(**columns), prepared.items)
