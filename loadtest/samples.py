"""What became of each request, and the figures of a stretch of time."""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loadtest.answers import Outcome
from loadtest.plan import Stage

Floats = NDArray[np.float64]


class Samples:
    """Every request of one kind: when it was due, how long its answer took from then, what it was worth."""

    def __init__(self) -> None:
        self._due = array("d")
        self._latency = array("d")
        self._outcome = array("b")

    def __len__(self) -> int:
        return len(self._due)

    def add(self, due_s: float, latency_s: float, outcome: Outcome) -> None:
        """Note one request; an infinite latency is one that was never answered."""
        self._due.append(due_s)
        self._latency.append(latency_s)
        self._outcome.append(outcome)

    def count(self, outcome: Outcome) -> int:
        """How many came out so."""
        return int(np.count_nonzero(np.frombuffer(self._outcome, np.int8) == outcome)) if self._outcome else 0

    def row(self, name: str, load: float, start_s: float, end_s: float) -> Row:
        """The figures of the requests due in a stretch of time."""
        # copies: a view would keep the arrays from growing
        due, latency = np.array(self._due), np.array(self._latency)
        outcome = np.array(self._outcome, dtype=np.int8)
        chosen = (due >= start_s) & (due < end_s)
        latency, outcome = latency[chosen], outcome[chosen]
        counts = {kind: int(np.count_nonzero(outcome == kind)) for kind in Outcome}
        answered = counts[Outcome.OK] + counts[Outcome.FALLBACK]
        return Row(
            name=name,
            load=load,
            start_s=start_s,
            end_s=end_s,
            requests=len(latency),
            answered_per_s=answered / (end_s - start_s),
            p50_ms=percentile(latency, 50) * 1000,
            p99_ms=percentile(latency, 99) * 1000,
            errors=counts[Outcome.ERROR] + counts[Outcome.UNSENT],
            unsent=counts[Outcome.UNSENT],
            fallbacks=counts[Outcome.FALLBACK],
            wrong=counts[Outcome.WRONG],
        )

    def of_stage(self, stage: Stage) -> Row:
        """The figures of a stage, without its beginning."""
        return self.row(stage.name, stage.load, stage.start_s + stage.settle_s, stage.end_s)


@dataclass(frozen=True, slots=True)
class Row:
    """Figures of a stretch of time, counted by when requests were due.

    Args:
        name: of the stage or window.
        load: asked for: requests a second, or users in a closed loop.
        start_s: of the stretch.
        end_s: of the stretch.
        requests: that were due.
        answered_per_s: of them with scores.
        p50_ms: from when a request was due; one that was never answered counts as infinitely late.
        p99_ms: likewise.
        errors: not answered, or not with 200 and scores.
        unsent: of the errors: still waiting for a free connection when the stage ended.
        fallbacks: answered without the revision that should score.
        wrong: scored by a revision that may not.
    """

    name: str
    load: float
    start_s: float
    end_s: float
    requests: int
    answered_per_s: float
    p50_ms: float
    p99_ms: float
    errors: int
    unsent: int
    fallbacks: int
    wrong: int

    @property
    def error_share(self) -> float:
        """Of the requests due; 1 where there were none, which is no success."""
        return self.errors / self.requests if self.requests else 1.0

    @property
    def fallback_share(self) -> float:
        """Of the requests due."""
        return self.fallbacks / self.requests if self.requests else 0.0


def percentile(values: Floats, percent: float) -> float:
    """The smallest value that at least `percent` of all do not exceed; NaN of nothing."""
    if not len(values):
        return math.nan
    # no interpolation: halfway to infinity is no number
    return float(np.percentile(values, percent, method="inverted_cdf"))


def slope(times_s: Floats, values: Floats, last: float = 0.8) -> float:
    """Growth over the last part of a series, relative to its mean there: 0.02 is 2% more at the end of a fitted line.

    Args:
        times_s: of the values, rising.
        values: finite.
        last: share of the time that counts; what is before it warms up.
    """
    if len(times_s) < 3:
        return math.nan
    chosen = times_s >= times_s[-1] - last * (times_s[-1] - times_s[0])
    x, y = times_s[chosen], values[chosen]
    mean = float(y.mean())
    if len(x) < 3 or mean == 0:
        return math.nan
    per_s = float(np.polyfit(x - x[0], y, 1)[0])
    return per_s * float(x[-1] - x[0]) / mean
