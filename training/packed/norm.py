"""DomNorm of many domains at once: each by the moments of its own rows, rows of filling left out of them.

Source: MultiLoRA, Eq. 9; methods.md 2 for which batches are normalised by running moments.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from network.norm import MIN_ROWS


@dataclass(frozen=True)
class Filled:
    """Batches of t domains, filled up to n rows each.

    Args:
        counts: (t,) rows of each batch, as floats.
        weight: (t, n) 1 / its batch's rows for a row, 0 for one of filling.
    """

    counts: Tensor
    weight: Tensor

    @classmethod
    def of(cls, counts: list[int], dtype: torch.dtype) -> Filled:
        """Describe batches of these sizes, each at least one row."""
        sizes = torch.tensor(counts, dtype=dtype)
        rows = torch.arange(max(counts), dtype=dtype)
        return cls(sizes, (rows < sizes[:, None]).to(dtype) / sizes[:, None])


@dataclass(frozen=True)
class StackedNorm:
    """The norms of one module, of t domains.

    Args:
        weight, bias: (t, d) learned.
        mean, var: (t, d) running moments, moved in place.
        eps: added to a variance before its root.
        momentum: share of a batch's moments that enters the running ones.
    """

    weight: Tensor
    bias: Tensor
    mean: Tensor
    var: Tensor
    eps: float
    momentum: float

    def by_running(self, h: Tensor) -> Tensor:
        """Norm h (t, n, d) by the running moments."""
        gain = self.weight * torch.rsqrt(self.var + self.eps)
        return torch.addcmul((self.bias - self.mean * gain).unsqueeze(1), h, gain.unsqueeze(1))

    def by_batch(self, h: Tensor, filled: Filled) -> Tensor:
        """Norm h (t, n, d) by each batch's moments and move the running ones; small batches as `by_running`."""
        large = filled.counts >= MIN_ROWS
        if not bool(large.any()):
            return self.by_running(h)
        out, mean, var = _Norm.apply(  # type: ignore[no-untyped-call]  # torch leaves it untyped
            h, self.weight, self.bias, self.mean, self.var, filled.weight, large, self.eps
        )
        self._follow(mean, var, filled.counts, large)
        normed: Tensor = out
        return normed

    @torch.no_grad()
    def _follow(self, mean: Tensor, var: Tensor, counts: Tensor, large: Tensor) -> None:
        unbiased = var * (counts / (counts - 1).clamp(min=1)).unsqueeze(1)
        share = (large.to(mean.dtype) * self.momentum).unsqueeze(1)
        self.mean.lerp_(mean, share.expand_as(mean))
        self.var.lerp_(unbiased, share.expand_as(var))


class _Norm(torch.autograd.Function):
    """out = weight * (h - mean) / sqrt(var + eps) + bias over filled batches (t, n, d), and the moments (t, d)."""

    @staticmethod
    def forward(
        ctx: Any,
        h: Tensor,
        weight: Tensor,
        bias: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        shares: Tensor,
        large: Tensor,
        eps: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        own = large[:, None, None]
        row = shares.unsqueeze(1)  # (t, 1, n): a product with it is a mean over a batch's own rows
        mean = torch.where(own, torch.bmm(row, h), running_mean.unsqueeze(1))
        unit = h - mean
        var = torch.where(own, torch.bmm(row, unit * unit), running_var.unsqueeze(1))
        scale = torch.rsqrt(var + eps)
        unit.mul_(scale)
        out = torch.addcmul(bias.unsqueeze(1), unit, weight.unsqueeze(1))
        ctx.save_for_backward(unit, weight, scale, (shares * large.unsqueeze(1)).unsqueeze(2))
        mean, var = mean.squeeze(1), var.squeeze(1)
        ctx.mark_non_differentiable(mean, var)
        return out, mean, var

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        unit, weight, scale, shares = ctx.saved_tensors
        above = gradients[0]
        of_bias = above.sum(1)
        of_weight = (above * unit).sum(1)
        # a row moves its batch's moments by its share; rows of filling and small batches have none
        through = torch.addcmul(of_bias.unsqueeze(1), unit, of_weight.unsqueeze(1)).mul_(shares)
        of_h = (above - through).mul_(weight.unsqueeze(1) * scale)
        return of_h, of_weight, of_bias, None, None, None, None, None
