"""Taking turns: a figure is the median over rounds of a ratio within a round, and is measured twice if unsteady."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.bench.contender import Contender

ROUNDS = 9
TURNS = 5
SPREAD = 0.10

Seconds = dict[str, list[float]]


@dataclass(frozen=True)
class Ratio:
    """How many times as fast one is as another.

    Args:
        median: over rounds, of the ratio within a round.
        low: first quartile.
        high: third quartile.
    """

    median: float
    low: float
    high: float

    @property
    def unsteady(self) -> bool:
        """Whether the quartiles are too far apart to trust."""
        return not self.high - self.low <= SPREAD * self.median

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.low:.3f} to {self.high:.3f})"


@dataclass(frozen=True)
class Trial:
    """What was measured, once or twice.

    Args:
        rows: of one turn.
        attempts: for each, name to seconds by round; the second one is there where the first was unsteady.
    """

    rows: int
    attempts: list[Seconds]

    @property
    def names(self) -> list[str]:
        """Who took part, in their order."""
        return list(self.attempts[0])

    def ratio(self, name: str, base: str, attempt: int = -1) -> Ratio:
        """How many times as fast `name` is as `base`; of the last attempt if not said otherwise."""
        return ratio(self.attempts[attempt], name, base)

    def rate(self, name: str) -> float:
        """Rows a second, median of the last attempt."""
        return self.rows / statistics.median(self.attempts[-1][name])

    def said(self, name: str, base: str) -> str:
        """The ratio as it is printed, of every attempt."""
        return ", again ".join(str(ratio(seconds, name, base)) for seconds in self.attempts)


def ratio(seconds: Mapping[str, Sequence[float]], name: str, base: str) -> Ratio:
    """How many times as fast `name` is as `base`."""
    found = np.asarray(seconds[base]) / np.asarray(seconds[name])
    low, middle, high = (float(q) for q in np.quantile(found, (0.25, 0.5, 0.75)))
    return Ratio(middle, low, high)


def measured(
    found: Sequence[Contender],
    watched: Sequence[tuple[str, str]],
    rows: int,
    clock: Callable[[], float],
    rounds: int = ROUNDS,
    turns: int = TURNS,
) -> Trial:
    """Let all take turns; once more if the quartiles of a watched ratio are more than 10% apart.

    Args:
        found: who takes turns.
        watched: pairs (name, base) whose ratio is a figure.
        rows: that each scores in a turn.
        clock: in seconds.
        rounds: of a measurement.
        turns: of each in a round; the fastest counts, so that what other programs took is left out.
    """
    attempts = [_round_robin(found, clock, rounds, turns)]
    if any(ratio(attempts[0], name, base).unsteady for name, base in watched):
        attempts.append(_round_robin(found, clock, rounds, turns))
    return Trial(rows, attempts)


def best_of(found: Sequence[Contender], turns: int, clock: Callable[[], float]) -> list[float]:
    """Seconds of each contender's fastest turn, in alternation."""
    best = [float("inf")] * len(found)
    for _ in range(turns):
        for i, contender in enumerate(found):
            began = clock()
            contender.score()
            best[i] = min(best[i], clock() - began)
    return best


def _round_robin(found: Sequence[Contender], clock: Callable[[], float], rounds: int, turns: int) -> Seconds:
    seconds: Seconds = {contender.name: [] for contender in found}
    for _ in range(rounds):
        for contender, best in zip(found, best_of(found, turns, clock), strict=True):
            seconds[contender.name].append(best)
    return seconds
