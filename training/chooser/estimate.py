"""Means over rows that are not independent, with intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A mean and its interval.

    Args:
        value: the mean.
        low: lower end; None where fewer than two clusters tell nothing about the spread.
        high: upper end; None as `low`.
    """

    value: float
    low: float | None
    high: float | None

    def positive(self) -> bool:
        """Whether the whole interval lies above zero."""
        return self.low is not None and self.low > 0.0

    def __str__(self) -> str:
        """The mean and, where there is one, its interval."""
        if self.low is None or self.high is None:
            return f"{self.value:+.5f}"
        return f"{self.value:+.5f} [{self.low:+.5f}, {self.high:+.5f}]"

    def record(self) -> dict[str, float | None]:
        """The three numbers as JSON values."""
        return {"value": self.value, "low": self.low, "high": self.high}


def clustered(values: Floats, cluster: NDArray[Any], confidence: float, more: float = 0.0) -> Estimate:
    """Estimate a mean over rows whose errors may be dependent within a cluster, such as one user's rows.

    mean = sum(v) / n;  variance = G / (G - 1) * sum over clusters of (sum of (v - mean))^2 / n^2

    Args:
        values: (n,), n > 0.
        cluster: (n,) integers.
        confidence: of the two-sided interval.
        more: variance that the mean has for other reasons than which rows these are.

    Source: the cluster-robust variance of a mean, Liang & Zeger (1986).
    """
    mean = float(values.mean())
    number = np.unique(cluster, return_inverse=True)[1]
    sums = np.bincount(number, weights=values - mean)
    if len(sums) < 2:
        return Estimate(mean, None, None)
    variance = len(sums) / (len(sums) - 1) * float(sums @ sums) / len(values) ** 2
    half = NormalDist().inv_cdf(0.5 + confidence / 2) * math.sqrt(variance + more)
    return Estimate(mean, mean - half, mean + half)


def pooled_variance(groups: Sequence[Sequence[float]]) -> float:
    """The variance inside groups, all of them taken together: sum (x - mean of its group)^2 / sum (size - 1).

    Args:
        groups: of numbers; a group of one tells nothing.
    """
    squares = sum(float(np.sum((np.array(group) - np.mean(group)) ** 2)) for group in groups)
    freedom = sum(len(group) - 1 for group in groups)
    return squares / freedom if freedom else 0.0


def losses(label: NDArray[Any], logits: Floats) -> Floats:
    """The cross entropy of each row (n,), in nats, without overflow."""
    each: Floats = np.logaddexp(0.0, logits) - label * logits
    return each


def entropy(probability: Floats) -> Floats:
    """The entropy of a click with this probability, in nats."""
    inside = np.clip(probability, 1e-12, 1.0 - 1e-12)
    each: Floats = -inside * np.log(inside) - (1.0 - inside) * np.log1p(-inside)
    return each
