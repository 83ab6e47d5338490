"""How well the busiest domains are scored, from what comes back: AUC, calibration, and drift of the scores.

Only rows that a domain's live revision scored count. All of it is used by one thread.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.scorer import ScoreResult, Served

LABELLED_ROWS = 4096
LEAST_LABELLED = 100
REFERENCE_ROWS = 10_000
CURRENT_ROWS = 5_000
GROUPS = 10
# of a domain that is tracked for each one that is shown: who comes newly needs time to show that it is busy
_TRACKED_PER_SHOWN = 4
_BINS = 256
_LOGIT_LIMIT = 8.0
_EDGES = np.linspace(-_LOGIT_LIMIT, _LOGIT_LIMIT, _BINS - 1)

Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Figures:
    """What is known of one domain; None where too little is.

    Args:
        auc: area under the ROC curve of the last labelled rows, a tie counting half.
        calibration_ratio: observed over predicted positives of the same rows (COPC).
        psi: population stability index of the scores against the reference window.
    """

    auc: float | None
    calibration_ratio: float | None
    psi: float | None


class LabelledRows:
    """The last labelled rows of a domain.

    Args:
        size: how many.
    """

    def __init__(self, size: int = LABELLED_ROWS) -> None:
        self._scores = np.zeros(size)
        self._positive = np.zeros(size, bool)
        self._count = 0

    def add(self, score: float, positive: bool) -> None:
        """One more; past the size the oldest one leaves."""
        place = self._count % len(self._scores)
        self._scores[place], self._positive[place] = score, positive
        self._count += 1

    def auc(self) -> float | None:
        """Exact AUC; None below LEAST_LABELLED rows or with one class only."""
        scores, positive = self._kept()
        positives = int(positive.sum())
        if len(scores) < LEAST_LABELLED or positives in (0, len(scores)):
            return None
        return area_under_curve(scores, positive)

    def calibration_ratio(self) -> float | None:
        """Observed over predicted positives; None below LEAST_LABELLED rows."""
        scores, positive = self._kept()
        predicted = float(scores.sum())
        if len(scores) < LEAST_LABELLED or predicted <= 0:
            return None
        return float(positive.sum()) / predicted

    def _kept(self) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        size = min(self._count, len(self._scores))
        return self._scores[:size], self._positive[:size]


class ScoreDrift:
    """Scores of one revision: its first REFERENCE_ROWS here, and its last CURRENT_ROWS to twice as many.

    Counted in bins of equal width in the logit; past its first row each histogram is compared over at most GROUPS
    groups of bins, of about equally many reference rows each.
    """

    def __init__(self) -> None:
        self._revision: str | None = None
        self._reference, self._current, self._before = (np.zeros(_BINS, np.int64) for _ in range(3))

    def add(self, scores: NDArray[np.float64], revision: str | None) -> None:
        """Scores that a revision gave; a revision other than the last one starts a new reference."""
        if revision != self._revision:
            self._revision = revision
            self._reference, self._current, self._before = (np.zeros(_BINS, np.int64) for _ in range(3))
        counts = binned(scores)
        if self._reference.sum() < REFERENCE_ROWS:
            self._reference += counts
            return
        self._current += counts
        if self._current.sum() >= CURRENT_ROWS:
            self._before, self._current = self._current, np.zeros(_BINS, np.int64)

    def psi(self) -> float | None:
        """None until the reference is whole and CURRENT_ROWS rows followed it."""
        current = self._before + self._current
        if current.sum() < CURRENT_ROWS:
            return None
        return stability_index(self._reference, current)


class _Domain:
    def __init__(self) -> None:
        self.rows = 0
        self.labelled = LabelledRows()
        self.drift = ScoreDrift()


class OnlineFigures:
    """Figures of the busiest domains.

    Which ones those are is kept by the space-saving algorithm (Metwally et al., 2005): of a bounded number of domains
    the least busy one gives its place, and its count, to one that is not among them.

    Args:
        shown: domains at most.
    """

    def __init__(self, shown: int) -> None:
        self._shown = shown
        self._tracked = shown * _TRACKED_PER_SHOWN
        self._domains: dict[str, _Domain] = {}

    def scored(self, results: Iterable[ScoreResult]) -> None:
        """Results that left since the last call."""
        by_domain: dict[str, list[ScoreResult]] = {}
        for result in results:
            if counts_as_live(result.served):
                by_domain.setdefault(result.domain_id, []).append(result)
        rows = {domain: sum(len(one.scores) for one in each) for domain, each in by_domain.items()}
        for domain in heapq.nlargest(self._tracked, rows, key=rows.__getitem__):
            state = self._of(domain)
            state.rows += rows[domain]
            for result in by_domain[domain]:
                state.drift.add(result.scores, result.served.revision)

    def labelled(self, domain: str, score: float, positive: bool) -> None:
        """A row of a domain got its label; one of a domain that is not tracked is not looked at."""
        state = self._domains.get(domain)
        if state is not None:
            state.labelled.add(score, positive)

    def figures(self) -> dict[str, Figures]:
        """Of the busiest domains, as far as anything is known of them."""
        busiest = heapq.nlargest(self._shown, self._domains, key=lambda domain: self._domains[domain].rows)
        return {domain: self._figures(self._domains[domain]) for domain in busiest}

    def _of(self, domain: str) -> _Domain:
        state = self._domains.get(domain)
        if state is None:
            state = _Domain()
            if len(self._domains) >= self._tracked:
                least = min(self._domains, key=lambda one: self._domains[one].rows)
                state.rows = self._domains.pop(least).rows
            self._domains[domain] = state
        return state

    def _figures(self, state: _Domain) -> Figures:
        return Figures(state.labelled.auc(), state.labelled.calibration_ratio(), state.drift.psi())


def counts_as_live(served: Served) -> bool:
    """Whether the domain's own live revision scored: not a canary, nor a fallback."""
    return served.alias == "live" and served.fallback is None


