"""Kind mlp: the fields' vectors side by side go into the tower."""

from __future__ import annotations

from network.embeddings import LookedUp
from network.kinds.interaction import Interacted, Interaction
from network.tower import TowerLayer


class Mlp(Interaction):
    """No interaction of its own. Source: methods.md 1."""

    def forward(self, looked: LookedUp, layer: TowerLayer) -> Interacted:
        """Hand the vectors on."""
        return Interacted(looked.x)
