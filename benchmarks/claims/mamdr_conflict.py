"""Planted conflict: all frameworks and multi-domain networks on domains whose gradients disagree by construction."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.claims.line import Line, measured
from benchmarks.claims.mamdr_contest import Contest, Method, Row, aim
from benchmarks.claims.mamdr_grids import FRAMEWORKS, NETWORKS, framework, network
from benchmarks.claims.workplace import Workplace
from training.prepared import PreparedDataset
from training.sources.conflict import ConflictWorld, conflicting

BASE: dict[str, Any] = {
    "network": {"width": 16, "tower": [64, 32], "dropout": 0.2, "norm": False, "embedding_std": 0.05},
    "batch_rows": 128,
    "epochs": 25,
    "patience": 4,
}
AIMS = (("dn", "alternate"), ("dr", "finetune"), ("mamdr", "dr"), ("mamdr", "dn"), ("dr", "alternate"))
SETTINGS: dict[str, dict[str, Any]] = {"mmoe": {"experts": 4}, "plate": {"user_fields": ["user_id", "group"]}}


LONG = ("pcgrad", "maml", "reptile", "mldg", "cgc", "ple")
AGAIN = tuple(name for name in (*FRAMEWORKS, *NETWORKS) if name not in LONG)
"""Whose seed 0 is run again; the others take too long for a check."""
CORE_HOURS = 1.9


def methods() -> tuple[Method, ...]:
    """Every framework on the plain network, then every multi-domain network under Mix."""
    return (*map(framework, FRAMEWORKS), *(network(name, **SETTINGS.get(name, {})) for name in NETWORKS))


def prepare(work: Workplace) -> Path:
    """The prepared world; seed 0 of everything that is drawn."""
    folder = work.folder / "conflict-data"
    if not (folder / "spec.json").exists():
        world = ConflictWorld(rows=20_000, domains=6) if work.quick else ConflictWorld()
        conflicting(world).write(folder)
    return folder


def lines(work: Workplace) -> Iterator[Line]:
    """The table, and what the MAMDR paper says of its order."""
    data = prepare(work)
    facts = PreparedDataset.load(data).spec.facts
    yield measured("conflict: best mean per-domain AUC, of the true probabilities", f"{facts['bayes_mean_auc']:.4f}")
    chosen = methods()[:3] if work.quick else methods()
    contest = Contest("mamdr-conflict", BASE, chosen, again=AGAIN, core_hours=CORE_HOURS)
    yield from contest.lines(work, data)
    if not work.quick:
        yield from aims(contest.name, contest.rows())


def aims(name: str, rows: Mapping[str, Row]) -> Iterator[Line]:
    """The paper's order: DN > Alternate, DR > finetune, MAMDR best, and its ablation."""
    for better, worse in AIMS:
        yield aim(name, rows, better, worse)
    others = [other for other in rows if other != "mamdr"]
    best = max(others, key=lambda other: sum(rows[other].means))
    yield aim(name, rows, "mamdr", best)
