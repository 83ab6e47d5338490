"""Kind dcn: a cross network with vector weights beside the tower."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from network.embeddings import LookedUp
from network.inputs import NetworkShape
from network.kinds.interaction import Interacted, Interaction
from network.tower import TowerLayer


class CrossVector(nn.Module):
    """One cross layer: x' = x0 (x . w) + b + x. Source: Deep & Cross Network (Wang et al., 2017), Eq. 3.

    Args:
        width: k.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(width)
        self.weight = nn.Parameter(torch.empty(width).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x0: Tensor, x: Tensor) -> Tensor:
        """Return the next x (n, k)."""
        return x0 * (x @ self.weight.unsqueeze(1)) + self.bias + x


class Dcn(Interaction):
    """logit = output([cross(x), tower(x)]).

    Source: Deep & Cross Network (Wang et al., 2017); methods.md 1. The vectors are no target of adapters.

    Args:
        shape: of the backbone.
    """

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__(shape)
        self.cross = nn.ModuleList(CrossVector(shape.input_width) for _ in range(shape.cross_layers))

    def forward(self, looked: LookedUp, layer: TowerLayer) -> Interacted:
        """Cross the input with itself, beside the tower."""
        x = looked.x
        for cross in self.cross:
            x = cross(looked.x, x)
        return Interacted(looked.x, beside=x)
