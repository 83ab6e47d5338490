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
class Dropped:
    """What dropout does to one layer.

    Args:
        kept: (t, n, d) 0 for what it zeroes, else 1.
        scale: what it multiplies the rest by, to keep the mean.
    """

    kept: Tensor
    scale: float

    def of(self, x: Tensor) -> Tensor:
        """Apply it to x (t, n, d)."""
        return x * (self.kept * self.scale)


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

    def hidden(self, h: Tensor, filled: Filled, frozen: bool = False, dropped: Dropped | None = None) -> Tensor:
        """Return dropout(relu(norm(h))) (t, n, d) in training, in as few passes over memory as it takes.

        Large batches are normed by their own moments, which the running ones follow; small ones by the running ones.

        Args:
            h: (t, n, d); not changed.
            filled: the batches.
            frozen: norm every batch by the running moments.
            dropped: what dropout zeroes; None is no dropout.
        """
        large = torch.zeros_like(filled.counts, dtype=torch.bool) if frozen else filled.counts >= MIN_ROWS
        scale = 1.0 if dropped is None else dropped.scale  # positive, so that it may go before the ReLU
        out, mean, var = _Hidden.apply(  # type: ignore[no-untyped-call]  # torch leaves it untyped
            h,
            self.weight * scale,
            self.bias * scale,
            (self.mean, self.var),
            filled.weight,
            large,
            self.eps,
            None if dropped is None else dropped.kept,
        )
        if bool(large.any()):
            self._follow(mean, var, filled.counts, large)
        activated: Tensor = out
        return activated

    @torch.no_grad()
    def _follow(self, mean: Tensor, var: Tensor, counts: Tensor, large: Tensor) -> None:
        unbiased = var * (counts / (counts - 1).clamp(min=1)).unsqueeze(1)
        share = (large.to(mean.dtype) * self.momentum).unsqueeze(1)
        self.mean.lerp_(mean, share.expand_as(mean))
        self.var.lerp_(unbiased, share.expand_as(var))


class _Hidden(torch.autograd.Function):
    """relu(weight * (h - mean) / sqrt(var + eps) + bias), zeroed where dropped, and the moments (t, d) in use.

    Where the output is positive neither the ReLU nor dropout zeroed it: it is all that the backward pass needs of them.
    """

    @staticmethod
    def forward(
        ctx: Any,
        h: Tensor,
        weight: Tensor,
        bias: Tensor,
        running: tuple[Tensor, Tensor],
        shares: Tensor,
        large: Tensor,
        eps: float,
        kept: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        mean, var = (value.unsqueeze(1) for value in running)
        own = large[:, None, None]
        row = shares.unsqueeze(1)  # (t, 1, n): a product with it is a mean over a batch's own rows
        any_large = bool(large.any())
        if any_large:
            mean = torch.where(own, torch.bmm(row, h), mean)
        unit = h - mean
        if any_large:
            var = torch.where(own, torch.bmm(row, unit * unit), var)
        scale = torch.rsqrt(var + eps)
        unit.mul_(scale)
        out = torch.addcmul(bias.unsqueeze(1), unit, weight.unsqueeze(1)).relu_()
        if kept is not None:
            out.mul_(kept)
        share = (shares * large.unsqueeze(1)).unsqueeze(2) if any_large else None
        ctx.save_for_backward(out, unit, weight, scale, share)
        mean, var = mean.squeeze(1), var.squeeze(1)
        ctx.mark_non_differentiable(mean, var)
        return out, mean, var

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        out, unit, weight, scale, share = ctx.saved_tensors
        above: Tensor = torch.ops.aten.threshold_backward(gradients[0], out, 0.0)
        of_bias = above.sum(1)
        of_weight = (above * unit).sum(1)
        gain = weight.unsqueeze(1) * scale
        if share is not None:
            # a row moves its batch's moments by its share; rows of filling and small batches have none
            through = torch.addcmul(of_bias.unsqueeze(1), unit, of_weight.unsqueeze(1)).mul_(share)
            above = above.sub_(through)
        return above.mul_(gain), of_weight, of_bias, None, None, None, None, None
