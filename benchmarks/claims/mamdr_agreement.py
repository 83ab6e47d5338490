"""Do the domains' gradients agree more under Domain Negotiation than under alternate training (MAMDR, Eq. 21)?

Both are what the table of the conflict world has: the configuration that tuning chose, its five seeds, and the epoch
that validation chose. That epoch is then drawn several times, with other orders of the domains, and two things are
told apart: what the gradients have in common whatever the order, and what the order of that one epoch adds.
"""

from __future__ import annotations

import copy
import json
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.claims.line import Line, measured
from benchmarks.claims.mamdr_conflict import contest, prepare
from benchmarks.claims.mamdr_contest import Rows
from benchmarks.claims.mamdr_results import AGREEMENT, IMAGES, write_results
from benchmarks.claims.mamdr_trial import Trial
from benchmarks.claims.trainings import fresh, run_all
from benchmarks.claims.workplace import Workplace
from training.frameworks.agreement import agreement_apart, gradients
from training.frameworks.structure import TABLE
from training.frameworks.table import FRAMEWORKS
from training.trials.kept import ANY_COMMIT, Found, TrialKey
from training.trials.student import paired

PLOT = IMAGES / AGREEMENT
METHODS = ("alternate", "dn")
DRAWS = 10
POINTS = 8
"""Epochs of seed 0 that the plot shows."""
CLAIM = "conflict: mean inner product of domain gradients"
APART, WHOLE = "whatever the order of the domains", "at the end of one epoch, what its order did included"
_COLOURS = {"alternate": "#E69F00", "dn": "#0072B2"}
_OTHER_ORDER = 100_000


@dataclass(frozen=True)
class Watched:
    """One training, and the epochs after which the gradients are looked at.

    Args:
        trial: the training.
        epochs: in ascending order.
        draws: how often such an epoch is run from where it starts.
    """

    trial: Trial
    epochs: tuple[int, ...]
    draws: int = DRAWS

    @property
    def key(self) -> TrialKey:
        """What its result is kept by."""
        name = f"{self.trial.key.config}-{self.epochs}-{self.draws}"
        return TrialKey(self.trial.key.method, self.trial.seed, name, ANY_COMMIT)


def watch(watched: Watched) -> Found:
    """Train, and measure the agreement on the training rows.

    Returns:
        `epochs`, each with its number, the mean inner product `apart` and `whole` (see `agreement_apart`), the mean
        `cosine` of the latter, and the training `loss`.
    """
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="espalier-agreement-") as folder:
        setting = watched.trial.opened(Path(folder)).setting
    framework = FRAMEWORKS[setting.config.framework](setting)
    state = framework.start()
    found = []
    for epoch in range(1, watched.epochs[-1] + 1):
        start = copy.deepcopy(state)
        framework.epoch(state, epoch)
        if epoch in watched.epochs:
            ends = [gradients(setting, state, setting.domains.train)]
            for draw in range(1, watched.draws):
                other = copy.deepcopy(start)
                framework.epoch(other, epoch + draw * _OTHER_ORDER)  # its number is all that an epoch's draws know
                ends.append(gradients(setting, other, setting.domains.train))
            whole, apart = agreement_apart(ends, state.shared[TABLE].shape)
            means = {"apart": apart.mean_inner, "whole": whole.mean_inner, "cosine": whole.mean_cosine}
            found.append({"epoch": epoch, **means, "loss": whole.loss})
    return {"epochs": found}


def plan(rows: Rows, data: Path, quick: bool = False) -> list[Watched]:
    """Every seed to the epoch that was chosen for it; on the way seed 0 is looked at now and then, for the plot."""
    found = []
    for name in METHODS:
        for seed, recorded in enumerate(rows[name].seeds[: 2 if quick else None]):
            last = 2 if quick else int(recorded["epoch"])
            step = max(1, round(last / POINTS)) if seed == 0 else last
            epochs = tuple(sorted(range(last, 0, -step)))
            found.append(Watched(Trial.of(data, rows[name].config, seed), epochs, 2 if quick else DRAWS))
    return sorted(found, key=lambda one: -one.epochs[-1] * (1 + len(one.epochs)))


