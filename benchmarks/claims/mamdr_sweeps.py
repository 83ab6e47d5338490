"""epinions-mdr: MAMDR over k, alpha and beta, as plots (the paper's figures 8 and 9). FULL=1 runs them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.claims.line import Line, measured
from benchmarks.claims.mamdr_contest import RECORDS
from benchmarks.claims.mamdr_epinions import BASE, prepare
from benchmarks.claims.mamdr_trial import Trial, run_all
from benchmarks.claims.workplace import ROOT, ClaimError, Workplace

RECORD = RECORDS / "mamdr-sweeps.json"
PLOT = ROOT / "docs" / "images" / "mamdr-sweeps.png"
SEEDS = (0, 1)
VALUES: dict[str, tuple[float, ...]] = {
    "k": (1, 2, 3, 5),
    "alpha": (3e-4, 1e-3, 3e-3, 1e-2),
    "beta": (0.1, 0.3, 0.5, 1.0),
}
USUAL = {"k": 1.0, "alpha": 1e-3, "beta": 0.5}
"""One other domain where k is not swept: an epoch passes the rows 1 + 2k times."""
CORE_HOURS = 1.0

Curve = dict[str, list[float]]


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


def sweep(work: Workplace, data: Path) -> dict[str, Curve]:
    """Mean per-domain test AUC of each seed, by what is swept and by its value."""
    trials = {
        (name, value, seed): Trial.of(data, config(**{name: value}), seed)
        for name, values in VALUES.items()
        for value in values
        for seed in SEEDS
    }
    kept = work.folder / "sweeps"
    if not work.reuse:
        shutil.rmtree(kept, ignore_errors=True)
    found = run_all(list(dict.fromkeys(trials.values())), kept)
    return {
        name: {f"{value:g}": [found[trials[name, value, seed]]["test"] for seed in SEEDS] for value in values}
        for name, values in VALUES.items()
    }


def plot(curves: Mapping[str, Curve], path: Path) -> None:
    """Draw each seed's figure and their mean against what is swept."""
    figure = Figure((12.0, 4.0), dpi=100, layout="constrained")
    for axes, (name, curve) in zip(figure.subplots(1, 3, sharey=True), curves.items(), strict=True):
        places = range(len(curve))
        for seed in range(len(SEEDS)):
            axes.plot(places, [each[seed] for each in curve.values()], ".", color="#999999")
        axes.plot(places, [sum(each) / len(each) for each in curve.values()], color="#0072B2")
        axes.set_xticks(list(places), list(curve))
        axes.set_xlabel(name)
    figure.axes[0].set_ylabel("mean per-domain AUC")
    figure.savefig(path, metadata={"Software": None})


def lines(work: Workplace) -> Iterator[Line]:
    """A line for each of k, alpha and beta; what the record says unless FULL=1; none where all is to be quick.

    Raises:
        ClaimError: there is no record yet.
    """
    if work.quick:
        return
    if os.environ.get("FULL") == "1":
        trainings = (sum(map(len, VALUES.values())) - len(VALUES) + 1) * len(SEEDS)
        told = f"about {CORE_HOURS:.1f} core hours, by single epochs"
        print(f"# sweeps: {trainings} trainings of MAMDR; {told}", flush=True)
        curves = sweep(work, prepare(work))
        RECORD.parent.mkdir(parents=True, exist_ok=True)
        RECORD.write_text(json.dumps(curves, indent=1, allow_nan=False) + "\n")
        PLOT.parent.mkdir(exist_ok=True)
        plot(curves, PLOT)
    if not RECORD.exists():
        raise ClaimError(f"{RECORD.relative_to(ROOT)} is not there: FULL=1 makes it")
    for name, curve in json.loads(RECORD.read_text()).items():
        figure = ", ".join(f"{value}: {sum(each) / len(each):.4f}" for value, each in curve.items())
        yield measured(f"mamdr-sweeps: mean per-domain test AUC by {name}, {len(SEEDS)} seeds", figure)
