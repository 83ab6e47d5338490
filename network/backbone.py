"""The backbone: embeddings, an interaction, a tower, one logit; and the names that its tensors have in a bundle."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from network.dropout import dropout
from network.embeddings import FieldEmbeddings, LookedUp
from network.errors import ShapeError
from network.inputs import Batch, NetworkShape
from network.kinds.table import KINDS
from network.norm import DomNorm
from network.tower import PlainLayer, TowerLayer


class Backbone(nn.Module):
    """Interaction of embedded fields -> tower -> logit; per hidden layer Linear -> norm -> ReLU -> Dropout.

    Source: methods.md 1. The same forward serves every kind and every form of the network: `shape.kind` chooses the
    interaction, and `layer` replaces what happens between an adaptable module's input and its output.

    Args:
        shape: fields, widths and constants.
        given: field to its vectors (V, width), for fields that bring their own; `load_weights` brings them too.
    """

    def __init__(self, shape: NetworkShape, given: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        self.shape = shape
        self.embeddings = FieldEmbeddings(shape, given)
        self.linears = nn.ModuleList(nn.Linear(k, d) for k, d in shape.layers)
        norms = (DomNorm(d, shape.norm_eps, shape.norm_momentum) for d in shape.tower) if shape.norm else ()
        self.plain = PlainLayer(norms, shape.dropout)
        self.output = nn.Linear(shape.output_width, 1)
        self.interaction = KINDS[shape.kind](shape)

    def forward(self, batch: Batch, layer: TowerLayer | None = None) -> Tensor:
        """Return the logits (n,) of encoded rows, through `layer` or the backbone's own."""
        return self.score_looked_up(self.embeddings.look_up(batch), layer)

    def score(self, x: Tensor, layer: TowerLayer | None = None, first_order: Tensor | None = None) -> Tensor:
        """Return the logits (n,) of the fields' vectors side by side.

        Args:
            x: (n, k), from `FieldEmbeddings`.
            layer: instead of the backbone's own.
            first_order: (n, 1), for kinds that have it.
        """
        return self.score_looked_up(LookedUp(x, torch.split(x, list(self.shape.widths), dim=1), first_order), layer)

    def score_looked_up(self, looked: LookedUp, layer: TowerLayer | None = None) -> Tensor:
        """Return the logits (n,) of what the lookup gave, through `layer` or the backbone's own."""
        chosen = self.plain if layer is None else layer
        parts = self.interaction(looked, chosen)
        x = parts.tower
        for level, linear in enumerate(self.linears):
            x = functional.relu(chosen(level, x, linear))
            if chosen.training and chosen.dropout > 0:
                x = dropout(x, chosen.dropout)
        logits: Tensor = self.output(x if parts.beside is None else torch.cat([parts.beside, x], dim=1))
        if parts.added is not None:
            logits = logits + parts.added
        return logits.squeeze(-1)

    def freeze(self) -> Backbone:
        """Make every parameter constant and switch to eval mode, as stages 2 and 3 need it."""
        return self.requires_grad_(False).eval()

    def weights(self) -> dict[str, Tensor]:
        """Return every tensor under its name in a bundle, each a detached copy."""
        return {name: value.clone() for name, value in self._live().items()}

    @torch.no_grad()
    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Take every tensor from a bundle's names.

        Raises:
            ShapeError: a tensor is missing, unknown or of another shape.
        """
        own = self._live()
        wrong = sorted(own.keys() ^ weights.keys())
        if wrong:
            raise ShapeError(f"the tensors do not match this backbone: {', '.join(wrong)} missing or unknown")
        for name, value in weights.items():
            if value.shape != own[name].shape:
                raise ShapeError(f"{name} has shape {tuple(value.shape)}, this backbone needs {tuple(own[name].shape)}")
        for name, value in weights.items():
            own[name].copy_(value)
        self.embeddings.take_given({name: weights[f"embedding.{name}"] for name in self.embeddings.given_names()})

    def _live(self) -> dict[str, Tensor]:
        """The tensors themselves, detached but not copied, under a bundle's names."""
        named = self.embeddings.live()
        for level, linear in enumerate(self.linears):
            named |= {f"tower.{level}.{key}": value for key, value in linear.state_dict().items()}
            if self.shape.norm:
                norm = self.plain.norms[level].state_dict()
                named |= {f"tower.{level}.norm.{key}": value for key, value in norm.items()}
        named |= {f"output.{key}": value for key, value in self.output.state_dict().items()}
        return {name: value.detach() for name, value in (named | self.interaction.live()).items()}
