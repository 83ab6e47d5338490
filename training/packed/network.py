"""What a pack's loop needs of the networks that it trains, and the networks of stage 2."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from network.backbone import Backbone
from training.packed.layer import PackedLayer, Rules
from training.packed.norm import Dropped, Filled
from training.packed.rows import Taken
from training.packed.stack import Layout, Stack

Read = TypeVar("Read")
ReadIn = TypeVar("ReadIn", contravariant=True)
ReadOut = TypeVar("ReadOut", covariant=True)


class PackNetwork(Protocol[ReadIn]):
    """The networks of t domains, stacked."""

    @property
    def hidden(self) -> Sequence[int]:
        """Width of each hidden layer, which dropout follows."""
        ...

    def logits(self, stack: Stack, rows: ReadIn, filled: Filled | None = None, drops: Sequence[Dropped] = ()) -> Tensor:
        """Return the logits (t * n,) of n rows of each domain.

        Args:
            stack: what the t domains have of their own.
            rows: n of each domain in turn.
            filled: the batches, in training; None normalises by running moments.
            drops: dropout of each hidden layer; empty without dropout.
        """
        ...


class PackRows(Protocol[ReadOut]):
    """The rows of a pack's domains, one domain after another."""

    @property
    def label(self) -> Tensor:
        """Their labels (n,)."""
        ...

    def take(self, at: Tensor) -> ReadOut:
        """Return the rows at these positions (n,), as the network reads them."""
        ...


@dataclass(frozen=True)
class LoraNetwork:
    """A frozen backbone with the adapters of t domains.

    Args:
        backbone: frozen, in eval mode.
        rules: of the adapters.
        layout: of their stack.
    """

    backbone: Backbone
    rules: Rules
    layout: Layout

    @property
    def hidden(self) -> Sequence[int]:
        """Width of each hidden layer."""
        return self.rules.shape.tower

    def logits(self, stack: Stack, rows: Taken, filled: Filled | None = None, drops: Sequence[Dropped] = ()) -> Tensor:
        """Return the logits (t * n,); see `PackNetwork`."""
        backbone = self.backbone
        layer = PackedLayer(self.rules, self.layout.cut(stack), filled, drops)
        parts = backbone.interaction(rows.looked, layer)
        x: Tensor = parts.tower
        for level, linear in enumerate(backbone.linears):
            known = rows.first if level == 0 else None
            x = layer.hidden(level, x, linear(x) if known is None else known)
        out: Tensor = backbone.output(x if parts.beside is None else torch.cat([parts.beside, x], dim=1))
        return (out if parts.added is None else out + parts.added).squeeze(-1)
