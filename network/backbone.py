"""The backbone: embeddings, a tower, one logit; and the names that its tensors have in a bundle."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from network.dropout import dropout
from network.embeddings import FieldEmbeddings
from network.errors import ShapeError
from network.inputs import Batch, NetworkShape
from network.norm import DomNorm
from network.tower import PlainLayer, TowerLayer


class Backbone(nn.Module):
    """An MLP tower over embedded fields: per hidden layer Linear -> norm -> ReLU -> Dropout, then the logit's Linear.

    Source: methods.md 1. The same forward serves every form of the network: `layer` replaces what happens between a
    hidden layer's input and its ReLU.

    Args:
        shape: fields, widths and constants.
    """

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__()
        self.shape = shape
        self.embeddings = FieldEmbeddings(shape)
        self.linears = nn.ModuleList(nn.Linear(k, d) for k, d in shape.layers)
        self.plain = PlainLayer((DomNorm(d, shape.norm_eps, shape.norm_momentum) for d in shape.tower), shape.dropout)
        self.output = nn.Linear(shape.tower[-1], 1)

    def forward(self, batch: Batch, layer: TowerLayer | None = None) -> Tensor:
        """Return the logits (n,) of encoded rows, through `layer` or the backbone's own."""
        return self.score(self.embeddings(batch), layer)

    def score(self, x: Tensor, layer: TowerLayer | None = None) -> Tensor:
        """Return the logits (n,) of the tower's input x (n, k)."""
        chosen = self.plain if layer is None else layer
        for level, linear in enumerate(self.linears):
            x = functional.relu(chosen(level, x, linear))
            if chosen.training and chosen.dropout > 0:
                x = dropout(x, chosen.dropout)
        logits: Tensor = self.output(x)
        return logits.squeeze(-1)

    def freeze(self) -> Backbone:
        """Make every parameter constant and switch to eval mode, as stages 2 and 3 need it."""
        return self.requires_grad_(False).eval()

    def weights(self) -> dict[str, Tensor]:
        """Return every tensor under its name in a bundle, each a detached copy."""
        named = {f"embedding.{name}": self.embeddings.table_of(name) for name in self.embeddings.starts}
        for level, (linear, norm) in enumerate(zip(self.linears, self.plain.norms, strict=True)):
            named |= {f"tower.{level}.{key}": value for key, value in linear.state_dict().items()}
            named |= {f"tower.{level}.norm.{key}": value for key, value in norm.state_dict().items()}
        named |= {f"output.{key}": value for key, value in self.output.state_dict().items()}
        return {name: value.detach().clone() for name, value in named.items()}

    @torch.no_grad()
    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Take every tensor from a bundle's names.

        Raises:
            ShapeError: a tensor is missing, unknown or of another shape.
        """
        own = self.weights()
        wrong = sorted(own.keys() ^ weights.keys())
        if wrong:
            raise ShapeError(f"the tensors do not match this backbone: {', '.join(wrong)} missing or unknown")
        for name, value in weights.items():
            if value.shape != own[name].shape:
                raise ShapeError(f"{name} has shape {tuple(value.shape)}, this backbone needs {tuple(own[name].shape)}")
        for name in self.embeddings.starts:
            self.embeddings.table_of(name).copy_(weights[f"embedding.{name}"])
        for level, (linear, norm) in enumerate(zip(self.linears, self.plain.norms, strict=True)):
            prefix = f"tower.{level}."
            linear.load_state_dict({key: weights[prefix + key] for key in ("weight", "bias")})
            norm.load_state_dict({key: weights[f"{prefix}norm.{key}"] for key in ("weight", "bias", "mean", "var")})
        self.output.load_state_dict({key: weights[f"output.{key}"] for key in ("weight", "bias")})
