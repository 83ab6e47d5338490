"""A picture of a test: latency against load with the knee marked, or latency over time."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def plot(results: dict[str, Any], out: Path) -> None:
    """Draw the results of one test.

    Args:
        results: as `results.write_results` wrote them.
        out: a .png.
    """
    # only here: it takes half a second to import, and a test has none to lose
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    if results["shape"] == "step":
        _against_load(axes, results)
    else:
        _over_time(axes, results)
    axes.set_yscale("log")
    axes.set_ylabel("latency from when a request was due, ms")
    axes.axhline(results["bounds"]["p99_ms"], color="grey", linestyle=":", label="bound of p99")
    axes.grid(True, which="both", alpha=0.25)
    axes.legend(loc="upper left")
    figure.savefig(out, dpi=120)


def _against_load(axes: Any, results: dict[str, Any]) -> None:
    stages, unit = results["stages"], "requests due/s" if results["pacing"] == "open" else "users"
    for name, marker in (("p50_ms", "o"), ("p99_ms", "s")):
        known = [row for row in stages if row[name] is not None]
        axes.plot([row["load"] for row in known], [row[name] for row in known], marker=marker, label=name[:3])
    # at these loads more than one request in a hundred was never answered: its p99 is no number
    lost = [row["load"] for row in stages if row["p99_ms"] is None]
    if lost:
        axes.scatter(
            lost, [axes.get_ylim()[1]] * len(lost), marker="^", color="black", label="p99: over 1% never answered"
        )
    knee = results["knee"]
    if knee is not None:
        name = f"knee: {knee['load']:.0f} {unit}, {knee['answered_per_s']:.0f} answers/s"
        axes.axvline(knee["load"], color="red", linestyle="--", label=name)
    axes.set_xlabel(f"load, {unit}")
    axes.set_title(f"Latency against load ({results['pacing']} loop)")


def _over_time(axes: Any, results: dict[str, Any]) -> None:
    windows = results["windows"]
    for name in ("p50_ms", "p99_ms"):
        known = [row for row in windows if row[name] is not None]
        axes.plot([row["end_s"] for row in known], [row[name] for row in known], label=name[:3])
    load = axes.twinx()
    middle = [(row["start_s"] + row["end_s"]) / 2 for row in windows]
    load.plot(middle, [row["answered_per_s"] for row in windows], color="grey", alpha=0.5)
    load.set_ylim(bottom=0)
    load.set_ylabel("answers/s (grey)")
    axes.set_xlabel("time, s")
    axes.set_title(f"Latency over time: {results['shape']} ({results['pacing']} loop)")


if __name__ == "__main__":
    plot(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
