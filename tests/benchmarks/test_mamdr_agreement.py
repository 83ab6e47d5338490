"""Laws of the comparison of gradients under Domain Negotiation and under alternate training."""

from __future__ import annotations

import numpy as np

from benchmarks.claims.mamdr_agreement import at_equal_loss
from training.frameworks.agreement import Agreement


def at(loss: float) -> Agreement:
    """A state of this training loss."""
    return Agreement((0, 1), np.eye(2), loss)


def test_states_are_compared_at_equal_loss() -> None:
    """Law: each of ours stands beside the one of the others whose loss is nearest, be it earlier or later."""
    ours, others = [at(0.50), at(0.41)], [at(0.60), at(0.52), at(0.39), at(0.30)]
    assert [(one.loss, other.loss) for one, other in at_equal_loss(ours, others)] == [(0.50, 0.52), (0.41, 0.39)]
