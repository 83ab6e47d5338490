"""The seam between the tower and what a domain changes in it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from torch import Tensor, nn

from network.norm import DomNorm


class TowerLayer(Protocol):
    """What stands between a hidden layer's input and its ReLU; every form of the network is one of these.

    `dropout` follows the ReLU when `training` is set: a layer brings its own, so that stages differ in it.
    """

    @property
    def training(self) -> bool: ...

    @property
    def dropout(self) -> float: ...

    def __call__(self, level: int, x: Tensor, linear: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the normed pre-activation (n, d) of hidden layer `level`; x (n, k), linear(x) = W0 x + b0."""
        ...


class PlainLayer(nn.Module):
    """The backbone's own layer: norm(W0 x + b0). Source: methods.md 1.

    Args:
        norms: one norm for each hidden layer.
        dropout: probability of dropout in training mode.
    """

    def __init__(self, norms: Iterable[DomNorm], dropout: float) -> None:
        super().__init__()
        self.norms = nn.ModuleList(norms)
        self.dropout = dropout

    def forward(self, level: int, x: Tensor, linear: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the normed pre-activation (n, d)."""
        normed: Tensor = self.norms[level](linear(x))
        return normed
