"""epinions-mdr: MAMDR on three other structures, as it was tuned on the MLP."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.claims.line import Line, not_measurable
from benchmarks.claims.mamdr_contest import NOT_RECORDED, Contest, Method, Rows
from benchmarks.claims.mamdr_epinions import BASE, NETWORK, contest, prepare
from benchmarks.claims.mamdr_results import write_results
from benchmarks.claims.workplace import Workplace

K = 1
"""Other domains a target meets on the other structures."""
STRUCTURES: dict[str, dict[str, Any]] = {
    "neurfm": {"network": {**NETWORK, "kind": "neurfm"}},
    "deepfm": {"network": {**NETWORK, "kind": "deepfm"}},
    "shared_bottom": {"structure": "shared_bottom"},
}
LEARNED_BY = ("alternate", "dn", "dr", "mamdr")
AGAIN = ("deepfm mamdr", "neurfm dn", "shared_bottom dn")
AGAIN_MINUTES = 5.0
CORE_HOURS = 1.5
"""By single epochs (docs/decisions/)."""


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
        again=AGAIN,
        again_minutes=AGAIN_MINUTES,
        core_hours=CORE_HOURS,
    )


def lines(work: Workplace) -> Iterator[Line]:
    """The table, and what the paper says of its order; none where all is to be quick."""
    if work.quick:
        return
    if not (work.data / "epinions").exists():
        yield not_measurable("epinions-mdr: the table of structures", "as recorded", "no data at hand")
        return
    tuned = contest().rows()
    if tuned is None:
        yield Line("mamdr-structures: the table", NOT_RECORDED, "> 0", "falls short")
        return
    yield from structures_contest(tuned).lines(work, prepare(work))
    write_results()
