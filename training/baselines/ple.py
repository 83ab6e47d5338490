"""CGC and PLE: experts of each domain beside shared ones, in one level or in several."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from network.grouping import Grouping
from network.inputs import NetworkShape
from training.baselines.baseline import Baseline, by_domain
from training.baselines.layers import Experts, Gates, Head, Recipe, mixed
from training.baselines.settings import CgcSettings, PleSettings
from training.baselines.shared_bottom import split_tower

PathOf = Callable[[int, slice], Tensor]
"""Gives a domain's path (m, d) for some of the rows."""


class ExtractionLevel(nn.Module):
    """Own experts of each domain, shared experts, and a gate for each domain: g^k = w^k S^k, w^k = softmax(W_g^k .).

    S^k are domain k's own experts, then the shared ones. Source: Tang et al., PLE (RecSys 2020), Eq. 1 to 3 and 5.

    Args:
        inputs: width k of every input.
        widths: hidden layers of each expert.
        domains: how many.
        settings: how many experts.
        recipe: norm and dropout.
    """

    def __init__(self, inputs: int, widths: Sequence[int], domains: int, settings: CgcSettings, recipe: Recipe) -> None:
        super().__init__()
        self.own = nn.ModuleList(Experts(inputs, widths, settings.own_experts, recipe) for _ in range(domains))
        self.shared = Experts(inputs, widths, settings.shared_experts, recipe)
        self.gates = Gates(domains, inputs, settings.own_experts + settings.shared_experts)
        self.width = self.shared.width

    def extract(self, domain: int, own: Tensor, shared: Tensor) -> Tensor:
        """Return g^k (n, d) for domain k's input (n, k) and the shared experts' outputs (n, experts, d)."""
        return mixed(self.gates(domain, own), torch.cat([self.own[domain](own), shared], dim=1))


class LowerLevel(ExtractionLevel):
    """A level below the top, where the shared path has a gate of its own over all experts of all domains.

    Arguments as for `ExtractionLevel`. Source: PLE, 4.2 and Fig. 5.
    """

    def __init__(self, inputs: int, widths: Sequence[int], domains: int, settings: CgcSettings, recipe: Recipe) -> None:
        super().__init__(inputs, widths, domains, settings, recipe)
        self.shared_gate = Gates(1, inputs, domains * settings.own_experts + settings.shared_experts)

    def forward(self, own: Sequence[Tensor], shared: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return what every domain's path (n, d) and the shared path (n, d) become, for all rows."""
        path, common = self.paths(own, shared)
        return [path(domain, slice(None)) for domain in range(len(own))], common

    def paths(self, own: Sequence[Tensor], shared: Tensor) -> tuple[PathOf, Tensor]:
        """Return what the paths become: a domain's (m, d) for the rows that are asked for, the shared one's (n, d)."""
        common = self.shared(shared)
        theirs = [experts(x) for experts, x in zip(self.own, own, strict=True)]

        def path(domain: int, rows: slice) -> Tensor:
            outputs = torch.cat([theirs[domain][rows], common[rows]], dim=1)
            return mixed(self.gates(domain, own[domain][rows]), outputs)

        return path, mixed(self.shared_gate(0, shared), torch.cat([*theirs, common], dim=1))


class Ple(Baseline):
    """y_k = t^k(g^{k,N}(x)); g^{k,j}(x) = w^{k,j}(g^{k,j-1}(x)) S^{k,j}(x), g^{k,0} = x. One level is CGC.

    Source: Tang et al., Progressive Layered Extraction (RecSys 2020), Eq. 1 to 4 (CGC) and 5, 6 (PLE).
    departs from the paper: tasks are domains, and a row belongs to one. Below the top every domain's experts see every
    row, because the shared path reads all of them; what nothing reads but the top level, and the top level and the
    towers themselves, a row has of its own domain alone.

    Args:
        shape: fields, widths and constants.
        domains: how many natural domains there are.
        settings: experts, levels, and widths; settings of CGC have one level.
    """

    def __init__(self, shape: NetworkShape, domains: int, settings: CgcSettings) -> None:
        super().__init__(shape, domains)
        bottom, tower = split_tower(shape, settings)
        *lower, top = deal(bottom, settings.levels if isinstance(settings, PleSettings) else 1)
        width = shape.input_width
        self.lower = nn.ModuleList()
        for widths in lower:
            self.lower.append(LowerLevel(width, widths, domains, settings, self.recipe))
            width = widths[-1]
        self.top = ExtractionLevel(width, top, domains, settings, self.recipe)
        self.towers = nn.ModuleList(Head(self.top.width, tower, self.recipe) for _ in range(domains))

    def _logits(self, x: Tensor, grouping: Grouping) -> Tensor:
        paths, shared = [x] * self.domains, x
        for level in self.lower[:-1]:
            paths, shared = level(paths, shared)
        path_of: PathOf = lambda domain, rows: paths[domain][rows]  # noqa: E731  # one of two of a kind
        if len(self.lower):
            path_of, shared = self.lower[-1].paths(paths, shared)  # type: ignore[operator]  # torch: a Module or Tensor
        common = self.top.shared(shared)

        def score(domain: int, rows: slice) -> Tensor:
            logits: Tensor = self.towers[domain](self.top.extract(domain, path_of(domain, rows), common[rows]))
            return logits

        return by_domain(grouping, score)


def deal(widths: Sequence[int], levels: int) -> list[tuple[int, ...]]:
    """Deal hidden layers out to levels: one each, the last level what is left, the last width again where none is.

    Args:
        widths: of the hidden layers, at least one.
        levels: at least one.
    """
    padded = [*widths, *([widths[-1]] * (levels - len(widths)))]
    return [*((width,) for width in padded[: levels - 1]), tuple(padded[levels - 1 :])]