def plot(path_of: Mapping[str, Sequence[Found]], chosen: Mapping[str, Sequence[Found]], path: Path) -> None:
    """Draw seed 0's way by epoch, and all seeds at the epoch that was chosen for them."""
    figure = Figure((10.0, 4.0), dpi=100, layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, each in path_of.items():
        epochs = [one["epoch"] for one in each]
        left.plot(epochs, [one["apart"] for one in each], "-o", color=_COLOURS[name], label=f"{name}, {APART}")
        left.plot(
            epochs, [one["whole"] for one in each], ":", color=_COLOURS[name], label=f"{name}, at one epoch's end"
        )
    left.set_title("mean inner product of domain gradients, seed 0")
    left.set_xlabel("epoch")
    left.set_yscale("symlog", linthresh=1e-2)
    left.legend(fontsize="small")
    _seeds(right, chosen)
    for axes in (left, right):
        axes.axhline(0.0, color="#DDDDDD")
    figure.savefig(path, metadata={"Software": None})


def _seeds(axes: Axes, chosen: Mapping[str, Sequence[Found]]) -> None:
    places = [(name, kind) for kind in ("apart", "whole") for name in chosen]
    for place, (name, kind) in enumerate(places):
        each = [one[kind] for one in chosen[name]]
        axes.plot([place] * len(each), each, ".", color="#999999")
        axes.plot(place, statistics.mean(each), "o", color=_COLOURS[name])
    labels = {"apart": "whatever\nthe order", "whole": "one\nepoch's end"}
    axes.set_xticks(range(len(places)), [f"{name},\n{labels[kind]}" for name, kind in places])
    axes.set_title("at the epoch that validation chose, each seed")


def lines(work: Workplace) -> Iterator[Line]:
    """What the record's trainings of DN and Alternate come to, told apart from what an epoch's order adds, and not."""
    rows = contest().rows()
    if rows is None:
        yield Line(f"{CLAIM}, {APART}", "no record of the conflict table", "DN > Alternate", "falls short")
        return
    data = prepare(work)
    watched = plan(rows, data, work.quick)
    kept = fresh(work, "agreement")
    found = run_all(watched, watch, _told, kept)
    by_seed = {
        name: [found[one]["epochs"] for one in sorted(watched, key=lambda one: one.trial.seed) if _of(one) == name]
        for name in METHODS
    }
    chosen = {name: [each[-1] for each in seeds] for name, seeds in by_seed.items()}
    if not work.quick:
        PLOT.parent.mkdir(exist_ok=True)
        plot({name: seeds[0] for name, seeds in by_seed.items()}, chosen, PLOT)
        write_results()
    for kind, what in (("apart", APART), ("whole", WHOLE)):
        yield compared(f"{CLAIM}, {what}", [[one[kind] for one in chosen[name]] for name in METHODS])
    for what in ("cosine", "loss"):
        mean = {name: statistics.mean(one[what] for one in chosen[name]) for name in METHODS}
        figure = f"DN {mean['dn']:.4f}, Alternate {mean['alternate']:.4f}"
        yield measured(f"conflict: mean {what} there, at one epoch's end", figure)


def compared(claim: str, values: Sequence[Sequence[float]]) -> Line:
    """DN above Alternate in the mean of the seeds, and told apart from it by the paired 95% interval; no less holds."""
    alternate, dn = values
    difference = paired(dn, alternate)
    interval = ""
    if difference.low is not None and difference.high is not None:
        interval = f"; difference {difference.mean:+.2e} [{difference.low:+.2e}, {difference.high:+.2e}]"
    more = sum(one > other for one, other in zip(dn, alternate, strict=True))
    figure = f"DN {statistics.mean(dn):+.2e}, Alternate {statistics.mean(alternate):+.2e}{interval}"
    told = f"{figure}, more in {more} of {len(dn)} seeds"
    above = difference.low is not None and difference.low > 0
    return Line(claim, told, "DN - Alternate > 0, 95%", "holds" if above else "falls short")


def _told(watched: Watched, found: Found) -> str:
    last = found["epochs"][-1]
    return (
        f"{_of(watched)}, seed {watched.trial.seed}, epoch {last['epoch']}: {last['apart']:+.2e}, {last['whole']:+.2e}"
    )


def _of(watched: Watched) -> str:
    return str(json.loads(watched.trial.config)["framework"])
