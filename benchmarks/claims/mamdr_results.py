"""The page and the plots of what the long tables of MAMDR found, made from their records and from nothing else."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from adapters_store.durable import write_durably
from benchmarks.claims.mamdr_contest import Contest, Row, Rows, rank
from benchmarks.claims.trainings import RECORDS
from benchmarks.claims.workplace import ROOT
from training.trials.student import CONFIDENCE, quantile

PAGE = ROOT / "docs" / "mamdr-results.md"
IMAGES = ROOT / "docs" / "images"
AGREEMENT = "mamdr-agreement.png"
SWEEPS = "mamdr-sweeps"
TITLES = {
    "mamdr-conflict": "Planted conflict",
    "mamdr-epinions": "epinions-mdr",
    "mamdr-structures": "Other structures, epinions-mdr",
    "mamdr-movielens": "MovieLens-1M",
}
_HEAD = """# What MAMDR and its rivals came to

Written by `make claims-mamdr` from `benchmarks/claims/records/`, and by nobody's hand. How the methods are tuned, and
what is alike for all of them, stands in [a decision](decisions/2026-11-21-how-mamdr-is-tuned.md); whether what the
papers say of the order holds here, in [claims.md](claims.md). AUC are of test rows: mean over the domains ± standard
deviation over the seeds; RANK is the mean rank over domains and seeds. No method here averages its weights;
what that gives one network for all domains of MovieLens-1M stands in [multilora-results.md](multilora-results.md).
"""
_NONE = "Not recorded yet: `FULL=1 make claims-mamdr` fills it in."
_SHOWN: Mapping[str, tuple[str, ...]] = {
    "inner": ("lr", "reset"),
    "outer": ("lr",),
    "regularization": ("others", "gamma"),
    "look_ahead": ("lr",),
    "finetune": ("lr",),
    "pretrain": ("lr",),
}
_GREY, _BLUE = "#999999", "#0072B2"
Curves = Mapping[str, Mapping[str, Sequence[float]]]


def write_results(records: Path = RECORDS, page: Path = PAGE, images: Path = IMAGES) -> None:
    """Draw what the records hold, then write the page.

    Args:
        records: where they lie.
        page: written whole or not at all.
        images: a folder beside it.
    """
    images.mkdir(parents=True, exist_ok=True)
    parts = [_HEAD]
    for name, title in TITLES.items():
        parts.append(f"## {title}\n\n" + "\n".join(_table(Contest(name, {}, (), records=records), name, images)))
    parts.append("## k, alpha and beta, epinions-mdr\n\n" + "\n".join(_swept(records / f"{SWEEPS}.json", images)))
    parts.append("## Do the domains' gradients agree?\n\n" + "\n".join(_agreed(images)))
    write_durably(page, "\n".join(parts).encode())


def _table(contest: Contest, name: str, images: Path) -> Iterator[str]:
    rows = contest.rows()
    if rows is None:
        yield _NONE + "\n"
        return
    draw_table(rows, images / f"{name}.png")
    ranks = rank(rows)
    yield f"Recorded {contest.origin()}; {len(next(iter(rows.values())).seeds)} seeds. Brackets in the plot: 95%.\n"
    yield f"![Mean per-domain test AUC of each method](images/{name}.png)\n"
    yield "| method | mean per-domain AUC | pooled AUC | RANK | chosen | seconds a training |"
    yield "|---|---|---|---|---|---|"
    for method, row in sorted(rows.items(), key=lambda item: -statistics.mean(item[1].means)):
        pooled, seconds = (statistics.mean(found[what] for found in row.seeds) for what in ("pooled", "seconds"))
        figures = f"{statistics.mean(row.means):.4f} ± {_spread(row):.4f} | {pooled:.4f} | {ranks[method]:.2f}"
        yield f"| {method} | {figures} | {chosen(row.config)} | {seconds:.0f} |"
    yield ""


def chosen(config: Mapping[str, Any]) -> str:
    """What tuning preferred, in a few words: the keys of the method's own parts."""
    found = [
        f"{section}.{key} {config[section][key]}"
        for section, keys in _SHOWN.items()
        for key in keys
        if key in config.get(section, {})
    ]
    return ", ".join(found) or "–"


