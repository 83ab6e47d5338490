"""Networks that are a domain's own from the embeddings to the logit, stacked. Kind mlp alone: methods.md 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from network.backbone import Backbone
from network.inputs import NetworkShape
from training.errors import ConfigError
from training.packed.local import Block, LocalRows
from training.packed.norm import Dropped, Filled, StackedNorm
from training.packed.stack import Layout, Stack, Tensors

_TABLE = "embedding"


@dataclass(frozen=True)
class WholeNetwork:
    """The networks of t domains: embedding, tower, logit.

    Args:
        shape: of each.
        layout: of their stack.
        blocks: where each field's vector comes from.
    """

    shape: NetworkShape
    layout: Layout
    blocks: Sequence[Block]

    @property
    def hidden(self) -> Sequence[int]:
        """Width of each hidden layer."""
        return self.shape.tower

    def logits(
        self, stack: Stack, rows: LocalRows, filled: Filled | None = None, drops: Sequence[Dropped] = ()
    ) -> Tensor:
        """Return the logits (t * n,); see `PackNetwork`."""
        own = self.layout.cut(stack)
        x = self._looked_up(own[_TABLE], rows).view(len(stack), -1, self.shape.input_width)
        for level in range(len(self.shape.tower)):
            x = torch.baddbmm(own[f"tower.{level}.bias"].unsqueeze(1), x, own[f"tower.{level}.weight"].transpose(1, 2))
            x = self._activated(own, level, x, filled, drops[level] if drops else None)
        out = torch.baddbmm(own["output.bias"].unsqueeze(1), x, own["output.weight"].transpose(1, 2))
        return out.flatten()

    def _looked_up(self, table: Tensor, rows: LocalRows) -> Tensor:
        """The fields' vectors side by side (t * n, k); each domain reads its own table (R, E)."""
        t, size = table.shape[:2]
        first = torch.arange(t).repeat_interleave(len(rows.local) // t) * size
        vectors = functional.embedding(rows.local + first.unsqueeze(1), table.flatten(0, 1))
        pieces = []
        for block in self.blocks:
            if block.kind == "constant":
                pieces.append(rows.constant[:, block.columns])
                continue
            chosen = vectors[:, block.columns]
            if block.kind == "mean":
                present = rows.present[:, block.columns].unsqueeze(-1).to(chosen.dtype)
                chosen = (chosen * present).sum(1, keepdim=True) / present.sum(1, keepdim=True).clamp(min=1)
            pieces.append(chosen.flatten(1))
        return torch.cat(pieces, dim=1)

    def _activated(self, own: Tensors, level: int, h: Tensor, filled: Filled | None, drop: Dropped | None) -> Tensor:
        if not self.shape.norm:
            h = functional.relu(h)
            return h if drop is None else drop.of(h)
        weight, bias, mean, var = (own[f"tower.{level}.norm.{key}"] for key in ("weight", "bias", "mean", "var"))
        norm = StackedNorm(weight, bias, mean, var, self.shape.norm_eps, self.shape.norm_momentum)
        return functional.relu(norm.by_running(h)) if filled is None else norm.hidden(h, filled, dropped=drop)


def whole_layout(shape: NetworkShape, table_rows: int) -> Layout:
    """Lay out a whole network under its names in a bundle, its table's rows numbered anew.

    Args:
        shape: of kind mlp.
        table_rows: R, of the largest table of the pack.

    Raises:
        ConfigError: another kind.
    """
    if shape.kind != "mlp":
        raise ConfigError(f"whole networks of kind {shape.kind} are not trained packed: take kind mlp")
    learned: dict[str, tuple[int, ...]] = {_TABLE: (table_rows, shape.width)}
    moments: dict[str, tuple[int, ...]] = {}
    for level, (k, d) in enumerate(shape.layers):
        learned |= {f"tower.{level}.weight": (d, k), f"tower.{level}.bias": (d,)}
        if shape.norm:
            learned |= {f"tower.{level}.norm.{key}": (d,) for key in ("weight", "bias")}
            moments |= {f"tower.{level}.norm.{key}": (d,) for key in ("mean", "var")}
    learned |= {"output.weight": (1, shape.output_width), "output.bias": (1,)}
    return Layout(learned, moments)


def whole_tensors(start: Backbone, ids: Tensor, table_rows: int) -> Tensors:
    """Return a domain's start: the network's tensors, and of its table the rows `ids`, filled up with zeros."""
    table = start.embeddings.table.detach()[ids]
    weights = {name: value for name, value in start.weights().items() if not name.startswith("embedding.")}
    return {_TABLE: functional.pad(table, (0, 0, 0, table_rows - len(ids)))} | weights
