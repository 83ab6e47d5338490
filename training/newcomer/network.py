"""One new domain's network: the frozen backbone, its LoRA, its overlays, over its rows."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeGuard

import torch
from torch import Tensor, nn

from network.adapted import Into
from network.backbone import Backbone
from network.embeddings import LookedUp
from network.fused import FusedTower
from network.lora import DomainAdapter
from network.tower import normed
from training.batches import RowTensors
from training.newcomer.overlay import Chosen


@dataclass(frozen=True)
class NewcomerNetwork:
    """What scores a new domain's rows.

    Args:
        backbone: frozen.
        rows: the domain's.
        adapter: the LoRA and its norms; or a fused adapter as it is served, which only overlays are trained beside.
        overlays: the id overlays, at most one a side.
    """

    backbone: Backbone
    rows: RowTensors
    adapter: DomainAdapter | FusedTower
    overlays: Sequence[Chosen]

    def score(self, positions: Tensor) -> Tensor:
        """Return the logits (n,) of rows: the backbone's lookup, the overlays over it, the LoRAs in its layers."""
        with torch.no_grad():
            looked = self.backbone.embeddings.look_up(self.rows.batch(positions))
        if self._narrow(self.adapter):
            with torch.no_grad():
                x = self._overlaid(looked, positions)
            return self.backbone.score_looked_up(x, _Narrow(self.adapter, *self._named(positions)))
        looked = self._overlaid(looked, positions)
        if isinstance(self.adapter, FusedTower):
            return self.adapter.score_looked_up(self.backbone, looked, self.rows.domains[positions])
        return self.backbone.score_looked_up(looked, self.adapter)

    def _narrow(self, adapter: DomainAdapter | FusedTower) -> TypeGuard[DomainAdapter]:
        """Whether x goes into a LoRA and nowhere else, so that the overlays' part of its gradient is all of use."""
        is_lora = isinstance(adapter, DomainAdapter) and adapter.lora(0) is not None
        return is_lora and bool(self.overlays) and self.backbone.shape.kind == "mlp"

    def _overlaid(self, looked: LookedUp, positions: Tensor) -> LookedUp:
        for chosen in self.overlays:
            looked = chosen.overlay.laid_over(looked, chosen.positions[positions])
        return looked

    def _named(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """The overlays' vectors (n, E) side by side, zero where an id has none; and which columns of x they are."""
        rows, columns = [], []
        for chosen in self.overlays:
            overlay, at = chosen.overlay, chosen.positions[positions]
            start = sum(self.backbone.shape.widths[: overlay.place])
            columns.append(torch.arange(start, start + overlay.field.width))
            rows.append(overlay.rows()[at.clamp(min=0)] * (at >= 0).unsqueeze(1))
        return torch.cat(rows, dim=1), torch.cat(columns)

    def copied(self) -> NewcomerNetwork:
        """The same with a copy of everything that training changes."""
        overlays = [Chosen(copy.deepcopy(chosen.overlay), chosen.positions) for chosen in self.overlays]
        return replace(self, adapter=copy.deepcopy(self.adapter), overlays=overlays)

    def distance(self) -> Tensor:
        """How far all overlays' rows lie from where they started: the sum of squares, in units of their spread."""
        return sum((chosen.overlay.distance() for chosen in self.overlays), torch.zeros(()))


class OwnParts(nn.Module):
    """Everything of such a network that is trained.

    Args:
        network: whose.
    """

    def __init__(self, network: NewcomerNetwork) -> None:
        super().__init__()
        self.adapter = None if isinstance(network.adapter, FusedTower) else network.adapter
        self.overlays = nn.ModuleList(chosen.overlay for chosen in network.overlays)


class _Narrow:
    """A `TowerLayer` whose first layer hands its gradient to the overlays' rows alone.

    The rest of that layer's input is constant, and so are its weights: a gradient of all of x would be four times the
    work of the one that is wanted. It gives what autograd gives where x is made of the rows.

    Args:
        adapter: the domain's.
        rows: (n, E) what the overlays put into x.
        columns: (E,) where in x.
    """

    def __init__(self, adapter: DomainAdapter, rows: Tensor, columns: Tensor) -> None:
        self._adapter = adapter
        self._rows = rows
        self._columns = columns

    @property
    def training(self) -> bool:
        return self._adapter.training

    @property
    def dropout(self) -> float:
        return self._adapter.dropout

    def __call__(self, level: int, x: Tensor, linear: Callable[[Tensor], Tensor]) -> Tensor:
        """The adapter's output (n, d)."""
        lora = self._adapter.lora(level)
        if level > 0 or lora is None:
            return self._adapter(level, x, linear)  # type: ignore[no-any-return]  # a module's call is untyped
        return normed(self._adapter.norms, level, lora.beside(linear, x, Into(self._rows, self._columns)))
