"""Do the domains' gradients agree more under Domain Negotiation than under alternate training (MAMDR, Eq. 21)?"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from benchmarks.claims.line import Line, Verdict, measured
from benchmarks.claims.mamdr_conflict import BASE, prepare
from benchmarks.claims.mamdr_results import AGREEMENT, IMAGES, write_results
from benchmarks.claims.mamdr_trial import Trial
from benchmarks.claims.workplace import Workplace
from training.frameworks.agreement import Agreement, agreement
from training.frameworks.table import FRAMEWORKS

PLOT = IMAGES / AGREEMENT
EPOCHS = 30
CONFIGS = {
    "alternate": {"framework": "alternate", "inner": {"lr": 1e-3}},
    "dn": {"framework": "dn", "inner": {"lr": 1e-3}, "outer": {"lr": 0.5}},
}
"""The same inner steps, so that the outer step is the whole difference; beta = 1 would be alternate training."""
_COLOURS = {"alternate": "#E69F00", "dn": "#0072B2"}


def series(data: Path, name: str, epochs: int, seed: int) -> list[Agreement]:
    """The agreement on the training rows after each epoch."""
    with tempfile.TemporaryDirectory(prefix="espalier-agreement-") as folder:
        setting = Trial.of(data, {**BASE, **CONFIGS[name]}, seed).opened(Path(folder)).setting
    framework = FRAMEWORKS[setting.config.framework](setting)
    state = framework.start()
    found = []
    for epoch in range(1, epochs + 1):
        framework.epoch(state, epoch)
        found.append(agreement(setting, state, setting.domains.train))
    return found


def at_equal_loss(ours: Sequence[Agreement], others: Sequence[Agreement]) -> list[tuple[Agreement, Agreement]]:
    """Pair each of ours with that of the others whose training loss is nearest: products shrink as the loss does."""
    return [(one, min(others, key=lambda other: abs(other.loss - one.loss))) for one in ours]


def plot(found: Mapping[str, Sequence[Agreement]], path: Path) -> None:
    """Draw the mean inner product and the mean cosine by epoch."""
    figure = Figure((10.0, 4.0), dpi=100, layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, each in found.items():
        epochs = range(1, len(each) + 1)
        left.plot(epochs, [one.mean_inner for one in each], color=_COLOURS[name], label=name)
        right.plot(epochs, [one.mean_cosine for one in each], color=_COLOURS[name], label=name)
    left.set_yscale("symlog", linthresh=1e-4)
    for axes, title in ((left, "mean inner product of domain gradients"), (right, "mean cosine")):
        axes.axhline(0.0, color="#DDDDDD")
        axes.set_title(title)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.legend()
    figure.savefig(path, metadata={"Software": None})


def lines(work: Workplace) -> Iterator[Line]:
    """Seed 0, and the second half of the epochs, where what all domains share has been learned.

    Alternate training ends an epoch on one domain, and the other domains' gradients agree in undoing that: a few epochs
    have a product many times the others'. The median and the cosine are printed beside the mean for that reason.
    """
    torch.set_num_threads(1)
    data = prepare(work)
    epochs = 4 if work.quick else EPOCHS
    found = {name: series(data, name, epochs, seed=0) for name in CONFIGS}
    if not work.quick:
        PLOT.parent.mkdir(exist_ok=True)
        plot(found, PLOT)
        write_results()
    late = {name: each[epochs // 2 :] for name, each in found.items()}
    inner = {name: [one.mean_inner for one in each] for name, each in late.items()}
    mean, median = ({name: of(each) for name, each in inner.items()} for of in (statistics.mean, statistics.median))
    what = f"epochs {epochs // 2 + 1} to {epochs}"
    figure = f"DN {mean['dn']:+.2e}, Alternate {mean['alternate']:+.2e}"
    verdict: Verdict = "holds" if mean["dn"] > mean["alternate"] else "falls short"
    yield Line(f"conflict: mean inner product of domain gradients, {what}", figure, "DN > Alternate", verdict)
    figure = f"DN {median['dn']:+.2e}, Alternate {median['alternate']:+.2e}"
    yield measured("conflict: the same, the median epoch", figure)
    cosine = {name: statistics.mean(one.mean_cosine for one in each) for name, each in late.items()}
    figure = f"DN {cosine['dn']:+.3f}, Alternate {cosine['alternate']:+.3f}"
    yield measured(f"conflict: mean cosine of domain gradients, {what}", figure)
    yield measured("conflict: mean training loss of the domains, the same epochs", _both(late, lambda one: one.loss))
    pairs = at_equal_loss(late["dn"], found["alternate"])
    ours, theirs = (statistics.mean(one.mean_inner for one in side) for side in zip(*pairs, strict=True))
    apart = statistics.mean(abs(one.loss - other.loss) for one, other in pairs)
    claim = f"conflict: mean inner product, each of these DN epochs beside Alternate's of nearest loss ({apart:.4f})"
    yield measured(claim, f"DN {ours:+.2e}, Alternate {theirs:+.2e}")


def _both(late: Mapping[str, Sequence[Agreement]], of: Callable[[Agreement], float]) -> str:
    mean = {name: statistics.mean(map(of, each)) for name, each in late.items()}
    return f"DN {mean['dn']:.4f}, Alternate {mean['alternate']:.4f}"
