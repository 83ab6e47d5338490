"""HAMUR: adapter cells of each domain, whose inner matrices one hyper-network generates for every row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from network.grouping import Grouping
from network.inputs import NetworkShape
from training.baselines.baseline import Baseline, by_domain
from training.baselines.layers import HiddenLayers, Recipe
from training.baselines.settings import HamurSettings
from training.errors import ConfigError


class AdapterCell(nn.Module):
    """x + DN(sigmoid((x U1) I V1 + c1) U2 I V2 + c2): a bottleneck around which the input passes by.

    U (.., r) and V (r, ..) are the domain's, I (r, r) is generated for each row. Source: Li et al., HAMUR (CIKM 2023),
    "Domain-specific adapter" and "Domain-shared hyper-network" with its low-rank decomposition.
    departs from the paper: the norm's weight starts small, so that the cell starts near the identity.

    Args:
        width: d of its input and output.
        settings: bottleneck b, rank r, start of the norm.
        recipe: of the domain's norm DN.
    """

    def __init__(self, width: int, settings: HamurSettings, recipe: Recipe) -> None:
        super().__init__()
        b, r = settings.bottleneck, settings.rank
        self.down_left, self.down_right = _uniform(width, r), _uniform(r, b)
        self.up_left, self.up_right = _uniform(b, r), _uniform(r, width)
        self.down_shift = nn.Parameter(torch.zeros(b))
        self.up_shift = nn.Parameter(torch.zeros(width))
        self.norm = recipe.own_norm(width)
        nn.init.constant_(self.norm.weight, settings.start_gain)

    def forward(self, x: Tensor, inner: Tensor) -> Tensor:
        """Return the cell's output (n, d) for x (n, d) and the rows' matrices (n, r, r)."""
        low = torch.sigmoid(_through(x, self.down_left, inner, self.down_right) + self.down_shift)
        normed: Tensor = self.norm(_through(low, self.up_left, inner, self.up_right) + self.up_shift)
        return x + normed


class Hamur(Baseline):
    """The backbone's tower with an adapter cell of each row's domain after some hidden layers.

    I(x) = hyper(x) reshaped to (r, r), one for all cells of a row; hyper is shared by all domains.
    Source: Li et al., HAMUR: Hyper Adapter for Multi-Domain Recommendation (CIKM 2023, arXiv 2309.06217).
    departs from the paper: the tower itself is shared by all domains, as MultiLoRA's is; at evaluation a cell's norm
    uses the domain's running moments, in no case those of the batch.

    Args:
        shape: fields, widths and constants.
        domains: how many natural domains there are.
        settings: cells and hyper-network.

    Raises:
        ConfigError: a cell after a hidden layer that the tower does not have, or two after one.
    """

    one_domain_batches: ClassVar[bool] = True

    def __init__(self, shape: NetworkShape, domains: int, settings: HamurSettings) -> None:
        super().__init__(shape, domains)
        self.rank = settings.rank
        self.levels = _levels(settings.cells, len(shape.tower))
        self.hidden = HiddenLayers(shape.input_width, shape.tower, self.recipe)
        self.hyper = HiddenLayers(shape.input_width, settings.hyper, self.recipe)
        self.generate = nn.Linear(self.hyper.width, settings.rank**2)
        self.cells = nn.ModuleList(
            nn.ModuleList(AdapterCell(shape.tower[level], settings, self.recipe) for level in self.levels)
            for _ in range(domains)
        )
        self.output = nn.Linear(shape.tower[-1], 1)

    def _logits(self, x: Tensor, grouping: Grouping) -> Tensor:
        inner = self.generate(self.hyper(x)).view(-1, self.rank, self.rank)
        for level, layer in enumerate(self.hidden.layers):
            x = layer(x)
            if level in self.levels:
                x = self._adapted(self.levels.index(level), x, inner, grouping)
        logits: Tensor = self.output(x)
        return logits.squeeze(-1)

    def _adapted(self, cell: int, x: Tensor, inner: Tensor, grouping: Grouping) -> Tensor:
        def adapt(domain: int, rows: slice) -> Tensor:
            adapted: Tensor = self.cells[domain][cell](x[rows], inner[rows])  # type: ignore[index]  # a list of lists
            return adapted

        return by_domain(grouping, adapt)


def _levels(cells: Sequence[int], depth: int) -> tuple[int, ...]:
    """The hidden layers that a cell follows, counted from 0 and sorted."""
    wrong = [cell for cell in cells if not -depth <= cell < depth]
    levels = sorted({cell % depth for cell in cells})
    if wrong or len(levels) < len(cells):
        raise ConfigError(
            f"cells are {list(cells)} for a tower of {depth} hidden layers: name each at most once, from "
            f"{-depth} to {depth - 1}"
        )
    return tuple(levels)


def _through(x: Tensor, left: Tensor, inner: Tensor, right: Tensor) -> Tensor:
    """x (n, a) times left (a, r), the row's own inner (n, r, r), and right (r, b)."""
    return torch.bmm((x @ left).unsqueeze(1), inner).squeeze(1) @ right


def _uniform(inputs: int, outputs: int) -> nn.Parameter:
    bound = 1 / math.sqrt(inputs)
    return nn.Parameter(torch.empty(inputs, outputs).uniform_(-bound, bound))
