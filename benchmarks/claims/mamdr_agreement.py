"""Do the domains' gradients agree more under Domain Negotiation than under alternate training (MAMDR, Eq. 21)?

In two worlds whose domains contradict each other: that of the conflict table, and one of two camps, a domain each.
Both methods as that table tuned them, and Alternate once more with DN's own inner loop, so that the outer step is the
whole difference; every seed is stopped by the table's own rule. The epoch that validation chose is then run again from
where it starts, with other orders, batches and dropout: a single end of an epoch is mostly what its order made of it.
"""

from __future__ import annotations

import copy
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.claims.line import Line, measured
from benchmarks.claims.mamdr_conflict import contest, prepare
from benchmarks.claims.mamdr_contest import Rows
from benchmarks.claims.mamdr_results import AGREEMENT, IMAGES, write_results
from benchmarks.claims.mamdr_trial import Trial
from benchmarks.claims.trainings import fresh, run_all
from benchmarks.claims.workplace import Workplace
from training.frameworks.agreement import agreement
from training.frameworks.alternate import order_of
from training.frameworks.scoring import domain_aucs, mean_auc
from training.frameworks.table import FRAMEWORKS
from training.sources.conflict import ConflictWorld, conflicting
from training.threads import use_threads
from training.trials.kept import ANY_COMMIT, Found, TrialKey
from training.trials.student import paired

PLOT = IMAGES / AGREEMENT
DRAWS = 10
SEEDS = tuple(range(20))
"""The five of the conflict table and fifteen more: these methods are cheap, and five seeds told nothing apart."""
TWO, TEN = "two domains", "ten domains"
DN, TUNED, ALIKE = "DN", "Alternate", "Alternate with DN's inner loop"
CLAIM = "mean inner product of domain gradients"
_COLOURS = {DN: "#0072B2", TUNED: "#E69F00", ALIKE: "#CC79A7"}
_REDRAWN = 100_000
_SAID = {
    "last": f"{CLAIM}, pairs with the domain that was visited last",
    "others": f"{CLAIM}, pairs without it",
    "cosine": "mean cosine of domain gradients",
    "loss": "mean training loss of the domains there",
}


@dataclass(frozen=True)
class Watched:
    """One training whose gradients are looked at.

    Args:
        name: of the method.
        world: of the data.
        trial: the training.
        draws: how often the chosen epoch is run again.
        by_epoch: look at every epoch too, for the plot.
    """

    name: str
    world: str
    trial: Trial
    draws: int = DRAWS
    by_epoch: bool = False

    @property
    def key(self) -> TrialKey:
        """What its result is kept by."""
        told = f"{self.trial.key.config} {self.world} {self.draws} {self.by_epoch}"
        return TrialKey(self.name, self.trial.seed, told, ANY_COMMIT)


def watch(watched: Watched) -> Found:
    """Train until the mean of the domains' validation AUC no longer rises, and measure on the training rows.

    Returns:
        epoch (that validation chose); inner (mean inner product), last (over pairs with the domain that was visited
        last), others (over pairs without it; not for two domains), cosine and loss, each the mean over the draws;
        by_epoch, the mean inner product after each epoch.
    """
    use_threads(1)
    with tempfile.TemporaryDirectory(prefix="espalier-agreement-") as folder:
        setting = watched.trial.opened(Path(folder)).setting
    framework = FRAMEWORKS[setting.config.framework](setting)
    state = framework.start()
    best, chosen, before = float("-inf"), 0, state
    by_epoch = []
    for epoch in range(1, setting.config.epochs + 1):
        start = copy.deepcopy(state)
        framework.epoch(state, epoch)
        if watched.by_epoch:
            by_epoch.append(agreement(setting, state, setting.domains.train).mean_inner)
        value = mean_auc(domain_aucs(setting, state, setting.domains.stop))
        if value is not None and value > best:
            best, chosen, before = value, epoch, start
        elif epoch - chosen >= setting.config.patience:
            break
    found = []
    for draw in range(1, watched.draws + 1):
        number = chosen + draw * _REDRAWN  # all that an epoch draws is drawn by its number
        end = copy.deepcopy(before)
        framework.epoch(end, number)
        last = order_of(setting, number)[-1]
        seen = agreement(setting, end, setting.domains.train)
        each = {"inner": seen.mean_inner, "last": seen.mean_inner_with(last), "others": seen.mean_inner_without(last)}
        found.append({**each, "cosine": seen.mean_cosine, "loss": seen.loss})
    means: Found = {what: statistics.mean(one[what] for one in found) for what in found[0]}
    if len(setting.domains) == 2:
        del means["others"]
    return {"epoch": chosen, **means, "by_epoch": by_epoch}


def configs(rows: Rows) -> dict[str, Mapping[str, Any]]:
    """What tuning chose for both in the conflict table, and that of Alternate with the inner loop of DN's."""
    alternate, dn = rows["alternate"].config, rows["dn"].config
    return {DN: dn, TUNED: alternate, ALIKE: {**alternate, "inner": dn["inner"]}}


