"""The tail average of what is learned: after each step, an average of the steps so far, most of it of the last ones.

mean_t = mean_{t-1} + c_t (w_t - mean_{t-1}),  c_t = (eta + 1) / (eta + t),  so that mean_1 = w_1

The weight of step s falls off about as (s / t)^eta: with eta = 3 the last quarter of the steps has about two thirds of
it, however many steps there are. So nothing is to be set for domains of few batches and of many, and there is no last
step to know beforehand. Running moments of norms are averaged with the weights that they belong to.
Source: polynomial-decay averaging, Shamir & Zhang (ICML 2013), section 3.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

ETA = 3


class TailAverage:
    """The average of one network's tensors.

    Args:
        mean: what a checkpoint held of it, by name; none at the start.
        steps: how many it averages.
    """

    def __init__(self, mean: Mapping[str, Tensor] | None = None, steps: int = 0) -> None:
        self.mean: dict[str, Tensor] = dict(mean or {})
        self.steps = steps

    @torch.no_grad()
    def follow(self, now: Mapping[str, Tensor]) -> None:
        """Take one step's tensors in; what is no floating-point number is taken as it is."""
        self.steps += 1
        if self.steps == 1:
            self.mean = {name: value.detach().clone() for name, value in now.items()}
            return
        share = (ETA + 1) / (ETA + self.steps)
        for name, value in now.items():
            if value.is_floating_point():
                self.mean[name].lerp_(value, share)
            else:
                self.mean[name].copy_(value)
