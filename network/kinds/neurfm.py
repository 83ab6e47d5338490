"""Kind neurfm: the tower reads the pooled pairs of fields."""

from __future__ import annotations

from torch import Tensor

from network.embeddings import LookedUp
from network.inputs import NetworkShape
from network.kinds.field_vectors import FieldVectors, bi_interaction
from network.kinds.interaction import Interacted, Interaction
from network.tower import TowerLayer


class NeurFm(Interaction):
    """logit = tower(sum over pairs of fields of v_i * v_j) + sum of first-order weights.

    Source: Neural Factorization Machines (He & Chua, 2017), Eq. 3 to 6; methods.md 1.
    departs from the paper: neither norm nor dropout on the pooled vector; the tower's first norm sees it at once.

    Args:
        shape: of the backbone.
    """

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__(shape)
        self.vectors = FieldVectors(shape)

    def forward(self, looked: LookedUp, layer: TowerLayer) -> Interacted:
        """Pool the pairs for the tower and add the first-order sum to the logit."""
        return Interacted(bi_interaction(self.vectors(looked)), added=looked.first_order)

    def live(self) -> dict[str, Tensor]:
        """Return the tensors themselves under their names in a bundle."""
        return self.vectors.live()