def _spread(row: Row) -> float:
    return statistics.stdev(row.means) if len(row.means) > 1 else 0.0


def draw_table(rows: Rows, path: Path, figure_of: str = "mean per-domain test AUC") -> None:
    """Draw each method's seeds, their mean and its 95% interval, the best on top; `figure_of` is written below."""
    ordered = sorted(rows.items(), key=lambda item: statistics.mean(item[1].means))
    figure = Figure((8.0, 1.2 + 0.3 * len(ordered)), dpi=100, layout="constrained")
    axes = figure.subplots()
    for place, (_, row) in enumerate(ordered):
        n = len(row.means)
        half = quantile(CONFIDENCE, n - 1) * _spread(row) / math.sqrt(n) if n > 1 else 0.0
        axes.plot(row.means, [place] * n, ".", color=_GREY)
        axes.errorbar(statistics.mean(row.means), place, xerr=half, fmt="o", color=_BLUE, capsize=3)
    axes.set_yticks(range(len(ordered)), [name for name, _ in ordered])
    axes.set_xlabel(figure_of)
    axes.grid(axis="x", color="#DDDDDD")
    _saved(figure, path)


def _swept(record: Path, images: Path) -> Iterator[str]:
    if not record.exists():
        yield _NONE + "\n"
        return
    content = json.loads(record.read_text())
    curves: Curves = content["curves"]
    draw_sweeps(curves, images / f"{SWEEPS}.png")
    seeds = len(next(iter(next(iter(curves.values())).values())))
    code = ", ".join(content["code"])
    yield f"Recorded {content['date']} at commit {content['commit']}, trained by code {code}; {seeds} seeds, the others"
    yield "at k = 1, alpha = 0.001, beta = 0.5 (MAMDR, figures 8 and 9).\n"
    yield f"![Mean per-domain test AUC by k, alpha and beta](images/{SWEEPS}.png)\n"
    yield "| | value: mean per-domain test AUC |"
    yield "|---|---|"
    for name, curve in curves.items():
        yield f"| {name} | " + ", ".join(f"{v}: {statistics.mean(each):.4f}" for v, each in curve.items()) + " |"
    yield ""


def draw_sweeps(curves: Curves, path: Path) -> None:
    """Draw each seed's figure and their mean against what is swept."""
    figure = Figure((12.0, 4.0), dpi=100, layout="constrained")
    for axes, (name, curve) in zip(figure.subplots(1, len(curves), sharey=True), curves.items(), strict=True):
        places = range(len(curve))
        for place, each in zip(places, curve.values(), strict=True):
            axes.plot([place] * len(each), each, ".", color=_GREY)
        axes.plot(places, [statistics.mean(each) for each in curve.values()], color=_BLUE)
        axes.set_xticks(list(places), list(curve))
        axes.set_xlabel(name)
    figure.axes[0].set_ylabel("mean per-domain test AUC")
    _saved(figure, path)


def _agreed(images: Path) -> Iterator[str]:
    if not (images / AGREEMENT).exists():
        yield "Not drawn yet: `make claims-mamdr` draws it.\n"
        return
    yield "The mean inner product of the domains' gradients (MAMDR, Eq. 21) in two worlds of planted conflict,"
    yield "Alternate and DN as the table above tuned them, and Alternate once more with DN's own inner loop. An"
    yield "epoch ends where the order of its domains left it: the domain visited last is at odds with the others,"
    yield "and these agree in undoing its visit. So the pairs with the last one stand apart, and the more domains"
    yield "there are, the fewer they are ([why](decisions/2026-11-23-whose-agreement.md)). Each run of"
    yield "`make claims-mamdr` measures and draws this anew, and says in claims.md what it comes to.\n"
    yield f"![Mean inner product of domain gradients, by epoch and by seed](images/{AGREEMENT})\n"


def _saved(figure: Figure, path: Path) -> None:
    figure.savefig(path, metadata={"Software": None})
