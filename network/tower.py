"""The seam between a backbone's linear maps and what a domain changes in them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from torch import Tensor, nn

from network.norm import DomNorm


class TowerLayer(Protocol):
    """What stands between an adaptable module's input and its output; every form of the network is one of these.

    Modules are numbered as in `NetworkShape.modules`: the hidden layers first, then those of the interaction.
    `dropout` follows a hidden layer's ReLU when `training` is set: a layer brings its own, so that stages differ in it.
    """

    @property
    def training(self) -> bool: ...

    @property
    def dropout(self) -> float: ...

    def __call__(self, level: int, x: Tensor, linear: Callable[[Tensor], Tensor]) -> Tensor:
        """Return module `level`'s output, normed where it has a norm: (n, d) for x (n, k), linear(x) = W0 x + b0.

        Modules of an attention get x (n, F, k), a vector for each field, and return (n, F, d).
        """
        ...


class PlainLayer(nn.Module):
    """The backbone's own layer: norm(W0 x + b0). Source: methods.md 1.

    Args:
        norms: one norm for each hidden layer, or none at all.
        dropout: probability of dropout in training mode.
    """

    def __init__(self, norms: Iterable[DomNorm], dropout: float) -> None:
        super().__init__()
        self.norms = nn.ModuleList(norms)
        self.dropout = dropout

    def forward(self, level: int, x: Tensor, linear: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the module's output (n, d), normed where it has a norm."""
        return normed(self.norms, level, linear(x))


def normed(norms: nn.ModuleList, level: int, h: Tensor) -> Tensor:
    """Return h (n, d) through the norm of module `level`; as it is where that module has none.

    Args:
        norms: of the hidden layers, or empty: no module after them has a norm.
        level: number of the module.
        h: its pre-activation.
    """
    if level >= len(norms):
        return h
    out: Tensor = norms[level](h)
    return out
