"""`python -m benchmarks.engines`: what a mixed batch of 32 domains costs, against the plain backbone and against peers.

32 requests x 100 items over 32 domains, the tower and ranks of MovieLens, two divisions fused by attention. Everyone
starts from the same encoded rows, and everyone's time includes the embedding lookup. In a round all contenders take
turns several times, and the best of its times counts for each; a figure is the median over rounds, relative to the
plain backbone of the same round. If a figure's quartiles are more than 10% apart, everything is measured once more, and
both results are printed. With one thread CPU seconds are counted: what waits for a core that another program holds is
no cost of a contender's, and would be counted against the slow ones alone. With more threads it is wall-clock time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.contenders import Contender, contenders
from benchmarks.world import DOMAINS, ITEMS, World, make_world

ROUNDS = 15
REPEATS = 10
SPREAD = 0.10
TOLERANCE = 2e-5


@dataclass(frozen=True)
class Figure:
    """One contender's result.

    Args:
        name: of the contender.
        rows_per_s: median over rounds.
        ratio: rows/s relative to the first contender, median over rounds.
        quartiles: of the ratio.
    """

    name: str
    rows_per_s: float
    ratio: float
    quartiles: tuple[float, float]

    @property
    def unsteady(self) -> bool:
        """Whether the quartiles are too far apart to trust."""
        return self.quartiles[1] - self.quartiles[0] > SPREAD * self.ratio


def check(world: World, found: Sequence[Contender]) -> None:
    """Hold every contender that computes the whole thing to the literal network in float64.

    Raises:
        AssertionError: a contender computes something else.
    """
    fused, backbone = world.literal_logits()
    for contender in found:
        if contender.expects is not None:
            worst = np.abs(contender.score() - (fused if contender.expects == "fused" else backbone)).max()
            assert worst < TOLERANCE, f"{contender.name} is off by {worst:.1e}"


def measure(found: Sequence[Contender], rounds: int, clock: Callable[[], float]) -> list[Figure]:
    """Time everyone in turn, each round anew."""
    seconds = np.array([best_of(found, REPEATS, clock) for _ in range(rounds)])
    ratios = seconds[:, :1] / seconds
    return [
        Figure(
            contender.name,
            DOMAINS * ITEMS / statistics.median(seconds[:, i]),
            statistics.median(ratios[:, i]),
            (float(np.quantile(ratios[:, i], 0.25)), float(np.quantile(ratios[:, i], 0.75))),
        )
        for i, contender in enumerate(found)
    ]


def best_of(found: Sequence[Contender], repeats: int, clock: Callable[[], float]) -> list[float]:
    """Seconds of each contender's fastest turn: what other programs took from the others is left out."""
    best = [float("inf")] * len(found)
    for _ in range(repeats):
        for i, contender in enumerate(found):
            began = clock()
            contender.score()
            best[i] = min(best[i], clock() - began)
    return best


def table(title: str, figures: Sequence[Figure]) -> Table:
    """The figures as they are printed."""
    shown = Table(title=title)
    for heading in ("", "rows/s", "of the plain backbone", "quartiles"):
        shown.add_column(heading, justify="left" if not heading else "right")
    for f in figures:
        shown.add_row(f.name, f"{f.rows_per_s:,.0f}", f"{f.ratio:.2f}", f"{f.quartiles[0]:.2f} to {f.quartiles[1]:.2f}")
    return shown


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print; write the ratios to a file if asked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engines", description=__doc__)
    parser.add_argument("--threads", type=int, default=1, help="threads inside one run of every engine (default 1)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"rounds, at least 9 (default {ROUNDS})")
    parser.add_argument("--json", type=Path, help="also write {contender: ratio} of the last measurement here")
    asked = parser.parse_args(arguments)
    console = Console()
    clock = time.process_time if asked.threads == 1 else time.perf_counter
    with tempfile.TemporaryDirectory() as folder:
        world = make_world(Path(folder) / "bundle")
        found = contenders(world, asked.threads)
        check(world, found)
        figures = measure(found, max(asked.rounds, 9), clock)
        title = f"{DOMAINS} requests x {ITEMS} items, {DOMAINS} domains, {asked.threads} thread(s), lookup included"
        console.print(table(title, figures))
        if any(figure.unsteady for figure in figures):
            console.print(f"quartiles more than {SPREAD:.0%} apart: measured once more")
            figures = measure(found, max(asked.rounds, 9), clock)
            console.print(table(f"{title}, again", figures))
    if asked.json:
        asked.json.write_text(json.dumps({figure.name: round(figure.ratio, 3) for figure in figures}, indent=1))


if __name__ == "__main__":
    main()
