"""The tail average of many domains at once, each over its own steps (`training.averaging` has the formula)."""

from __future__ import annotations

import torch

from training.averaging import ETA
from training.packed.stack import Stack


class StackedAverage:
    """The averages of stacked domains.

    Args:
        like: the stack of t domains that are averaged.
    """

    def __init__(self, like: Stack) -> None:
        self.mean = Stack(torch.zeros_like(like.learned), torch.zeros_like(like.moments))
        """Of the t domains; one that has taken no step has nothing here."""
        self._steps = torch.zeros(len(like), 1, dtype=torch.float64)

    @torch.no_grad()
    def follow(self, now: Stack) -> None:
        """Take one step of the first domains in.

        Args:
            now: the first b of the t domains.
        """
        steps = self._steps[: len(now)]
        steps += 1
        share = ((ETA + 1) / (ETA + steps)).to(now.learned.dtype)  # 1 at a domain's first step
        own = self.mean.leading(len(now))
        for mean, value in ((own.learned, now.learned), (own.moments, now.moments)):
            mean.lerp_(value, share.expand_as(value))

    def take(self, places: torch.Tensor) -> None:
        """Keep the domains at some places only."""
        self.mean, self._steps = self.mean.take(places), self._steps.index_select(0, places)
