"""One new domain's network: the frozen backbone, its LoRA, its overlays, over its rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from network.backbone import Backbone
from network.fused import FusedTower
from network.lora import DomainAdapter
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
        for chosen in self.overlays:
            looked = chosen.overlay.laid_over(looked, chosen.positions[positions])
        if isinstance(self.adapter, FusedTower):
            return self.adapter.score_looked_up(self.backbone, looked, self.rows.domains[positions])
        return self.backbone.score_looked_up(looked, self.adapter)

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
