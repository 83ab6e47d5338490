"""Kind autoint: self-attention over the fields beside the tower."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from network.embeddings import LookedUp
from network.inputs import PROJECTIONS, ModuleShape, NetworkShape
from network.kinds.field_vectors import FieldVectors
from network.kinds.interaction import Interacted, Interaction
from network.tower import TowerLayer


class AutoInt(Interaction):
    """logit = output([attention(v), tower(x)]).

    Each layer, for every field m and head h, over the fields k:

        a_mk = softmax_k(<Q_h v_m, K_h v_k>);  v'_m = relu([sum_k a_mk V_h v_k over the heads] + R v_m)

    Source: AutoInt (Song et al., 2019), Eq. 5 to 8, and its joint form with a tower; methods.md 1 and 2: all four maps
    are targets of adapters. As printed there, inner products are not divided by a root, and maps have no bias.

    Args:
        shape: of the backbone.
    """

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__(shape)
        self.vectors = FieldVectors(shape)
        maps = iter(shape.modules[self.first :])
        self.attention = nn.ModuleList(
            nn.ModuleDict({name: _linear(next(maps)) for name in PROJECTIONS}) for _ in range(shape.attention_layers)
        )

    def forward(self, looked: LookedUp, layer: TowerLayer) -> Interacted:
        """Let the fields attend to each other, beside the tower."""
        fields = torch.stack(self.vectors(looked), dim=1)
        linears = self.linears()
        for start in range(0, len(linears), len(PROJECTIONS)):
            own = linears[start : start + len(PROJECTIONS)]
            maps = [layer(number, fields, linear) for number, linear in enumerate(own, self.first + start)]
            query, key, value = (part.chunk(self.shape.heads, dim=2) for part in maps[:3])
            heads = [torch.softmax(q @ k.transpose(1, 2), dim=2) @ v for q, k, v in zip(query, key, value, strict=True)]
            fields = functional.relu(torch.cat(heads, dim=2) + maps[3])
        beside = torch.cat([part.squeeze(1) for part in torch.split(fields, 1, dim=1)], dim=1)
        return Interacted(looked.x, beside=beside)

    def linears(self) -> Sequence[nn.Linear]:
        """The maps, layer by layer."""
        return [linear for linear in self.attention.modules() if isinstance(linear, nn.Linear)]

    def live(self) -> dict[str, Tensor]:
        """Return the tensors themselves under their names in a bundle."""
        maps = self.attention.state_dict()
        return self.vectors.live() | {f"attention.{name}": value.detach() for name, value in maps.items()}


def _linear(shape: ModuleShape) -> nn.Linear:
    return nn.Linear(shape.inputs, shape.outputs, bias=False)
