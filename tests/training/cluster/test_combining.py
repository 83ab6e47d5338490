"""Laws of how several workers' changes become one pseudo-gradient."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from training.cluster.combining import Combination, Combine
from training.frameworks.optimizers import Rule

WORKERS = np.array([1, 2, 4, 9], np.float32)


@pytest.mark.parametrize("beta", [0.05, 0.25, 0.5, 1.0, 1.5])
def test_a_bounded_step_adds_up_and_stops_at_the_mean_of_the_ends(beta: float) -> None:
    """Law: beta times the sum of the changes, but no further than to the mean of the ends, or beta times as far."""
    changes = np.random.default_rng(0).normal(1.0, 0.3, size=(9, 5))
    for workers, share in zip(WORKERS, Combination("bounded", Rule("sgd", beta)).share(WORKERS), strict=True):
        own = changes[: int(workers)]
        moved = beta * float(share) * own.sum(0)
        reach = max(1.0, beta) * own.mean(0)
        expected = np.where(np.abs(beta * own.sum(0)) < np.abs(reach), beta * own.sum(0), reach)
        np.testing.assert_allclose(moved, expected, rtol=1e-6)


@pytest.mark.parametrize(("how", "expected"), [("sum", 1.0), ("mean", 1 / WORKERS)])
def test_sum_and_mean_know_no_step_size(how: Combine, expected: Any) -> None:
    """Law: the sum is the sum and the mean the mean, whatever the outer optimizer."""
    for rule in (Rule("sgd", 0.1), Rule("adam", 0.1), Rule("adagrad", 2.0)):
        np.testing.assert_allclose(Combination(how, rule).share(WORKERS), np.broadcast_to(expected, 4))


def test_steps_with_a_size_of_their_own_get_the_mean() -> None:
    """Law: Adam and Adagrad make steps of their own size from whatever they get; bounded gives them the mean."""
    for name in ("adam", "adagrad"):
        np.testing.assert_allclose(Combination("bounded", Rule(name, 0.1)).share(WORKERS), 1 / WORKERS)


@pytest.mark.parametrize("how", ["bounded", "sum", "mean"])
def test_one_worker_is_taken_as_it_is(how: Combine) -> None:
    """Law: with one worker all three are the single process."""
    for beta in (0.1, 1.0, 3.0):
        assert Combination(how, Rule("sgd", beta)).share(np.ones(3, np.float32)).tolist() == [1.0, 1.0, 1.0]
