"""epinions-mdr: MAMDR over k, alpha and beta, as plots (the paper's figures 8 and 9). FULL=1 runs them.

Otherwise the figures are those of the record, and seed 0 of the point where the three curves meet is run again.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.claims.line import Line, between, measured, not_measurable
from benchmarks.claims.mamdr_contest import NOT_RECORDED, full
from benchmarks.claims.mamdr_epinions import BASE, prepare
from benchmarks.claims.mamdr_results import SWEEPS, Curves, write_results
from benchmarks.claims.mamdr_trial import Found, Trial, run_all
from benchmarks.claims.trainings import RECORDS, fresh, origin, sittings, write_record
from benchmarks.claims.workplace import Workplace
from training.stages import folder_digest
from training.trials.student import CONFIDENCE, quantile

RECORD = RECORDS / f"{SWEEPS}.json"
SEEDS = (0, 1)
VALUES: dict[str, tuple[float, ...]] = {
    "k": (1, 2, 3, 5),
    "alpha": (3e-4, 1e-3, 3e-3, 1e-2),
    "beta": (0.1, 0.3, 0.5, 1.0),
}
USUAL = {"k": 1.0, "alpha": 1e-3, "beta": 0.5}
"""One other domain where k is not swept: an epoch passes the rows 1 + 2k times."""
CORE_HOURS = 1.0
WHAT = "mamdr-sweeps: mean per-domain test AUC"

Place = tuple[str, float, int]
"""What is swept, its value, and the seed."""


def config(**changes: float) -> dict[str, Any]:
    """MAMDR with its usual k, alpha and beta, some of them replaced."""
    values = {**USUAL, **changes}
    return {
        **BASE,
        "framework": "mamdr",
        "inner": {"lr": values["alpha"]},
        "outer": {"lr": values["beta"]},
        "regularization": {"others": int(values["k"]), "gamma": 0.1},
    }


def trials(data: Path) -> dict[Place, Trial]:
    """Every training, seed by seed; the point where the curves meet is one, however often it stands here."""
    content = folder_digest(data)
    return {
        (name, value, seed): Trial.of(data, config(**{name: value}), seed, content)
        for seed in SEEDS
        for name, values in VALUES.items()
        for value in values
    }


def bill() -> tuple[float, str]:
    """Core hours of FULL=1, and how they are known."""
    if not RECORD.exists():
        return CORE_HOURS, "a guess"
    return float(json.loads(RECORD.read_text())["seconds"]) / 3600, "by the last record"


def sweep(kept: Path, data: Path) -> dict[str, Any]:
    """Train every point whose result is not kept, and return the record."""
    wanted = trials(data)
    found = run_all(list(dict.fromkeys(wanted.values())), kept)
    curves = {
        name: {f"{value:g}": [found[wanted[name, value, seed]]["test"] for seed in SEEDS] for value in values}
        for name, values in VALUES.items()
    }
    seconds = sum(float(one["seconds"]) for one in found.values())
    return {**origin(one["code"] for one in found.values()), "seconds": round(seconds), "curves": curves}


def interval(curves: Curves) -> tuple[float, float]:
    """Where one more training at the usual point may lie, 95%, by what seeds differ by at all points together.

    Two seeds of one point alone would have an interval so wide that it holds anything.
    """
    usual = curves["k"][f"{USUAL['k']:g}"]
    elsewhere = [each for name, curve in curves.items() for value, each in curve.items() if value != f"{USUAL[name]:g}"]
    points = [usual, *elsewhere]  # the curves meet in one point, which counts once
    variance = statistics.mean(map(statistics.variance, points))
    freedom = sum(len(each) - 1 for each in points)
    half = quantile(CONFIDENCE, freedom) * math.sqrt(variance * (1 + 1 / len(usual)))
    return statistics.mean(usual) - half, statistics.mean(usual) + half


def again(work: Workplace, curves: Curves) -> Iterator[Line]:
    """Seed 0 of the usual point."""
    claim = "mamdr-sweeps: the usual k, alpha and beta, seed 0 again, in the recorded 95% interval of a seed"
    if not (work.data / "epinions").exists():
        yield not_measurable(claim, "as recorded", "no data at hand")
        return
    one = trials(prepare(work))["k", USUAL["k"], SEEDS[0]]
    found: Mapping[Trial, Found] = run_all([one], fresh(work, "sweeps"))
    low, high = interval(curves)
    yield between(claim, found[one]["test"], round(low, 4), round(high, 4), digits=4)


def lines(work: Workplace) -> Iterator[Line]:
    """A line for each of k, alpha and beta; what the record says unless FULL=1; none where all is to be quick."""
    if work.quick:
        return
    if full():
        with sittings(SWEEPS, RECORD.parent) as kept:
            write_record(RECORD, sweep(kept, prepare(work)))
    if not RECORD.exists():
        yield Line(f"{WHAT} by k, alpha and beta", NOT_RECORDED, "recorded", "falls short")
        return
    curves: Curves = json.loads(RECORD.read_text())["curves"]
    for name, curve in curves.items():
        figure = ", ".join(f"{value}: {statistics.mean(each):.4f}" for value, each in curve.items())
        yield measured(f"{WHAT} by {name}, {len(SEEDS)} seeds", figure)
    if not full():
        yield from again(work, curves)
    write_results()
