"""The AUCs of many domains by one sort."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def domain_aucs(label: NDArray[Any], score: NDArray[Any], owner: NDArray[np.int64], domains: int) -> list[float | None]:
    """Return each domain's AUC, exact, a tie counting half, as `training.metrics.auc` gives it.

    Args:
        label: (n,) 0 or 1.
        score: (n,).
        owner: (n,) the domain of each row, from 0.
        domains: how many there are.

    Returns:
        One AUC for each domain; None where it has rows of one class only, or none.
    """
    if len(owner) == 0:
        return [None] * domains
    order = np.lexsort((score, owner))
    positive, owners, scores = label[order] > 0.5, owner[order], score[order]
    first = np.r_[True, (owners[1:] != owners[:-1]) | (scores[1:] != scores[:-1])]
    ties, of_tie = np.cumsum(first) - 1, owners[first]
    positives = np.bincount(ties, weights=positive)
    negatives = np.bincount(ties) - positives
    ups, downs = (np.bincount(of_tie, weights=part, minlength=domains) for part in (positives, negatives))
    # one running sum over all domains; what the domains before hold is taken off again
    before = np.cumsum(negatives) - negatives - (np.cumsum(downs) - downs)[of_tie]
    won = np.bincount(of_tie, weights=positives * (before + 0.5 * negatives), minlength=domains)
    return [float(w / (p * n)) if p and n else None for w, p, n in zip(won, ups, downs, strict=True)]
