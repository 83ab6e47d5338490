"""The report's pictures. Figures are made directly, without pyplot, so nothing global is touched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from training.figures import DISPLAY, Evaluation, Figures

_SIZE_INCHES, _DPI = (12.0, 6.0), 100
_MOST_DOMAINS = 16
"""Domains in a picture: the largest; a report in words has the others too."""
_BEST = "best possible (Bayes)"
_INK, _PALE = "#333333", "#DDDDDD"


@dataclass(frozen=True)
class _Style:
    """How a method is drawn; colours of Okabe and Ito (2008), told apart by shape as well."""

    method: str
    colour: str
    marker: str


_STYLES = (
    _Style("backbone", "#666666", "o"),
    _Style("single_lora", "#E69F00", "s"),
    _Style("multi_lora", "#0072B2", "D"),
    _Style("finetune", "#009E73", "^"),
    _Style("single", "#CC79A7", "v"),
)
_CURVES = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#666666", "#F0E442")


def plot_auc(evaluation: Evaluation, path: Path) -> None:
    """Draw AUC per domain above, and below it what each method adds to the backbone, both with 95% intervals.

    Args:
        evaluation: of a run; methods that it lacks are left out.
        path: PNG to write, 1200 x 600 pixels.
    """
    styles = [style for style in _STYLES if style.method in evaluation.methods]
    scopes = evaluation.domains_by_rows()[:_MOST_DOMAINS]
    figure = Figure(_SIZE_INCHES, dpi=_DPI, layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    for style, step in zip(styles, _offsets(len(styles), 0.2), strict=True):
        method = evaluation.methods[style.method]
        figures = [method.pooled, *(method.domains[name] for name in scopes)]
        _draw_auc(top, figures, style, step)
        _draw_difference(bottom, figures, style, step)
    if evaluation.bayes is not None:
        best = [evaluation.bayes.pooled.auc, *(evaluation.bayes.domains[name].auc for name in scopes)]
        _draw_best(top, best)
    _dress(top, bottom, evaluation, scopes)
    figure.savefig(path, metadata={"Software": None})


def _offsets(count: int, step: float) -> list[float]:
    return [(place - (count - 1) / 2) * step for place in range(count)]


def _draw_auc(axes: Axes, figures: Sequence[Figures], style: _Style, step: float) -> None:
    points = [(place + step, f.auc, f.low, f.high) for place, f in enumerate(figures) if f.auc is not None]
    _draw(axes, [(x, value, low or value, high or value) for x, value, low, high in points], style)


def _draw_difference(axes: Axes, figures: Sequence[Figures], style: _Style, step: float) -> None:
    found = [(place + step, f.difference) for place, f in enumerate(figures) if f.difference is not None]
    _draw(axes, [(x, d.value, d.low, d.high) for x, d in found], style)


def _draw(axes: Axes, points: Sequence[tuple[float, float, float, float]], style: _Style) -> None:
    """Draw points (x, value, low, high) with their intervals."""
    if not points:
        return
    x, value, low, high = (list(column) for column in zip(*points, strict=True))
    ends = [
        [max(v - end, 0.0) for v, end in zip(value, low, strict=True)],
        [max(end - v, 0.0) for v, end in zip(value, high, strict=True)],
    ]
    axes.errorbar(
        x,
        value,
        yerr=ends,
        fmt=style.marker,
        color=style.colour,
        markersize=6.5,
        elinewidth=1.6,
        capsize=3,
        label=DISPLAY.get(style.method, style.method),
        zorder=3,
    )


def _draw_best(axes: Axes, best: Sequence[float | None]) -> None:
    places = [(place, value) for place, value in enumerate(best) if value is not None]
    axes.hlines(
        [value for _, value in places],
        [place - 0.36 for place, _ in places],
        [place + 0.36 for place, _ in places],
        colors=_INK,
        linestyles=(0, (4, 2)),
        linewidth=1.4,
        label=_BEST,
        zorder=2,
    )


def _dress(top: Axes, bottom: Axes, evaluation: Evaluation, scopes: Sequence[str]) -> None:
    first = next(iter(evaluation.methods.values()))
    names = [f"all\n{first.pooled.rows:,}", *(f"{name}\n{first.domains[name].rows:,}" for name in scopes)]
    crowded = max(len(name.split("\n")[0]) for name in names) * len(names) > 130
    turned: dict[str, Any] = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if crowded else {}
    bottom.set_xticks(range(len(names)), names, fontsize="small" if len(names) > 10 else "medium", **turned)
    bottom.set_xlim(-0.5, len(names) - 0.5)
    bottom.set_xlabel("domain and its test rows; the largest first", color=_INK)
    bottom.axhline(0.0, color=_STYLES[0].colour, linewidth=1.2, zorder=1)
    bottom.set_ylabel("AUC minus backbone's", color=_INK)
    top.set_ylabel("test AUC", color=_INK)
    rest = f", the {len(scopes)} largest of {len(first.domains)} domains" if len(first.domains) > len(scopes) else ""
    top.set_title(f"Test AUC by domain, with {evaluation.confidence:.0%} intervals{rest}", loc="left", color=_INK)
    for axes in (top, bottom):
        _calm(axes)
        axes.axvline(0.5, color=_INK, linewidth=0.8)
        for edge in range(1, len(names) - 1):
            axes.axvline(edge + 0.5, color=_PALE, linewidth=0.8, zorder=0)
    top.tick_params(axis="x", length=0)
    _say_what_is_missing(top, [first.pooled, *(first.domains[name] for name in scopes)])
    marks, labels = top.get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda place: labels[place] == _BEST)
    top.legend(
        [marks[place] for place in order],
        [labels[place] for place in order],
        loc="lower right",
        bbox_to_anchor=(1.0, 1.0),
        borderaxespad=0.1,
        ncols=len(labels),
        columnspacing=1.4,
        frameon=False,
    )


def _say_what_is_missing(axes: Axes, figures: Sequence[Figures]) -> None:
    for place, f in enumerate(figures):
        if f.auc is None:
            why = "one class only" if f.rows else "no rows"
            axes.text(
                place, 0.5, why, rotation=90, color=_INK, transform=axes.get_xaxis_transform(), ha="center", va="center"
            )


def _calm(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color=_PALE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_INK)


def plot_learning(record: Mapping[str, Any], path: Path) -> bool:
    """Draw validation AUC by epoch: of the backbone, and of adapters and fusion against their start.

    Args:
        record: what `training.notes.training_record` gives; parts that it lacks are left out.
        path: PNG to write.

    Returns:
        Whether there was anything to draw.
    """
    panels = list(_panels(record))
    if not panels:
        return False
    figure = Figure((12.0, 4.5), dpi=_DPI, layout="constrained")
    for axes, (title, curves, relative) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for number, (name, curve) in enumerate(curves.items()):
            line = "-o" if number < len(_CURVES) else "--o"
            _draw_curve(axes, name, curve, (_CURVES[number % len(_CURVES)], line), relative)
        axes.set_title(title, loc="left", color=_INK)
        axes.set_xlabel("epoch", color=_INK)
        axes.set_ylabel("validation AUC minus that at the start" if relative else "validation AUC", color=_INK)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _calm(axes)
        if len(curves) > 1:
            axes.legend(frameon=False, fontsize="small", ncols=1 + len(curves) // 9)
    figure.savefig(path, metadata={"Software": None})
    return True


def _panels(record: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any], bool]]:
    """Yield title, curves by name, and whether they are drawn against their start."""
    if "pretrain" in record:
        yield "1  backbone", {"backbone": record["pretrain"]}, False
    adapters = sorted(record.get("adapters", {}).items(), key=lambda pair: -pair[1]["rows"])
    if adapters:
        yield "2  adapters, each on its domain", dict(adapters[:_MOST_DOMAINS]), True
    if record.get("fuse"):
        yield "3  fusion, by mode", dict(record["fuse"]), True


def _draw_curve(axes: Axes, name: str, curve: Mapping[str, Any], look: tuple[str, str], relative: bool) -> None:
    """Draw one curve, with a ring around the epoch that was kept."""
    points = {entry["epoch"]: entry["auc"] for entry in curve["history"] if entry["auc"] is not None}
    if not points:
        return
    start = points[min(points)] if relative else 0.0
    colour, line = look
    axes.plot(list(points), [auc - start for auc in points.values()], line, color=colour, markersize=3.5, label=name)
    if curve["epoch"] in points:
        kept = points[curve["epoch"]] - start
        axes.plot([curve["epoch"]], [kept], "o", markersize=9, fillstyle="none", color=colour)