def plan(rows: Rows, worlds: Mapping[str, Path], quick: bool = False) -> list[Watched]:
    """Every method and seed in both worlds; the longest first."""
    changes: dict[str, Any] = {"epochs": 2} if quick else {}
    return [
        Watched(name, world, Trial.of(data, {**config, **changes}, seed), 2 if quick else DRAWS, seed == SEEDS[0])
        for name, config in configs(rows).items()
        for world, data in worlds.items()
        for seed in SEEDS[: 2 if quick else None]
    ]


def lines(work: Workplace) -> Iterator[Line]:
    """Eq. 21 in both worlds, then what pairs with the domain visited last have to do with it."""
    rows = contest().rows()
    if rows is None:
        yield Line(f"conflict: {CLAIM}", "no record of the conflict table", "DN > Alternate", "falls short")
        return
    worlds = {TWO: camps(work), TEN: prepare(work)}
    watched = plan(rows, worlds, work.quick)
    found = run_all(watched, watch, _told, fresh(work, "agreement"))
    seen = {
        world: {name: [found[one] for one in watched if (one.name, one.world) == (name, world)] for name in _COLOURS}
        for world in worlds
    }
    if not work.quick:
        PLOT.parent.mkdir(exist_ok=True)
        plot(seen, PLOT)
        write_results()
    for world, methods in seen.items():
        for name in (TUNED, ALIKE):
            yield compared(f"conflict, {world}: {CLAIM}", methods[DN], name, methods[name])
        for what in ("last", "others", "cosine", "loss") if world == TEN else ("cosine", "loss"):
            yield measured(f"conflict, {world}: {_SAID[what]}", _each(methods, what))


def camps(work: Workplace) -> Path:
    """The prepared world of two domains, which want the opposite of each other beside what they share."""
    folder = fresh(work, "conflict-camps")
    if not (folder / "spec.json").exists():
        rows = 10_000 if work.quick else ConflictWorld.rows
        conflicting(ConflictWorld(rows=rows, domains=2, directions=1)).write(folder)
    return folder


def compared(claim: str, dn: Sequence[Found], name: str, others: Sequence[Found]) -> Line:
    """DN above one form of Alternate in the mean of the seeds, as the aims of the table are judged.

    Where the paired 95% interval holds 0 the seeds cannot tell the two apart, whatever the verdict; the figure says so.
    """
    own, theirs = ([one["inner"] for one in each] for each in (dn, others))
    difference = paired(own, theirs)
    told = f"{statistics.mean(own):+.2e}, {statistics.mean(theirs):+.2e}: {difference.mean:+.2e}"
    if difference.low is not None and difference.high is not None:
        apart = "" if difference.low > 0 or difference.high < 0 else ", not told apart"
        told += f" [{difference.low:+.2e}, {difference.high:+.2e}]{apart}"
    more = sum(one > other for one, other in zip(own, theirs, strict=True))
    told += f"; more in {more} of {len(own)} seeds"
    said = f"{claim}, {DN} - {name}, paired 95% over {len(own)} seeds"
    return Line(said, told, "> 0", "holds" if difference.mean > 0 else "falls short")


def plot(seen: Mapping[str, Mapping[str, Sequence[Found]]], path: Path) -> None:
    """Draw seed 0 by epoch in both worlds, and all seeds at the epoch that was chosen, by kind of pair."""
    figure = Figure((14.0, 4.2), dpi=100, layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for axes, (world, methods) in zip((left, middle), seen.items(), strict=True):
        for name, each in methods.items():
            values = each[0]["by_epoch"]
            axes.plot(range(1, len(values) + 1), values, color=_COLOURS[name], label=name)
        axes.set_yscale("symlog", linthresh=1e-2)
        axes.set_xlabel("epoch")
        axes.set_title(f"{world}: mean inner product, seed 0")
    left.legend(fontsize="small")
    _pairs(right, seen)
    for axes in (left, middle, right):
        axes.axhline(0.0, color="#DDDDDD")
    figure.savefig(path, metadata={"Software": None})


def _pairs(axes: Axes, seen: Mapping[str, Mapping[str, Sequence[Found]]]) -> None:
    kinds = ((TWO, "inner", "two domains"), (TEN, "last", "ten, with\nthe last"), (TEN, "others", "ten, without\nit"))
    for place, (world, what, _) in enumerate(kinds):
        for side, (name, each) in enumerate(seen[world].items()):
            values = [one[what] for one in each]
            at = place + 0.22 * (side - 1)
            axes.plot([at] * len(values), values, ".", color="#999999")
            axes.plot(at, statistics.mean(values), "o", color=_COLOURS[name])
    axes.set_xticks(range(len(kinds)), [said for _, _, said in kinds])
    axes.set_title("pairs of domains, each seed at its best epoch")


def _each(methods: Mapping[str, Sequence[Found]], what: str) -> str:
    form = "+.2e" if what in ("last", "others") else ".4f"
    means = {name: statistics.mean(one[what] for one in each) for name, each in methods.items()}
    return ", ".join(f"{name} {value:{form}}" for name, value in means.items())


def _told(watched: Watched, found: Found) -> str:
    return f"{watched.name}, {watched.world}, seed {watched.trial.seed}, epoch {found['epoch']}: {found['inner']:+.2e}"
