"""How the changes of workers that trained from the same values become one pseudo-gradient.

The outer step of Domain Negotiation goes from theta_S to where the inner loops end, by a share beta (MAMDR, Eq. 3).
Several workers have several ends. To first order their changes add up to what one worker with all domains does; beyond
that each has gone part of the same way, and the sum leads past all of their ends: with beta times the workers well
above 1 it diverges. With beta <= 1 the mean of the ends is never passed by (McMahan et al., AISTATS 2017, algorithm 1,
averages so).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from training.frameworks.optimizers import Rule

Combine = Literal["bounded", "sum", "mean"]


@dataclass(frozen=True)
class Combination:
    """How many times the mean of n workers' changes the outer optimizer gets.

    - `sum`: n times.
    - `mean`: once.
    - `bounded`: n times, but with sgd of step size beta at most 1 / beta times, so that no parameter goes further than
      the mean of the workers' ends (or beta times as far, for beta > 1). Once with Adam and Adagrad, whose steps have
      a size of their own.

    One worker's change is taken as it is.

    Args:
        how: one of these.
        rule: of the outer optimizer.
    """

    how: Combine
    rule: Rule

    def share(self, workers: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return what the sum of the changes is multiplied by (m,).

        Args:
            workers: how many moved each parameter (m,), at least 1.
        """
        times = np.minimum(workers, self._most).astype(np.float32)
        shares: NDArray[np.float32] = times / workers
        return shares

    @property
    def _most(self) -> float:
        if self.how == "sum":
            return float("inf")
        bounded = self.how == "bounded" and self.rule.name == "sgd"
        return max(1.0, 1.0 / self.rule.lr) if bounded else 1.0
