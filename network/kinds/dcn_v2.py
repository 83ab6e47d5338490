"""Kind dcn_v2: a cross network with matrix weights beside the tower."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from network.embeddings import LookedUp
from network.inputs import NetworkShape
from network.kinds.interaction import Interacted, Interaction
from network.tower import TowerLayer


class DcnV2(Interaction):
    """logit = output([cross(x), tower(x)]), each cross layer x' = x0 * (W x + b) + x.

    Source: DCN V2 (Wang et al., 2021), Eq. 1 and the parallel structure; methods.md 1 and 2: W is a target of adapters.

    Args:
        shape: of the backbone.
    """

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__(shape)
        k = shape.input_width
        self.cross = nn.ModuleList(nn.Linear(k, k) for _ in range(shape.cross_layers))

    def forward(self, looked: LookedUp, layer: TowerLayer) -> Interacted:
        """Cross the input with itself, beside the tower."""
        x = looked.x
        for number, linear in enumerate(self.linears(), self.first):
            x = looked.x * layer(number, x, linear) + x
        return Interacted(looked.x, beside=x)

    def linears(self) -> Sequence[nn.Linear]:
        """The matrices, bottom to top."""
        return [linear for linear in self.cross if isinstance(linear, nn.Linear)]
