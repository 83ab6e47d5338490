"""Metrics of scored rows, exact and vectorised (methods.md 5).

`label` is 0 or 1 everywhere, (n,); `score` may be a logit or a probability where only the order counts.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Floats = NDArray[np.float64]

_SMALLEST = 1e-12  # keeps the logarithm of a probability finite
_ECE_BINS = 20


def probabilities(logits: Array) -> Floats:
    """The sigmoid of `logits`, without overflow."""
    exponential = np.exp(-np.abs(logits.astype(np.float64)))
    return np.where(logits >= 0, 1.0, exponential) / (1.0 + exponential)


def auc(label: Array, score: Array) -> float | None:
    """Area under the ROC curve, exact, a tie counting half; None where only one class occurs."""
    counts = tie_counts(label, score)
    return None if counts is None else _auc_of(*counts)


def tie_counts(label: Array, score: Array) -> tuple[Floats, Floats] | None:
    """Positives and negatives at each distinct score, ascending; None where only one class occurs."""
    positive = label > 0.5
    if positive.all() or not positive.any():
        return None
    group = np.unique(score, return_inverse=True)[1]
    total = np.bincount(group).astype(np.float64)
    positives = np.bincount(group, weights=positive).astype(np.float64)
    return positives, total - positives


def _auc_of(positives: Floats, negatives: Floats) -> float:
    below = np.cumsum(negatives) - negatives
    return float(positives @ (below + 0.5 * negatives) / (positives.sum() * negatives.sum()))


def auc_interval(label: Array, score: Array, level: float = 0.95) -> tuple[float, float] | None:
    """DeLong's interval of one AUC, cut to [0, 1]; None where a class has fewer than two rows.

    Source: DeLong, DeLong & Clarke-Pearson (1988); Sun & Xu (2014) for the computation by ranks.
    """
    counts = tie_counts(label, score)
    if counts is None:
        return None
    positives, negatives = counts
    n_positive, n_negative = positives.sum(), negatives.sum()
    if min(n_positive, n_negative) < 2:
        return None
    area = _auc_of(positives, negatives)
    # placement of a positive: share of negatives below it; of a negative: share of positives above it
    of_positive = (np.cumsum(negatives) - 0.5 * negatives) / n_negative
    of_negative = 1.0 - (np.cumsum(positives) - 0.5 * positives) / n_positive
    variance = sum(
        float(weight @ (placement - area) ** 2) / (n - 1) / n
        for weight, placement, n in ((positives, of_positive, n_positive), (negatives, of_negative, n_negative))
    )
    half = NormalDist().inv_cdf(0.5 + level / 2) * variance**0.5
    return max(0.0, area - half), min(1.0, area + half)


def log_loss(label: Array, probability: Array) -> float:
    """Mean binary cross entropy, in nats."""
    clipped = np.clip(probability, _SMALLEST, 1.0 - _SMALLEST)
    return float(-np.mean(np.where(label > 0.5, np.log(clipped), np.log1p(-clipped))))


def normalized_entropy(label: Array, probability: Array) -> float | None:
    """Log loss over that of the mean label (He et al., 2014); None where only one class occurs."""
    rate = float(np.mean(label))
    if rate in (0.0, 1.0):
        return None
    return log_loss(label, probability) / log_loss(label, np.full(len(label), rate))


def gauc(label: Array, score: Array, group: Array) -> float | None:
    """Mean of each user's AUC, weighted by the user's rows; None where no user has both classes.

    Args:
        label: (n,).
        score: (n,).
        group: the user of each row, (n,) integers.
    """
    order = np.lexsort((score, group))
    positive = (label[order] > 0.5).astype(np.float64)
    users = np.unique(group[order], return_inverse=True)[1]
    scores = score[order]
    ties = np.cumsum(np.r_[True, (users[1:] != users[:-1]) | (scores[1:] != scores[:-1])]) - 1
    owner = np.zeros(ties[-1] + 1, np.int64)
    owner[ties] = users
    positives = np.bincount(ties, weights=positive)
    negatives = np.bincount(ties) - positives
    of_user = [np.bincount(owner, weights=column) for column in (positives, negatives)]
    # one running sum over all users; what earlier users hold is taken off again
    before = np.cumsum(negatives) - negatives - (np.cumsum(of_user[1]) - of_user[1])[owner]
    won = np.bincount(owner, weights=positives * (before + 0.5 * negatives))
    both = (of_user[0] > 0) & (of_user[1] > 0)
    if not both.any():
        return None
    areas = won[both] / (of_user[0] * of_user[1])[both]
    return float(np.average(areas, weights=(of_user[0] + of_user[1])[both]))


def calibration(label: Array, probability: Array) -> float | None:
    """Predicted over observed positives; None where none is observed."""
    observed = float(np.sum(label))
    return float(np.sum(probability)) / observed if observed else None


def ece(label: Array, probability: Array, bins: int = _ECE_BINS) -> float:
    """Expected calibration error over bins of equally many rows."""
    order = np.argsort(probability, kind="stable")
    parts = np.array_split(order, min(bins, len(order)))
    return float(sum(abs(np.sum(label[part] - probability[part])) for part in parts) / len(order))


def rela_impr(area: float, base: float) -> float | None:
    """Relative improvement of an AUC, (AUC - 0.5) / (base - 0.5) - 1; None where the base is no better than chance."""
    return (area - 0.5) / (base - 0.5) - 1.0 if base > 0.5 else None


def copc(label: Array, probability: Array) -> float | None:
    """Observed clicks over predicted ones (COPC); None where none is predicted."""
    predicted = float(np.sum(probability))
    return float(np.sum(label)) / predicted if predicted else None


def ece_deviation(probability: Array) -> float:
    """Standard deviation of the ECE of perfectly calibrated predictions, as labels are drawn.

    Were each label drawn with its predicted probability, a bin's excess of clicks would be nearly normal with variance
    v = sum p (1 - p), and its size half-normal with variance (1 - 2 / pi) v. The bins are independent, so these add up,
    and how many bins there are does not matter.

    Args:
        probability: (n,), n > 0.
    """
    variance = float(np.sum(probability * (1.0 - probability)))
    return math.sqrt((1.0 - 2.0 / math.pi) * variance) / len(probability)


def auc_difference(label: Array, score: Array, base: Array) -> tuple[float, float] | None:
    """AUC of `score` minus that of `base` on the same rows, and its standard error by DeLong.

    Args:
        label: (n,).
        score: (n,).
        base: (n,).

    Returns:
        (difference, standard error); None where a class has fewer than two rows.

    Source: DeLong, DeLong & Clarke-Pearson (1988); placements by binary search instead of over all pairs.
    """
    positive = label > 0.5
    counts = (int(positive.sum()), int((~positive).sum()))
    if min(counts) < 2:
        return None
    sides = zip(_placements(positive, score), _placements(positive, base), strict=True)
    of_positive, of_negative = (mine - its for mine, its in sides)
    variance = np.var(of_positive, ddof=1) / counts[0] + np.var(of_negative, ddof=1) / counts[1]
    return float(of_positive.mean()), float(np.sqrt(variance))


def _placements(positive: NDArray[np.bool_], score: Array) -> tuple[Floats, Floats]:
    """Of each positive the share of negatives below it, of each negative the share of positives above; ties half."""
    above, below = score[positive], score[~positive]
    return _share_below(above, below), 1.0 - _share_below(below, above)


def _share_below(score: Array, others: Array) -> Floats:
    ordered = np.sort(others)
    counts = np.searchsorted(ordered, score, side="left") + np.searchsorted(ordered, score, side="right")
    share: Floats = 0.5 * counts / len(ordered)
    return share


def rows_by_domain(domain: Array, domains: int) -> list[Array]:
    """Positions of each domain's rows, in their order; rows of -1 are in none.

    Args:
        domain: (n,) positions.
        domains: how many there are.
    """
    order = np.argsort(domain, kind="stable")
    return np.split(order, np.searchsorted(domain[order], np.arange(domains + 1)))[1:-1]
