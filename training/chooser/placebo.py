"""A division that says nothing: the same domains, of the same sizes, given to users, items or rows at random.

Adapters of a division that says nothing still differ, and each still fits who is in its domain a little better than the
others do. What a candidate is worth is what it has beyond that.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def shuffled(domain: NDArray[Any], weight: NDArray[Any], draw: np.random.Generator) -> NDArray[np.int32]:
    """Give the domains out anew, in random order, each until it has the rows that it had.

    Args:
        domain: (n,) each one's domain; -1 is none, and has its share too.
        weight: (n,) training rows of each.
        draw: random source.

    Returns:
        New domains (n,).
    """
    if not len(domain):
        return domain.astype(np.int32)
    order = draw.permutation(len(domain))
    ends = np.cumsum(np.bincount(domain + 1, weights=weight))
    rows = weight[order].astype(np.float64)
    middle = np.cumsum(rows) - 0.5 * rows
    found = np.empty(len(domain), np.int32)
    found[order] = np.minimum(np.searchsorted(ends, middle, side="right"), len(ends) - 1) - 1
    return found
