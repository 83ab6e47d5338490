"""Planted conflict: all frameworks and multi-domain networks on domains whose gradients disagree by construction."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.claims.line import Line, measured
from benchmarks.claims.mamdr_contest import Contest, Method
from benchmarks.claims.mamdr_grids import FRAMEWORKS, NETWORKS, framework, network
from benchmarks.claims.mamdr_results import write_results
from benchmarks.claims.trainings import fresh
from benchmarks.claims.workplace import Workplace
from training.prepared import PreparedDataset
from training.sources.conflict import ConflictWorld, conflicting

BASE: dict[str, Any] = {
    "network": {"width": 16, "tower": [64, 32], "dropout": 0.2, "norm": False, "embedding_std": 0.05},
    "batch_rows": 128,
    "epochs": 50,
    "patience": 8,
}
AIMS = (("dn", "alternate"), ("dr", "finetune"), ("mamdr", "dr"), ("mamdr", "dn"), ("dr", "alternate"))
"""The paper's order: DN > Alternate, DR > finetune, and its ablation: MAMDR > without DN, without DR > neither."""
SETTINGS: dict[str, dict[str, Any]] = {"mmoe": {"experts": 4}, "plate": {"user_fields": ["user_id", "group"]}}


LONG = ("pcgrad", "maml", "reptile", "mldg", "cgc", "ple")
AGAIN = ("alternate", "dn", "dr", "mamdr", "finetune", "mix", "weighted", *NETWORKS)
"""Whose seed 0 is run again, as far as the time goes; the others take too long for a check."""
AGAIN_MINUTES = 10.0
CORE_HOURS = 1.9


def methods() -> tuple[Method, ...]:
    """Every framework on the plain network, then every multi-domain network under Mix."""
    return (*map(framework, FRAMEWORKS), *(network(name, **SETTINGS.get(name, {})) for name in NETWORKS))


def prepare(work: Workplace) -> Path:
    """The prepared world; seed 0 of everything that is drawn. A try has a smaller one in a folder of its own."""
    folder = fresh(work, "conflict-data-tried" if work.quick else "conflict-data")
    if not (folder / "spec.json").exists():
        world = ConflictWorld(rows=20_000, domains=6) if work.quick else ConflictWorld()
        conflicting(world).write(folder)
    return folder


def contest(quick: bool = False) -> Contest:
    """The table."""
    chosen = methods()[:3] if quick else methods()
    again = [name for name in AGAIN if name not in LONG]
    return Contest(
        "mamdr-conflict", BASE, chosen, AIMS, "mamdr", again, again_minutes=AGAIN_MINUTES, core_hours=CORE_HOURS
    )


def lines(work: Workplace) -> Iterator[Line]:
    """The table, and what the MAMDR paper says of its order."""
    data = prepare(work)
    facts = PreparedDataset.load(data).spec.facts
    yield measured("conflict: best mean per-domain AUC, of the true probabilities", f"{facts['bayes_mean_auc']:.4f}")
    yield from contest(work.quick).lines(work, data)
    if not work.quick:
        write_results()
