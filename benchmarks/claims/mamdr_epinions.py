"""epinions-mdr: all frameworks and multi-domain networks, and MAMDR on three other structures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.claims.line import Line, not_measurable
from benchmarks.claims.mamdr_conflict import AIMS
from benchmarks.claims.mamdr_contest import NOT_RECORDED, Contest, Method, Rows
from benchmarks.claims.mamdr_grids import FRAMEWORKS, JOINT, NETWORKS, framework, network
from benchmarks.claims.mamdr_results import write_results
from benchmarks.claims.trainings import fresh
from benchmarks.claims.workplace import Workplace

NETWORK: dict[str, Any] = {"width": 16, "tower": [64, 32], "dropout": 0.2, "norm": False, "embedding_std": 0.05}
BASE: dict[str, Any] = {"network": NETWORK, "batch_rows": 4096, "epochs": 12, "patience": 3}
"""2.4 million training rows. Mix is at its best after one or two epochs, Alternate and MAMDR after 7 to 12."""
VALUES = 1
"""Of a method's own thing: its usual one, with both step sizes."""
K = 1
"""Other domains a target meets on the other structures."""
SETTINGS: dict[str, dict[str, Any]] = {
    "mmoe": {"experts": 4},
    "cgc": {"shared_experts": 1},
    "ple": {"shared_experts": 1},
    "plate": {"user_fields": ["user_id"]},
}
STRUCTURES: dict[str, dict[str, Any]] = {
    "neurfm": {"network": {**NETWORK, "kind": "neurfm"}},
    "deepfm": {"network": {**NETWORK, "kind": "deepfm"}},
    "shared_bottom": {"structure": "shared_bottom"},
}
LEARNED_BY = ("alternate", "dn", "dr", "mamdr")
AGAIN = ("mamdr", "dn", "alternate", "dr", "finetune", "mix", "shared_bottom")
"""Whose seed 0 is run again, as far as the time goes: the others take too long for a check."""
AGAIN_MINUTES = 14.0
STRUCTURES_AGAIN = ("deepfm mamdr", "neurfm dn", "shared_bottom dn")
STRUCTURES_AGAIN_MINUTES = 5.0
CORE_HOURS, STRUCTURES_CORE_HOURS = 3.6, 1.5
"""By single epochs (docs/decisions/); a quarter of the first is PLE."""


def prepare(work: Workplace) -> Path:
    """The prepared set, built by the paper's rules; seed 0 of its negatives."""
    folder = fresh(work, "epinions-mdr-data")
    if not (folder / "spec.json").exists():
        source = work.data / "epinions"
        work.espalier("data", "build", "epinions-mdr", "--source", str(source), "--out", str(folder))
    return folder


def structures(tuned: Rows) -> tuple[Method, ...]:
    """Alternate, DN, DR and MAMDR on each of the other structures, as they were tuned on the MLP.

    Args:
        tuned: the rows of the MLP's table.
    """
    regularization = {"others": K, "gamma": 0.1}
    return tuple(
        Method(f"{name} {one}", ({**tuned[one].config, **common, "regularization": regularization},))
        for name, common in STRUCTURES.items()
        for one in LEARNED_BY
    )


def contest(quick: bool = False) -> Contest:
    """The table of all methods on the MLP, and of the networks."""
    steps: dict[str, dict[str, Any]] = {name: {"joint_steps": "largest"} for name in JOINT}
    frameworks = (framework(name, VALUES, **steps.get(name, {})) for name in FRAMEWORKS)
    table = (*frameworks, *(network(name, VALUES, **SETTINGS.get(name, {})) for name in NETWORKS))
    chosen = table[1:2] if quick else table
    return Contest(
        "mamdr-epinions", BASE, chosen, AIMS, "mamdr", AGAIN, again_minutes=AGAIN_MINUTES, core_hours=CORE_HOURS
    )


def structures_contest(tuned: Rows | None) -> Contest:
    """The table of other structures.

    Args:
        tuned: the rows of the MLP's table; None where there are none, and nothing can be trained.
    """
    pairs = (("dn", "alternate"), ("dr", "alternate"), ("mamdr", "alternate"))
    return Contest(
        "mamdr-structures",
        BASE,
        () if tuned is None else structures(tuned),
        [(f"{name} {better}", f"{name} {worse}") for name in STRUCTURES for better, worse in pairs],
        again=STRUCTURES_AGAIN,
        again_minutes=STRUCTURES_AGAIN_MINUTES,
        core_hours=STRUCTURES_CORE_HOURS,
    )


def lines(work: Workplace) -> Iterator[Line]:
    """The two tables, each with what the paper says of its order."""
    if not (work.data / "epinions").exists():
        yield not_measurable("epinions-mdr: the table of methods, and of structures", "as recorded", "no data at hand")
        return
    data = prepare(work)
    table = contest(work.quick)
    yield from table.lines(work, data)
    if work.quick:
        return
    tuned = table.rows()
    if tuned is None:
        yield Line("mamdr-structures: the table", NOT_RECORDED, "> 0", "falls short")
    else:
        yield from structures_contest(tuned).lines(work, data)
    write_results()
