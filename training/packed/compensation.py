"""The start of many domains' norms: their own moments, the function unchanged. Source: methods.md 2, stage 2."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from network.backbone import Backbone
from network.norm import MIN_ROWS
from network.tower import PlainLayer, normed
from training.packed.layer import Rules
from training.packed.rows import READ_ROWS, PackInputs
from training.packed.stack import Layout, Stack


@torch.no_grad()
def compensate(backbone: Backbone, rules: Rules, layout: Layout, stack: Stack, inputs: PackInputs) -> None:
    """Move the norms of untrained adapters to their domains' moments (in place).

    An untrained adapter is the backbone, so one pass through the backbone gives every domain's moments. A domain with
    fewer than `MIN_ROWS` rows keeps the moments that it has.

    Args:
        backbone: frozen, in eval mode.
        rules: of the pack.
        layout: of the stack.
        stack: t untrained adapters.
        inputs: the training rows of the t domains.
    """
    tensors = layout.cut(stack)
    modules = rules.shape.modules
    levels = [level for level, (module, r) in enumerate(zip(modules, rules.ranks, strict=True)) if r and module.norm]
    recorder = _Recorder(rules.plain, {level: DomainSums(len(stack), modules[level].outputs) for level in levels})
    owner = torch.repeat_interleave(torch.arange(len(stack)), torch.tensor(inputs.counts))
    for part in torch.split(torch.arange(len(owner)), READ_ROWS):
        recorder.owner = owner[part]
        backbone.score_looked_up(inputs.looked(part), recorder)
    counts = torch.tensor(inputs.counts, dtype=torch.float64)
    for level in levels:
        name = modules[level].name
        own = [tensors[f"{name}.norm.{key}"] for key in ("weight", "bias", "mean", "var")]
        moments = recorder.sums[level].moments(counts)
        for value, new in zip(own, moved(own, moments, rules.shape.norm_eps), strict=True):
            value.copy_(torch.where((counts >= MIN_ROWS).unsqueeze(1), new, value.double()))


def moved(own: Sequence[Tensor], moments: tuple[Tensor, Tensor], eps: float) -> tuple[Tensor, ...]:
    """Express norms on other moments, their functions unchanged.

    g = weight / sqrt(var + eps);  weight' = g sqrt(var' + eps);  bias' = bias + g (mean' - mean)   (methods.md 2)

    Args:
        own: weight, bias, mean and variance (t, d).
        moments: mean and variance (t, d) to move to, in float64.
        eps: added to a variance before its root.

    Returns:
        The new weight, bias, mean and variance, in float64.
    """
    weight, bias, mean, var = (value.double() for value in own)
    to_mean, to_var = moments
    gain = weight / torch.sqrt(var + eps)
    return gain * torch.sqrt(to_var + eps), bias + gain * (to_mean - mean), to_mean, to_var


class DomainSums:
    """Sums by domain over many batches, taken around the first batch's mean, so that large means lose no digits.

    Args:
        domains: how many there are.
        width: d.
    """

    def __init__(self, domains: int, width: int) -> None:
        self._origin: Tensor | None = None
        self._sum = torch.zeros(domains, width, dtype=torch.float64)
        self._squares = torch.zeros(domains, width, dtype=torch.float64)

    def add(self, h: Tensor, owner: Tensor) -> None:
        """Add rows h (n, d) of the domains `owner` (n,); those of one domain stand together."""
        if not len(h):
            return
        if self._origin is None:
            self._origin = h.mean(0)
        centred = h - self._origin
        owners, counts = torch.unique_consecutive(owner, return_counts=True)
        for total, values in ((self._sum, centred), (self._squares, centred * centred)):
            sums = torch.stack([part.sum(0) for part in torch.split(values, counts.tolist())])
            total.index_add_(0, owners, sums.double())

    def moments(self, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance (t, d) of each domain."""
        rows = counts.clamp(min=1).unsqueeze(1)
        mean = self._sum / rows
        origin = torch.zeros(()) if self._origin is None else self._origin
        return origin.double() + mean, (self._squares / rows - mean**2).clamp(min=0.0)


@dataclass
class _Recorder:
    """The backbone's own layer, which also sums what enters its norms."""

    plain: PlainLayer
    sums: dict[int, DomainSums]
    owner: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    training: bool = False
    dropout: float = 0.0

    def __call__(self, level: int, x: Tensor, linear: Callable[[Tensor], Tensor]) -> Tensor:
        h = linear(x)
        if level in self.sums:
            self.sums[level].add(h, self.owner)
        return normed(self.plain.norms, level, h)
