"""The plot of `make bench`: everyone's rows/s over the plain backbone's, a panel a network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.bench.batches import Batch
from benchmarks.bench.peers_onnx import PLAIN

OURS, OTHERS = "#2b6cb0", "#a0aec0"


def draw(found: Sequence[Batch], path: Path) -> None:
    """Write a PNG of the first batch of each network."""
    firsts = {batch.shape: batch for batch in reversed(found)}
    batches = list(reversed(firsts.values()))
    figure = Figure(figsize=(4 + 4 * len(batches), 6))
    panels = figure.subplots(1, len(batches), sharex=False, squeeze=False)[0]
    for number, (panel, batch) in enumerate(zip(panels, batches, strict=True)):
        names = batch.trial.names
        ratios = [batch.trial.ratio(name, PLAIN) for name in names]
        middles = [one.median for one in ratios]
        below = [one.median - one.low for one in ratios]
        above = [one.high - one.median for one in ratios]
        colours = [OURS if name.startswith(("native", "onnx engine")) else OTHERS for name in names]
        panel.barh(range(len(names)), middles, xerr=[below, above], color=colours, ecolor="#4a5568")
        # absent ones differ by nothing but the machine, so one panel's names are all panels' names
        panel.set_yticks(range(len(names)), names if number == 0 else [""] * len(names))
        panel.invert_yaxis()
        panel.axvline(1.0, color="#1a202c", linewidth=0.8)
        panel.set_title(f"{batch.shape}, {batch.batching}")
        panel.set_xlabel("rows/s over the plain backbone")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
