"""Kind deepfm: first order and all pairs of fields beside the tower."""

from __future__ import annotations

from torch import Tensor

from network.embeddings import LookedUp
from network.inputs import NetworkShape
from network.kinds.field_vectors import FieldVectors, bi_interaction
from network.kinds.interaction import Interacted, Interaction
from network.tower import TowerLayer


class DeepFm(Interaction):
    """logit = tower(x) + sum of first-order weights + sum over pairs of fields of <v_i, v_j>.

    Source: DeepFM (Guo et al., 2017), Eq. 1 to 3; methods.md 1. The tower shares the vectors.

    Args:
        shape: of the backbone.
    """

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__(shape)
        self.vectors = FieldVectors(shape)

    def forward(self, looked: LookedUp, layer: TowerLayer) -> Interacted:
        """Add both orders to the logit."""
        assert looked.first_order is not None
        pairs = bi_interaction(self.vectors(looked)).sum(1, keepdim=True)
        return Interacted(looked.x, added=looked.first_order + pairs)

    def live(self) -> dict[str, Tensor]:
        """Return the tensors themselves under their names in a bundle."""
        return self.vectors.live()
