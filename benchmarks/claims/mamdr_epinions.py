"""epinions-mdr: all frameworks and multi-domain networks, and MAMDR on three other structures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.claims.line import Line, not_measurable
from benchmarks.claims.mamdr_conflict import aims
from benchmarks.claims.mamdr_contest import Contest, Method, Row, aim
from benchmarks.claims.mamdr_grids import FRAMEWORKS, JOINT, NETWORKS, framework, network
from benchmarks.claims.workplace import Workplace

NETWORK: dict[str, Any] = {"width": 16, "tower": [64, 32], "dropout": 0.2, "norm": False, "embedding_std": 0.05}
BASE: dict[str, Any] = {"network": NETWORK, "batch_rows": 4096, "epochs": 5, "patience": 2}
"""2.4 million training rows: an epoch of one pass takes 5 s, of seven (k = 3) 36 s, so epochs are few."""
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
AGAIN = ("mix", "alternate", "finetune", "dn", "dr", "mamdr", "shared_bottom")
"""Whose seed 0 is run again: the others take too long for a check."""
STRUCTURES_AGAIN = ("neurfm dn", "deepfm mamdr", "shared_bottom dn")
CORE_HOURS, STRUCTURES_CORE_HOURS = 3.2, 1.5


def prepare(work: Workplace) -> Path:
    """The prepared set, built by the paper's rules; seed 0 of its negatives."""
    folder = work.folder / "epinions-mdr-data"
    if not (folder / "spec.json").exists():
        source = work.data / "epinions"
        work.espalier("data", "build", "epinions-mdr", "--source", str(source), "--out", str(folder))
    return folder


def structures(tuned: Mapping[str, Row]) -> tuple[Method, ...]:
    """Alternate, DN, DR and MAMDR on each of the other structures, as they were tuned on the MLP.

    Args:
        tuned: the rows of the MLP's table.
    """
    regularization = {"others": K, "gamma": 0.1}
    return tuple(
        Method(f"{name} {one}", ({**tuned[one].config, **common, "regularization": regularization},))
        for name, common in STRUCTURES.items()
        for one in ("alternate", "dn", "dr", "mamdr")
    )


def lines(work: Workplace) -> Iterator[Line]:
    """The two tables, each with what the paper says of its order."""
    if not (work.data / "epinions").exists():
        yield not_measurable("epinions-mdr: the table of methods, and of structures", "as recorded", "no data at hand")
        return
    data = prepare(work)
    steps: dict[str, dict[str, Any]] = {name: {"joint_steps": "largest"} for name in JOINT}
    frameworks = (framework(name, VALUES, **steps.get(name, {})) for name in FRAMEWORKS)
    table = (*frameworks, *(network(name, VALUES, **SETTINGS.get(name, {})) for name in NETWORKS))
    contest = Contest("mamdr-epinions", BASE, table[1:2] if work.quick else table, again=AGAIN, core_hours=CORE_HOURS)
    yield from contest.lines(work, data)
    if work.quick:
        return
    yield from aims(contest.name, contest.rows())
    tuned = structures(contest.rows())
    others = Contest("mamdr-structures", BASE, tuned, again=STRUCTURES_AGAIN, core_hours=STRUCTURES_CORE_HOURS)
    yield from others.lines(work, data)
    rows = others.rows()
    for name in STRUCTURES:
        for better, worse in (("dn", "alternate"), ("mamdr", "alternate")):
            yield aim(others.name, rows, f"{name} {better}", f"{name} {worse}")
