"""Laws of a worker's caches."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from tests.training.cluster.tasks import normal
from training.cluster.cache import EmbeddingCache, PulledRows

IDS = np.array([0, 3, 4, 8, 9])


def cache_over(dynamic: torch.Tensor) -> EmbeddingCache:
    """A cache of five rows of some table, the first of which padding points at."""
    return EmbeddingCache(IDS, np.array([0]), dynamic)


def test_first_touch_fills_both_copies() -> None:
    """Law: a row is absent until it is filled, then stands in the dynamic copy as pulled, with no change to push."""
    dynamic = torch.empty(5, 2)
    cache = cache_over(dynamic)
    np.testing.assert_array_equal(cache.absent(np.array([1, 2, 3])), [1, 2, 3])
    values = normal(0, 2, 2)
    cache.fill(np.array([1, 3]), values)
    np.testing.assert_array_equal(cache.absent(np.array([1, 2, 3])), [2])
    np.testing.assert_array_equal(dynamic[[1, 3]].numpy(), values)
    rows, moved = cache.changes()
    np.testing.assert_array_equal(rows, [3, 8])
    np.testing.assert_array_equal(moved, np.zeros((2, 2)))


def test_training_changes_the_dynamic_copy_alone() -> None:
    """Law: what is pushed is dynamic - static of touched rows, however often training changed them."""
    dynamic = torch.empty(5, 2)
    cache = cache_over(dynamic)
    values = normal(1, 3, 2)
    cache.fill(np.array([1, 2, 4]), values)
    dynamic[1] += 2.0
    dynamic[1] += 3.0
    dynamic[4] -= 1.0
    rows, moved = cache.changes()
    np.testing.assert_array_equal(rows, [3, 4, 9])
    np.testing.assert_allclose(moved, [[5, 5], [0, 0], [-1, -1]], atol=1e-6)


def test_cleared_cache_pulls_anew() -> None:
    """Law: after a round nothing is left: every row is absent, and a use of one without a pull is no number."""
    dynamic = torch.empty(5, 2)
    cache = cache_over(dynamic)
    cache.fill(np.array([1]), normal(2, 1, 2))
    cache.clear()
    np.testing.assert_array_equal(cache.absent(np.arange(5)), np.arange(5))
    assert torch.isnan(dynamic[1:]).all()
    assert torch.equal(dynamic[0], torch.zeros(2))
    assert len(cache.changes()[0]) == 0


def test_rows_that_are_only_read_are_pulled_once() -> None:
    """Law: the static cache asks for a row the first time only, and always gives it in the order asked for."""
    table, asked = normal(3, 20, 3), []

    def pull(rows: NDArray[np.int64]) -> NDArray[np.float32]:
        asked.extend(rows.tolist())
        found: NDArray[np.float32] = table[rows]
        return found

    cache = PulledRows(pull, 3)
    for rows in ([2, 5, 9], [1, 5, 19], [1, 2, 5, 9, 19], []):
        np.testing.assert_array_equal(cache.values(np.array(rows, np.int64)), table[rows])
    assert sorted(asked) == [1, 2, 5, 9, 19]
