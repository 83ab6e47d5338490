"""What the baselines are built of: hidden layers like the backbone's, heads, experts and gates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from network.dropout import dropout
from network.inputs import NetworkShape
from network.norm import DomNorm


@dataclass(frozen=True)
class Recipe:
    """How every hidden layer is built, so that a baseline differs from the backbone in structure alone.

    Args:
        dropout: probability after each hidden layer.
        norm: whether a norm stands in each hidden layer.
        eps: added to a variance before its root.
        momentum: share of a batch's moments that enters the running ones.
    """

    dropout: float
    norm: bool
    eps: float
    momentum: float

    @classmethod
    def of(cls, shape: NetworkShape) -> Recipe:
        """Return the recipe of the backbone of this shape."""
        return cls(shape.dropout, shape.norm, shape.norm_eps, shape.norm_momentum)

    def own_norm(self, width: int) -> DomNorm:
        """Return a norm of this many channels that belongs to the method, whatever the backbone has."""
        return DomNorm(width, self.eps, self.momentum)

    def layer_norm(self, width: int) -> nn.Module:
        """Return the norm of a hidden layer: the identity where the backbone has none."""
        return self.own_norm(width) if self.norm else nn.Identity()


class HiddenLayer(nn.Module):
    """Linear -> norm -> ReLU -> Dropout, as a hidden layer of the backbone. Source: methods.md 1.

    Args:
        inputs: width k of its input.
        outputs: width d of its output.
        recipe: norm and dropout.
    """

    def __init__(self, inputs: int, outputs: int, recipe: Recipe) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.norm = recipe.layer_norm(outputs)
        self.dropout = recipe.dropout

    def forward(self, x: Tensor, shift: Tensor | None = None) -> Tensor:
        """Return the layer's output (n, d) for x (n, k); `shift` (n, d) is added before the norm."""
        h = self.linear(x)
        if shift is not None:
            h = h + shift
        return activated(self.norm(h), self.dropout if self.training else 0.0)


def activated(h: Tensor, probability: float) -> Tensor:
    """Return ReLU of h, with dropout where the probability is above zero."""
    h = functional.relu(h)
    return dropout(h, probability) if probability > 0 else h


class HiddenLayers(nn.Module):
    """Hidden layers one after another; none at all is the identity.

    Args:
        inputs: width k of the first layer's input.
        widths: output width of each layer.
        recipe: norm and dropout.
    """

    def __init__(self, inputs: int, widths: Sequence[int], recipe: Recipe) -> None:
        super().__init__()
        pairs = zip((inputs, *widths[:-1]), widths, strict=True) if widths else ()
        self.layers = nn.ModuleList(HiddenLayer(k, d, recipe) for k, d in pairs)
        self.width = widths[-1] if widths else inputs

    def forward(self, x: Tensor) -> Tensor:
        """Return the last layer's output (n, d) for x (n, k)."""
        for layer in self.layers:
            x = layer(x)
        return x


class Head(nn.Module):
    """A domain's tower: hidden layers and the logit's Linear.

    Args:
        inputs: width k of its input.
        widths: output width of each hidden layer.
        recipe: norm and dropout.
    """

    def __init__(self, inputs: int, widths: Sequence[int], recipe: Recipe) -> None:
        super().__init__()
        self.hidden = HiddenLayers(inputs, widths, recipe)
        self.output = nn.Linear(self.hidden.width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (n,) for x (n, k)."""
        logits: Tensor = self.output(self.hidden(x))
        return logits.squeeze(-1)


class Experts(nn.Module):
    """Networks side by side over one input.

    Args:
        inputs: width k of the input.
        widths: output width of each expert's hidden layers.
        count: how many experts.
        recipe: norm and dropout.
    """

    def __init__(self, inputs: int, widths: Sequence[int], count: int, recipe: Recipe) -> None:
        super().__init__()
        self.each = nn.ModuleList(HiddenLayers(inputs, widths, recipe) for _ in range(count))
        self.width = widths[-1] if widths else inputs

    def forward(self, x: Tensor) -> Tensor:
        """Return every expert's output (n, experts, d) for x (n, k)."""
        return torch.stack([expert(x) for expert in self.each], dim=1)


class Gates(nn.Module):
    """One softmax gate for each domain: w = softmax(W_domain x), without a bias.

    Args:
        domains: how many gates.
        inputs: width k of a gate's input.
        experts: how many weights a gate gives.
    """

    def __init__(self, domains: int, inputs: int, experts: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(inputs)
        self.weight = nn.ParameterList(torch.empty(experts, inputs).uniform_(-bound, bound) for _ in range(domains))

    def forward(self, domain: int, x: Tensor) -> Tensor:
        """Return the weights (n, experts) of one domain's gate for x (n, k); each row sums to one."""
        return torch.softmax(functional.linear(x, self.weight[domain]), dim=1)


def mixed(weights: Tensor, outputs: Tensor) -> Tensor:
    """Return the weighted sum (n, d) of experts' outputs (n, experts, d)."""
    return torch.bmm(weights.unsqueeze(1), outputs).squeeze(1)
