"""Shared-Bottom: hidden layers of all domains, then a tower for each."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from network.grouping import Grouping
from network.inputs import NetworkShape
from training.baselines.baseline import Baseline, by_domain
from training.baselines.layers import Head, HiddenLayers
from training.baselines.settings import SharedBottomSettings


class SharedBottom(Baseline):
    """y_k = h^k(f(x)): f is shared, h^k is domain k's tower.

    Source: Caruana, Multitask Learning (1997); the formula is Eq. 1 of Ma et al., MMoE (KDD 2018).
    departs from the paper: a row belongs to one domain, so that only its own tower is computed.

    Args:
        shape: fields, widths and constants.
        domains: how many natural domains there are.
        settings: widths of f and h.
    """

    def __init__(self, shape: NetworkShape, domains: int, settings: SharedBottomSettings) -> None:
        super().__init__(shape, domains)
        bottom, tower = split_tower(shape, settings)
        self.bottom = HiddenLayers(shape.input_width, bottom, self.recipe)
        self.towers = nn.ModuleList(Head(self.bottom.width, tower, self.recipe) for _ in range(domains))

    def _logits(self, x: Tensor, grouping: Grouping) -> Tensor:
        shared = self.bottom(x)
        return by_domain(grouping, lambda domain, rows: self.towers[domain](shared[rows]))


def split_tower(shape: NetworkShape, settings: SharedBottomSettings) -> tuple[Sequence[int], Sequence[int]]:
    """Return the widths of the shared layers and of each domain's tower; together as deep as the backbone by default.

    A backbone of one hidden layer shares it, and a domain's tower is its output layer.
    """
    last = max(len(shape.tower) - 1, 1)
    bottom = shape.tower[:last] if settings.bottom is None else settings.bottom
    tower = shape.tower[last:] if settings.tower is None else settings.tower
    return bottom, tower