def area_under_curve(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    """Exact AUC by ranks, a tie counting half; both classes occur.

    Args:
        scores: (n,).
        positive: (n,).
    """
    distinct, group = np.unique(scores, return_inverse=True)
    positives = np.bincount(group, weights=positive, minlength=len(distinct))
    negatives = np.bincount(group, minlength=len(distinct)) - positives
    below = np.cumsum(negatives) - negatives
    return float(positives @ (below + 0.5 * negatives) / (positives.sum() * negatives.sum()))


def binned(scores: Sequence[float] | NDArray[np.float64]) -> Counts:
    """Counts of probabilities in bins of equal width of their logit, the ends open; int64 (256,)."""
    clipped = np.clip(np.asarray(scores, np.float64), 1e-12, 1 - 1e-12)
    places = np.searchsorted(_EDGES, np.log(clipped) - np.log1p(-clipped), side="right")
    return np.bincount(places, minlength=_BINS).astype(np.int64)


def stability_index(reference: Counts, current: Counts, groups: int = GROUPS) -> float:
    """Population stability index: the sum over groups of (p - q) ln(p / q), p of the current rows, q of the reference.

    Each group counts half a row more than it has, so that an empty one does not make the index infinite.

    Args:
        reference: rows by bin, (bins,).
        current: the same of what is compared, (bins,).
        groups: of bins, each of about equally many reference rows; fewer where the rows lie in few bins.
    """
    below = (np.cumsum(reference) - reference) / reference.sum()
    group = np.unique(np.minimum(np.floor(below * groups), groups - 1), return_inverse=True)[1]
    q, p = (np.bincount(group, weights=counts) + 0.5 for counts in (reference, current))
    q, p = q / q.sum(), p / p.sum()
    return float(np.sum((p - q) * np.log(p / q)))
