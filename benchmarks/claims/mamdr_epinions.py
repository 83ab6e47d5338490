"""epinions-mdr: all frameworks and multi-domain networks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.claims.line import Line, not_measurable
from benchmarks.claims.mamdr_conflict import AIMS
from benchmarks.claims.mamdr_contest import Contest
from benchmarks.claims.mamdr_grids import FRAMEWORKS, JOINT, NETWORKS, framework, network
from benchmarks.claims.mamdr_results import write_results
from benchmarks.claims.trainings import fresh
from benchmarks.claims.workplace import Workplace

NETWORK: dict[str, Any] = {"width": 16, "tower": [64, 32], "dropout": 0.2, "norm": False, "embedding_std": 0.05}
BASE: dict[str, Any] = {"network": NETWORK, "batch_rows": 4096, "epochs": 12, "patience": 3}
"""2.4 million training rows. Mix is at its best after one or two epochs, Alternate and MAMDR after 7 to 12."""
VALUES = 1
"""Of a method's own thing: its usual one, with both step sizes."""
SETTINGS: dict[str, dict[str, Any]] = {
    "mmoe": {"experts": 4},
    "cgc": {"shared_experts": 1},
    "ple": {"shared_experts": 1},
    "plate": {"user_fields": ["user_id"]},
}
AGAIN = ("mamdr", "dn", "alternate", "dr", "finetune", "mix", "shared_bottom")
"""Whose seed 0 is run again, as far as the time goes: the others take too long for a check."""
AGAIN_MINUTES = 14.0
CORE_HOURS = 3.6
"""By single epochs (docs/decisions/); a quarter is PLE."""


def prepare(work: Workplace) -> Path:
    """The prepared set, built by the paper's rules; seed 0 of its negatives."""
    folder = fresh(work, "epinions-mdr-data")
    if not (folder / "spec.json").exists():
        source = work.data / "epinions"
        work.espalier("data", "build", "epinions-mdr", "--source", str(source), "--out", str(folder))
    return folder


def contest(quick: bool = False) -> Contest:
    """The table of all methods on the MLP, and of the networks."""
    steps: dict[str, dict[str, Any]] = {name: {"joint_steps": "largest"} for name in JOINT}
    frameworks = (framework(name, VALUES, **steps.get(name, {})) for name in FRAMEWORKS)
    table = (*frameworks, *(network(name, VALUES, **SETTINGS.get(name, {})) for name in NETWORKS))
    chosen = table[1:2] if quick else table
    return Contest(
        "mamdr-epinions", BASE, chosen, AIMS, "mamdr", AGAIN, again_minutes=AGAIN_MINUTES, core_hours=CORE_HOURS
    )


def lines(work: Workplace) -> Iterator[Line]:
    """The table, and what the paper says of its order."""
    if not (work.data / "epinions").exists():
        yield not_measurable("epinions-mdr: the table of methods", "as recorded", "no data at hand")
        return
    yield from contest(work.quick).lines(work, prepare(work))
    if not work.quick:
        write_results()
