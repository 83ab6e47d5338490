"""Truncated SVD of weight deltas, and the smallest ranks that a bound allows (methods.md 4)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Ranks = dict[str, int]


@dataclass(frozen=True)
class Factors:
    """A matrix as a product of two, best first: its first r columns and rows are the best approximation of rank r.

    Source: Eckart and Young, 1936. Singular values are shared evenly, so that neither factor leaves float16.

    Args:
        up: (d, R).
        down: (R, k).
    """

    up: Tensor
    down: Tensor

    @classmethod
    def of(cls, delta: Tensor, most: int) -> Factors:
        """Decompose a delta (d, k), to at most this rank; one that is all zero has rank 1 of zeros."""
        u, s, v = torch.linalg.svd(delta.double(), full_matrices=False)
        kept = min(max(int((s > s[:1] * 1e-12).sum()), 1), most)
        root = s[:kept].sqrt()
        return cls(u[:, :kept] * root, root[:, None] * v[:kept])

    @property
    def rank(self) -> int:
        """R."""
        return int(self.up.shape[1])

    def at(self, rank: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """`up` (d, r) and `down` (r, k) as an artifact holds them."""
        return self.up[:, :rank].to(dtype).contiguous(), self.down[:rank].to(dtype).contiguous()


def smallest_ranks(full: Mapping[str, int], loss: Callable[[Ranks], float], bound: float) -> Ranks | None:
    """Choose each layer's rank as small as a bound on the loss of all of them together allows.

    First layer by layer, each within its equal share of the bound; then each once more within what the others leave,
    until no rank can be lowered. In the end no smaller rank of any one layer would keep to the bound.

    Args:
        full: layer to its full rank, bottom to top.
        loss: of a choice of ranks.
        bound: on the loss.

    Returns:
        The ranks; None where even the full ones lose more than the bound.
    """
    seen: dict[tuple[int, ...], float] = {}

    def lost(ranks: Ranks) -> float:
        key = tuple(ranks.values())
        if key not in seen:
            seen[key] = loss(ranks)
        return seen[key]

    ranks = dict(full)
    if lost(ranks) > bound:
        return None
    for number, layer in enumerate(full, 1):
        ranks = _lowered(ranks, layer, lost, bound * number / len(full))
    before: Ranks = {}
    while ranks != before:
        before = ranks
        for layer in full:
            ranks = _lowered(ranks, layer, lost, bound)
    return ranks


def _lowered(ranks: Ranks, layer: str, lost: Callable[[Ranks], float], bound: float) -> Ranks:
    """The same with the smallest rank of one layer that keeps to the bound; as it was where none does."""
    for rank in range(1, ranks[layer]):
        tried = {**ranks, layer: rank}
        if lost(tried) <= bound:
            return tried
    return ranks
