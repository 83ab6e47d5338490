"""Means and their intervals."""

from __future__ import annotations

import numpy as np
import pytest

from training.chooser.estimate import Estimate, clustered, entropy, losses, pooled_variance


def test_interval_of_single_rows_is_the_usual_one() -> None:
    """Law: where each row is a cluster of its own, the interval is mean +- z s / sqrt(n)."""
    values = np.random.default_rng(0).normal(0.3, 2.0, 400)
    found = clustered(values, np.arange(400), 0.95)
    half = 1.959963984540054 * values.std(ddof=1) / 20.0
    np.testing.assert_allclose([found.value, found.low, found.high], values.mean() + half * np.array([0, -1, 1]))


def test_rows_repeated_in_a_cluster_tell_nothing_new() -> None:
    """Law: copies of a row in its own cluster leave the interval as it was; counted as rows they would narrow it."""
    values = np.random.default_rng(1).normal(size=60)
    once = clustered(values, np.arange(60), 0.9)
    copied = clustered(np.repeat(values, 5), np.repeat(np.arange(60), 5), 0.9)
    np.testing.assert_allclose([copied.low, copied.high], [once.low, once.high], rtol=1e-12)


def test_more_variance_widens() -> None:
    """Law: what is added to the variance adds to the square of the half width."""
    values, owner = np.random.default_rng(2).normal(size=100), np.arange(100) % 20
    plain, wider = (clustered(values, owner, 0.95, more) for more in (0.0, 0.25))
    halves = [(each.high or 0.0) - each.value for each in (plain, wider)]
    assert halves[1] ** 2 - halves[0] ** 2 == pytest.approx(1.959963984540054**2 * 0.25)


def test_one_cluster_has_no_interval() -> None:
    """Law: with one cluster there is a mean and no interval, and nothing is shown to be positive."""
    assert clustered(np.ones(5), np.zeros(5, int), 0.95) == Estimate(1.0, None, None)
    assert not Estimate(1.0, None, None).positive()
    assert Estimate(1.0, 0.5, 1.5).positive()
    assert not Estimate(1.0, 0.0, 2.0).positive()
    assert str(Estimate(1.0, None, None)) == "+1.00000"
    assert str(Estimate(1.0, -0.5, 2.5)) == "+1.00000 [-0.50000, +2.50000]"


def test_pooled_variance_knows_groups_apart() -> None:
    """Law: how far the groups' means lie apart does not count; groups of one tell nothing."""
    assert pooled_variance([[1.0, 3.0], [100.0, 104.0]]) == pytest.approx((2.0 + 8.0) / 2)
    assert pooled_variance([[1.0], [9.0]]) == 0.0


def test_losses_are_the_cross_entropy() -> None:
    """Law: equal to the definition where that does not overflow, and finite where it does."""
    logits, label = np.array([-3.0, 0.2, 2.0]), np.array([1.0, 0.0, 1.0])
    probability = 1.0 / (1.0 + np.exp(-logits))
    expected = -np.where(label > 0.5, np.log(probability), np.log(1.0 - probability))
    np.testing.assert_allclose(losses(label, logits), expected)
    np.testing.assert_allclose(losses(np.array([0.0, 1.0]), np.array([800.0, -800.0])), 800.0)


def test_entropy_is_largest_in_the_middle() -> None:
    """Law: log 2 at one half, and zero at the ends."""
    np.testing.assert_allclose(entropy(np.array([0.0, 0.5, 1.0])), [0.0, np.log(2.0), 0.0], atol=1e-10)
