"""DomNorm: a batch norm of a domain's own, and how it starts without changing the function.

Source: MultiLoRA, Eq. 9, and methods.md 2 (the measured loss when only the moments move).
departs from the paper: a norm that takes its domain's moments is compensated, so that its function does not change.
departs from the paper: a pair's norm, whose start the paper leaves open, starts from its domains' averaged maps.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Moments = Literal["compensated", "frozen", "paper"]

MIN_ROWS = 32
"""A batch with fewer rows is normalised by the running moments and does not move them."""


class DomNorm(nn.Module):
    """Normalises each channel: weight * (h - mean) / sqrt(var + eps) + bias.

    In training mode it uses a batch's own moments and moves the running ones, as batch norm does, unless the batch has
    fewer than `MIN_ROWS` rows or the moments are frozen.

    Args:
        width: channels d.
        eps: added to the variance before its root.
        momentum: share of a batch's moments that enters the running ones.
        frozen_moments: always normalise by the running moments.
    """

    mean: Tensor
    var: Tensor

    def __init__(self, width: int, eps: float = 1e-5, momentum: float = 0.1, frozen_moments: bool = False) -> None:
        super().__init__()
        self.eps = eps
        self.momentum = momentum
        self.frozen_moments = frozen_moments
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("var", torch.ones(width))
        self._gathered: _Gathered | None = None

    def forward(self, h: Tensor) -> Tensor:
        """Return the normed pre-activation, (n, d) as `h`."""
        if self._gathered is not None:
            self._gathered.add(h)
        by_batch = self.training and not self.frozen_moments and h.shape[0] >= MIN_ROWS
        return functional.batch_norm(
            h, self.mean, self.var, self.weight, self.bias, training=by_batch, momentum=self.momentum, eps=self.eps
        )

    def copied(self, moments: Moments = "compensated") -> DomNorm:
        """Return a trainable copy, the start of a domain's norm."""
        copy = DomNorm(self.weight.shape[0], self.eps, self.momentum, frozen_moments=moments == "frozen")
        copy.to(self.weight.dtype)
        copy.load_state_dict(self.state_dict())
        return copy

    @torch.no_grad()
    def compensate(self, mean: Tensor, var: Tensor) -> None:
        """Move to other moments without changing the function.

        g = weight / sqrt(var + eps);  weight' = g sqrt(var' + eps);  bias' = bias + g (mean' - mean)   (methods.md 2)

        Args:
            mean: (d,) the domain's mean.
            var: (d,) the domain's variance.
        """
        gain, offset = self.folded()
        mean, var = mean.double(), var.double()
        self._express(gain, offset, mean, var)

    def folded(self) -> tuple[Tensor, Tensor]:
        """Return the affine map (gain (d,), offset (d,)) that this norm is in eval mode, in float64."""
        gain = self.weight.detach().double() / torch.sqrt(self.var.double() + self.eps)
        return gain, self.bias.detach().double() - self.mean.double() * gain

    @torch.no_grad()
    def _express(self, gain: Tensor, offset: Tensor, mean: Tensor, var: Tensor) -> None:
        """Become the map gain * h + offset, written on these moments."""
        self.weight.copy_(gain * torch.sqrt(var + self.eps))
        self.bias.copy_(offset + gain * mean)
        self.mean.copy_(mean)
        self.var.copy_(var)


def pooled(norms: Sequence[DomNorm], moments: Moments = "compensated") -> DomNorm:
    """Start a pair's norm: the average of its domains' folded maps, re-expressed on their pooled moments.

    Source: methods.md 2, stage 3. The pooled moments are those of an equal mixture of the domains; where the pair's
    rows have others, `compensating` moves the norm to them afterwards and leaves the function as it is.

    Args:
        norms: the norms of one layer, one for each division that is present.
        moments: as for a domain's own norm.
    """
    maps = [norm.folded() for norm in norms]
    gain = torch.stack([g for g, _ in maps]).mean(0)
    offset = torch.stack([o for _, o in maps]).mean(0)
    means = torch.stack([norm.mean.double() for norm in norms])
    squares = torch.stack([norm.var.double() for norm in norms]) + means**2
    mean = means.mean(0)
    pair = norms[0].copied(moments)
    pair._express(gain, offset, mean, (squares.mean(0) - mean**2).clamp(min=0.0))
    return pair


@contextmanager
def compensating(norms: Iterable[DomNorm]) -> Iterator[None]:
    """Gather the moments of what passes through these norms, then move each norm to them, its function unchanged.

    The forward passes inside must be in eval mode and without gradients. A norm that saw fewer than `MIN_ROWS` rows
    keeps the moments that it has.
    """
    chosen = list(norms)
    for norm in chosen:
        norm._gathered = _Gathered()
    try:
        yield
        for norm in chosen:
            gathered = norm._gathered
            if gathered is not None and gathered.rows >= MIN_ROWS:
                norm.compensate(*gathered.moments())
    finally:
        for norm in chosen:
            norm._gathered = None


class _Gathered:
    """Sums over many batches, taken around the first batch's mean, so that large means lose no digits."""

    def __init__(self) -> None:
        self.rows = 0
        self._origin = torch.zeros(())
        self._sum = torch.zeros(())
        self._squares = torch.zeros(())

    @torch.no_grad()
    def add(self, h: Tensor) -> None:
        """Add one batch (n, d)."""
        if h.shape[0] == 0:
            return
        if self.rows == 0:
            self._origin = h.mean(0)
        centred = h - self._origin
        self.rows += int(h.shape[0])
        self._sum = self._sum + centred.sum(0).double()
        self._squares = self._squares + (centred * centred).sum(0).double()

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean (d,) and variance (d,) of all rows so far, in float64."""
        mean = self._sum / self.rows
        return self._origin.double() + mean, (self._squares / self.rows - mean**2).clamp(min=0.0)
