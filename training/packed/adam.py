"""Adam for stacked parameters: every row has moments and a count of steps of its own."""

from __future__ import annotations

import torch
from torch import Tensor

from training.config import Schedule

_MEAN, _SQUARE, _EPS = 0.9, 0.999, 1e-8  # those of torch.optim.Adam


class StackedAdam:
    """Adam with coupled L2, as `torch.optim.Adam` takes its steps, for each row alone.

    Source: Adam (Kingma & Ba, 2015), Algorithm 1.

    Args:
        like: (t, P) the parameters.
        schedule: step size and weight decay.
    """

    def __init__(self, like: Tensor, schedule: Schedule) -> None:
        self._schedule = schedule
        self._mean = torch.zeros_like(like)
        self._square = torch.zeros_like(like)
        self._steps = torch.zeros(len(like), 1, dtype=torch.float64)

    @torch.no_grad()
    def step(self, learned: Tensor, gradient: Tensor) -> None:
        """Move the first rows, in place.

        Args:
            learned: (b, P) views of the first b rows.
            gradient: (b, P) of their losses; not kept.
        """
        count = len(learned)
        mean, square, steps = self._mean[:count], self._square[:count], self._steps[:count]
        steps += 1
        move(learned, gradient, mean, square, steps, self._schedule)

    def take(self, places: Tensor) -> None:
        """Keep the rows at some places only."""
        self._mean, self._square, self._steps = (
            part.index_select(0, places) for part in (self._mean, self._square, self._steps)
        )


def move(learned: Tensor, gradient: Tensor, mean: Tensor, square: Tensor, steps: Tensor, schedule: Schedule) -> None:
    """Take one step of Adam for every row, in place.

    Args:
        learned: (b, P) the parameters.
        gradient: (b, P).
        mean, square: (b, P) Adam's moments.
        steps: (b, 1) float64, how many steps each row has taken, this one included.
        schedule: step size and weight decay.
    """
    if schedule.weight_decay:
        gradient = gradient.add(learned, alpha=schedule.weight_decay)
    mean.lerp_(gradient, 1 - _MEAN)
    square.mul_(_SQUARE).addcmul_(gradient, gradient, value=1 - _SQUARE)
    root = torch.sqrt(1 - _SQUARE**steps).to(learned.dtype)
    size = (-schedule.lr / (1 - _MEAN**steps)).to(learned.dtype)
    learned.addcdiv_(mean * size, square.sqrt().div_(root).add_(_EPS))
