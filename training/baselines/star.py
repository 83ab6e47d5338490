"""STAR: a shared network whose weights each domain multiplies by its own, partitioned norms, an auxiliary network."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from network.grouping import Grouping
from network.inputs import NetworkShape
from network.norm import DomNorm
from training.baselines.baseline import Baseline, by_domain
from training.baselines.layers import Head, Recipe, activated
from training.baselines.settings import StarSettings


class PartitionedNorm(nn.Module):
    """(weight * weight_p) * (h - mean_p) / sqrt(var_p + eps) + (bias + bias_p), with moments of each domain p.

    In training the moments are those of the domain's rows in the batch, at evaluation the domain's running ones.
    Source: Sheng et al., STAR (CIKM 2021), Eq. 3, 4.
    departs from the paper: fewer than 32 rows of a domain in a batch are normalised by its running moments and do not
    move them (methods.md 2). Mixed training gives batches of one domain, as the paper does; not every framework.

    Args:
        width: channels d.
        domains: how many.
        recipe: eps and momentum.
    """

    def __init__(self, width: int, domains: int, recipe: Recipe) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.own = nn.ModuleList(recipe.own_norm(width) for _ in range(domains))

    def forward(self, domain: int, h: Tensor) -> Tensor:
        """Return the normed rows (n, d), all of one domain."""
        own: DomNorm = self.own[domain]  # type: ignore[assignment]  # a ModuleList forgets what it holds
        normed: Tensor = self.weight * (own(h) - own.bias) + (self.bias + own.bias)
        return normed


class StarLinear(nn.Module):
    """(W_p * W) x + b_p + b, elementwise in the weights: one centre, and a factor for each domain p.

    Source: STAR, Eq. 5, 6. A domain starts as the identity: W_p = 1, b_p = 0.

    Args:
        inputs: width k.
        outputs: width d.
        domains: how many.
    """

    def __init__(self, inputs: int, outputs: int, domains: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.empty(outputs, inputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(outputs).uniform_(-bound, bound))
        self.own_weight = nn.ParameterList(torch.ones(outputs, inputs) for _ in range(domains))
        self.own_bias = nn.ParameterList(torch.zeros(outputs) for _ in range(domains))

    def forward(self, domain: int, x: Tensor) -> Tensor:
        """Return (n, d) for rows x (n, k), all of one domain."""
        return functional.linear(x, self.weight * self.own_weight[domain], self.bias + self.own_bias[domain])


class Star(Baseline):
    """logit = s_m + s_a: a star-shaped fully connected network, and a small one that sees the domain.

    s_m: PN of x, then per layer phi((W_p * W) x + b_p + b); s_a: hidden layers over [indicator_p, x].
    Source: Sheng et al., One Model to Serve All: Star Topology Adaptive Recommender (CIKM 2021), Eq. 3 to 7.
    departs from the paper: the domain indicator is an embedding of its own beside the fields, so that data without a
    field of the domain can be trained; widths are the backbone's.

    Args:
        shape: fields, widths and constants.
        domains: how many natural domains there are.
        settings: where the norms stand, and the auxiliary network's widths.
    """

    one_domain_batches: ClassVar[bool] = True

    def __init__(self, shape: NetworkShape, domains: int, settings: StarSettings) -> None:
        super().__init__(shape, domains)
        width, tower = shape.input_width, shape.tower
        at_input, in_layers = settings.norm_at != "hidden", settings.norm_at != "input"
        self.input_norm = PartitionedNorm(width, domains, self.recipe) if at_input else None
        self.linears = nn.ModuleList(StarLinear(k, d, domains) for k, d in zip((width, *tower), tower, strict=False))
        self.layer_norms = nn.ModuleList(PartitionedNorm(d, domains, self.recipe) for d in (tower if in_layers else ()))
        self.output = StarLinear(tower[-1], 1, domains)
        self.indicator = nn.ParameterList(torch.randn(shape.width) * shape.embedding_std for _ in range(domains))
        self.auxiliary = Head(shape.width + width, settings.auxiliary, self.recipe)

    def _logits(self, x: Tensor, grouping: Grouping) -> Tensor:
        return by_domain(grouping, lambda domain, rows: self._centre(domain, x[rows])) + self._aside(x, grouping)

    def _centre(self, domain: int, x: Tensor) -> Tensor:
        """s_m (n,) of one domain's rows."""
        if self.input_norm is not None:
            x = self.input_norm(domain, x)
        for level, linear in enumerate(self.linears):
            h = linear(domain, x)
            if len(self.layer_norms):
                h = self.layer_norms[level](domain, h)
            x = activated(h, self.recipe.dropout if self.training else 0.0)
        logits: Tensor = self.output(domain, x)
        return logits.squeeze(-1)

    def _aside(self, x: Tensor, grouping: Grouping) -> Tensor:
        """s_a (n,) of sorted rows."""
        own = by_domain(grouping, lambda domain, rows: self.indicator[domain].expand(rows.stop - rows.start, -1))
        logits: Tensor = self.auxiliary(torch.cat([own, x], dim=1))
        return logits
