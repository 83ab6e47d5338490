"""Paired bootstrap of the AUC: one resample of the rows, and every method's AUC on it (methods.md 5).

A resample is a vector of row counts. With positives and negatives sorted once per method, its AUC is a running sum of
the negatives' counts, read off where each positive stands: linear in the rows, and no sorting within a draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.metrics import Array

CONFIDENCE = 0.95

_CHUNK_CELLS = 1 << 17
"""Counts held at once: small domains take many draws a step, large ones few, and all stay in cache."""

Draws = NDArray[np.float64]


@dataclass(frozen=True)
class _Ranking:
    """One method's rows in the order of its scores.

    Args:
        positive: rows with a click, by score.
        negative: the other rows, by score.
        below: for each positive, how many negatives score lower.
        not_above: the same, with ties.
    """

    positive: NDArray[np.int64]
    negative: NDArray[np.int64]
    below: NDArray[np.int64]
    not_above: NDArray[np.int64]

    @classmethod
    def of(cls, label: Array, score: Array) -> _Ranking:
        order = np.argsort(score, kind="stable")
        clicked = np.asarray(label)[order] > 0.5
        positive, negative = order[clicked], order[~clicked]
        sides = (np.searchsorted(score[negative], score[positive], side=side) for side in ("left", "right"))
        return cls(positive, negative, *sides)

    def aucs(self, counts: NDArray[np.int32]) -> Draws:
        """Return the AUC (draws,) of each resample in counts (draws, n); NaN where it has one class."""
        positive = counts.take(self.positive, axis=1).astype(np.float64)
        running = np.zeros((len(counts), len(self.negative) + 1), dtype=np.int32)
        np.cumsum(counts.take(self.negative, axis=1), axis=1, dtype=np.int32, out=running[:, 1:])
        won = np.vecdot(positive, running.take(self.below, axis=1).astype(np.float64))
        tied = np.flatnonzero(self.not_above > self.below)
        if len(tied):
            between = running.take(self.not_above[tied], axis=1) - running.take(self.below[tied], axis=1)
            won += 0.5 * np.vecdot(positive.take(tied, axis=1), between.astype(np.float64))
        pairs = positive.sum(axis=1) * running[:, -1]
        found: Draws = np.divide(won, pairs, out=np.full(len(counts), np.nan), where=pairs > 0)
        return found


def auc_draws(label: Array, scores: Sequence[Array], draws: int, generator: np.random.Generator) -> Draws:
    """Resample rows with replacement, and take every method's AUC on each resample.

    Args:
        label: (n,) of 0 and 1.
        scores: for each method (n,) finite; identical arrays give identical draws.
        draws: how many resamples.
        generator: of the resamples.

    Returns:
        AUCs (methods, draws); NaN where a resample has one class only.
    """
    n = len(label)
    found = np.full((len(scores), draws), np.nan)
    if n == 0:
        return found
    rankings = [_Ranking.of(label, score) for score in scores]
    step = max(1, _CHUNK_CELLS // n)
    for first in range(0, draws, step):
        size = min(step, draws - first)
        picked = generator.integers(0, n, size=(size, n)) + n * np.arange(size)[:, None]
        counts = np.bincount(picked.ravel(), minlength=size * n).reshape(size, n).astype(np.int32)
        for method, ranking in enumerate(rankings):
            found[method, first : first + size] = ranking.aucs(counts)
    return found


def interval(draws: Draws, confidence: float = CONFIDENCE) -> tuple[float, float] | None:
    """Return the percentile interval of the draws that are not NaN; None where all are."""
    finite = draws[np.isfinite(draws)]
    if len(finite) == 0:
        return None
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(finite, (tail, 1.0 - tail))
    return float(low), float(high)
