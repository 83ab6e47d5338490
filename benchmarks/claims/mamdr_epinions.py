"""epinions-mdr: all frameworks and multi-domain networks, and MAMDR on three other structures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.claims.line import Line
from benchmarks.claims.mamdr_conflict import aims
from benchmarks.claims.mamdr_contest import Contest, Method, aim
from benchmarks.claims.mamdr_grids import FRAMEWORKS, NETWORKS, framework, network
from benchmarks.claims.workplace import Workplace

NETWORK: dict[str, Any] = {"width": 16, "tower": [64, 32], "dropout": 0.2, "norm": False, "embedding_std": 0.05}
BASE: dict[str, Any] = {"network": NETWORK, "batch_rows": 1024, "epochs": 30, "patience": 3}
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
AGAIN = ("mix", "alternate", "dn", "shared_bottom")
"""Whose seed 0 is run again: the others take too long for a check."""


def prepare(work: Workplace) -> Path:
    """The prepared set, built by the paper's rules; seed 0 of its negatives."""
    folder = work.folder / "epinions-mdr-data"
    if not (folder / "spec.json").exists():
        source = work.data / "epinions"
        work.espalier("data", "build", "epinions-mdr", "--source", str(source), "--out", str(folder))
    return folder


def structures() -> tuple[Method, ...]:
    """Alternate, DN, DR and MAMDR on each of the other structures."""
    return tuple(
        Method(f"{name} {one}", framework(one, **common).grid)
        for name, common in STRUCTURES.items()
        for one in ("alternate", "dn", "dr", "mamdr")
    )


def lines(work: Workplace) -> Iterator[Line]:
    """The two tables, each with what the paper says of its order."""
    data = prepare(work)
    table = (*map(framework, FRAMEWORKS), *(network(name, **SETTINGS.get(name, {})) for name in NETWORKS))
    contest = Contest("mamdr-epinions", BASE, table[1:2] if work.quick else table, again=AGAIN)
    yield from contest.lines(work, data)
    if work.quick:
        return
    yield from aims(contest.name, contest.rows())
    others = Contest("mamdr-structures", BASE, structures(), again=())
    yield from others.lines(work, data)
    rows = others.rows()
    for name in STRUCTURES:
        for better, worse in (("dn", "alternate"), ("mamdr", "alternate")):
            yield aim(others.name, rows, f"{name} {better}", f"{name} {worse}")
