"""Student's t distribution with whole degrees of freedom, in closed form, and the paired test over seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95
_HALVINGS = 200


def inside(t: float, df: int) -> float:
    """P(|T| <= |t|) of Student's t.

    Args:
        t: any number; may be infinite.
        df: degrees of freedom, 1 or more.

    Source: Abramowitz & Stegun (1964), 26.7.3 and 26.7.4.
    """
    return _inside(math.atan(abs(t) / math.sqrt(df)), df)


def _inside(angle: float, df: int) -> float:
    """The same, of the angle atan(t / sqrt(df))."""
    sine, square = math.sin(angle), math.cos(angle) ** 2
    term = total = 1.0 if df % 2 == 0 else math.cos(angle)
    if df == 1:
        return 2.0 * angle / math.pi
    for n in range(2 + df % 2, df, 2):
        term *= square * (n - 1) / n
        total += term
    return sine * total if df % 2 == 0 else 2.0 / math.pi * (angle + sine * total)


def quantile(confidence: float, df: int) -> float:
    """The t with P(|T| <= t) = confidence.

    Args:
        confidence: between 0 and 1.
        df: degrees of freedom, 1 or more.
    """
    low, high = 0.0, math.pi / 2
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if _inside(middle, df) < confidence else (low, middle)
    return math.sqrt(df) * math.tan(low)


@dataclass(frozen=True)
class Paired:
    """One method against another over the same seeds.

    Args:
        mean: of the differences.
        low, high: Student's interval of that mean; None with fewer than two seeds.
        p: two-sided, of the paired t-test; None with fewer than two seeds, or where all differences are equal.
        seeds: how many.
    """

    mean: float
    low: float | None
    high: float | None
    p: float | None
    seeds: int


def paired(values: Sequence[float], base: Sequence[float], confidence: float = CONFIDENCE) -> Paired:
    """Compare what two methods came to, seed by seed.

    Args:
        values: of the one, a number a seed; at least one.
        base: of the other, for the same seeds in the same order.
        confidence: of the interval.
    """
    differences = [value - other for value, other in zip(values, base, strict=True)]
    n, mean = len(differences), statistics.fmean(differences)
    if n < 2:
        return Paired(mean, None, None, None, n)
    error = statistics.stdev(differences) / math.sqrt(n)
    half = quantile(confidence, n - 1) * error
    p = None if error == 0.0 else max(0.0, 1.0 - inside(mean / error, n - 1))
    return Paired(mean, mean - half, mean + half, p, n)


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """Adjust the p-values of several comparisons, so that a false one among all is as rare as each alone would be.

    Source: Holm (1979).
    """
    adjusted: dict[str, float] = {}
    least = 0.0
    for place, name in enumerate(sorted(p, key=lambda name: p[name])):
        least = max(least, min(1.0, (len(p) - place) * p[name]))
        adjusted[name] = least
    return adjusted
