"""Networks that are a domain's own from the embeddings to the logit, stacked: of every kind of backbone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.func import functional_call, vmap
from torch.nn import functional

from network.backbone import Backbone
from network.embeddings import LookedUp
from network.kinds.interaction import Interacted
from network.tower import PlainLayer
from training.packed.local import Block, LocalRows
from training.packed.norm import Dropped, Filled, StackedNorm
from training.packed.stack import Layout, Stack, Tensors

_TABLE = "embedding"
_SLOPE = "slope"
_INTERACTION = "interaction."
_PLAIN = PlainLayer((), 0.0)
"""Of an interaction's modules, none of which has a norm."""


@dataclass(frozen=True)
class WholeNetwork:
    """The networks of t domains: embedding, interaction, tower, logit.

    Args:
        start: any network of their shape; its weights are not read.
        layout: of their stack.
        blocks: where each field's vector comes from.
    """

    start: Backbone
    layout: Layout
    blocks: Sequence[Block]

    @property
    def hidden(self) -> Sequence[int]:
        """Width of each hidden layer."""
        return self.start.shape.tower

    def logits(
        self, stack: Stack, rows: LocalRows, filled: Filled | None = None, drops: Sequence[Dropped] = ()
    ) -> Tensor:
        """Return the logits (t * n,); see `PackNetwork`."""
        own = self.layout.cut(stack)
        parts = self._interacted(own, *self._looked_up(own, rows))
        x = parts["tower"]
        for level in range(len(self.hidden)):
            x = torch.baddbmm(own[f"tower.{level}.bias"].unsqueeze(1), x, own[f"tower.{level}.weight"].transpose(1, 2))
            x = self._activated(own, level, x, filled, drops[level] if drops else None)
        if "beside" in parts:
            x = torch.cat([parts["beside"], x], dim=2)
        out = torch.baddbmm(own["output.bias"].unsqueeze(1), x, own["output.weight"].transpose(1, 2))
        return (out if "added" not in parts else out + parts["added"]).flatten()

    def _looked_up(self, own: Tensors, rows: LocalRows) -> tuple[Tensor, Tensor | None]:
        """The fields' vectors side by side (t, n, k), and the sums of first-order weights (t, n, 1) of kinds with them.

        Each domain reads its own table (R, E), or (R, E + 1) with the first-order weight as the last column.
        """
        table, shape = own[_TABLE], self.start.shape
        t, size = table.shape[:2]
        first = torch.arange(t).repeat_interleave(len(rows.local) // t) * size
        vectors = functional.embedding(rows.local + first.unsqueeze(1), table.flatten(0, 1))
        pieces, weights = [], []
        for block in self.blocks:
            if block.kind == "constant":
                pieces.append(rows.constant[:, block.columns])
                continue
            chosen = vectors[:, block.columns]
            if block.kind == "mean":
                present = rows.present[:, block.columns].unsqueeze(-1).to(chosen.dtype)
                chosen = (chosen * present).sum(1, keepdim=True) / present.sum(1, keepdim=True).clamp(min=1)
            pieces.append(chosen[..., : shape.width].flatten(1))
            weights.append(chosen[..., shape.width :].flatten(1))
        x = torch.cat(pieces, dim=1).view(t, -1, shape.input_width)
        if not shape.first_order:
            return x, None
        sums = torch.cat(weights, dim=1).sum(1).view(t, -1, 1)
        return x, torch.baddbmm(sums, rows.constant.view(t, x.shape[1], -1), own[_SLOPE].unsqueeze(2))

    def _interacted(self, own: Tensors, x: Tensor, first_order: Tensor | None) -> Tensors:
        """What the interactions give (t, n, ...) under the names of `Interacted`; what is nothing is not there."""
        if self.start.shape.kind == "mlp":
            return {"tower": x}
        weights = {name.removeprefix(_INTERACTION): own[name] for name in own if name.startswith(_INTERACTION)}
        found: Tensors = self._each(weights, x, first_order)
        return found

    @cached_property
    def _each(self) -> Callable[..., Tensors]:
        def one(weights: Tensors, x: Tensor, first_order: Tensor | None) -> Tensors:
            looked = LookedUp(x, torch.split(x, list(self.start.shape.widths), dim=1), first_order)
            parts: Interacted = functional_call(self.start.interaction, weights, (looked, _PLAIN))
            return {name: part for name, part in vars(parts).items() if part is not None}

        return vmap(one, in_dims=(0, 0, 0 if self.start.shape.first_order else None))

    def _activated(self, own: Tensors, level: int, h: Tensor, filled: Filled | None, drop: Dropped | None) -> Tensor:
        shape = self.start.shape
        if not shape.norm:
            h = functional.relu(h)
            return h if drop is None else drop.of(h)
        weight, bias, mean, var = (own[f"tower.{level}.norm.{key}"] for key in ("weight", "bias", "mean", "var"))
        norm = StackedNorm(weight, bias, mean, var, shape.norm_eps, shape.norm_momentum)
        return functional.relu(norm.by_running(h)) if filled is None else norm.hidden(h, filled, dropped=drop)


def whole_layout(start: Backbone, table_rows: int) -> Layout:
    """Lay out a whole network, its table's rows numbered anew.

    Args:
        start: a network of the same shape.
        table_rows: R, of the largest table of the pack.
    """
    learned: dict[str, tuple[int, ...]] = {_TABLE: (table_rows, start.embeddings.table.shape[1])}
    moments: dict[str, tuple[int, ...]] = {}
    for name, value in _beside_the_table(start).items():
        part = moments if name.endswith((".norm.mean", ".norm.var")) else learned
        part[name] = tuple(value.shape)
    return Layout(learned, moments)


def whole_tensors(start: Backbone, ids: Sequence[Tensor], table_rows: int) -> list[Tensors]:
    """Return each domain's start: the network's tensors, and of its table the domain's rows, filled up with zeros.

    Args:
        start: the network.
        ids: for each domain the rows of the whole table that it has.
        table_rows: R.
    """
    table, rest = start.embeddings.table.detach(), _beside_the_table(start)
    return [{_TABLE: functional.pad(table[own], (0, 0, 0, table_rows - len(own))), **rest} for own in ids]


def _beside_the_table(start: Backbone) -> Tensors:
    """What else a network learns or measures; the tower's and the output's tensors under their names in a bundle."""
    found = {name: value for name, value in start.weights().items() if name.startswith(("tower.", "output."))}
    found |= {_INTERACTION + name: value.detach() for name, value in start.interaction.state_dict().items()}
    return found | ({_SLOPE: start.embeddings.slope.detach()} if start.shape.first_order else {})
