"""Kind wide_deep: a linear model of all feature values beside the tower."""

from __future__ import annotations

from network.embeddings import LookedUp
from network.kinds.interaction import Interacted, Interaction
from network.tower import TowerLayer


class WideDeep(Interaction):
    """logit = tower(x) + sum of first-order weights.

    Source: Wide & Deep Learning for Recommender Systems (Cheng et al., 2016); methods.md 1.
    departs from the paper: the wide part has no hand-made cross features.
    """

    def forward(self, looked: LookedUp, layer: TowerLayer) -> Interacted:
        """Add the first-order sum to the logit."""
        return Interacted(looked.x, added=looked.first_order)
