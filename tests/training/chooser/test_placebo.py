"""Divisions that say nothing."""

from __future__ import annotations

import numpy as np

from training.chooser.placebo import shuffled


def test_domains_keep_their_sizes() -> None:
    """Law: every domain, and none of them, keeps its training rows up to those of one user at each border."""
    draw = np.random.default_rng(0)
    domain, weight = draw.integers(-1, 4, 2_000), draw.integers(0, 30, 2_000)
    found = shuffled(domain, weight, draw)
    before, after = (np.bincount(each + 1, weights=weight, minlength=5) for each in (domain, found))
    assert np.abs(before - after).max() <= 30
    assert before.sum() == after.sum()


def test_sizes_count_rows_not_users() -> None:
    """Law: a domain of few busy users becomes one of as many rows, not of as few users."""
    domain, weight = np.repeat([0, 1], [10, 1_000]), np.repeat([100, 1], [10, 1_000])
    found = shuffled(domain, weight, np.random.default_rng(1))
    share = weight[found == 0].sum() / weight.sum()
    assert abs(share - 0.5) <= 100 / weight.sum()


def test_assignment_does_not_follow_the_division() -> None:
    """Law: who was in a domain is in it afterwards as often as chance has it."""
    draw = np.random.default_rng(2)
    domain = draw.integers(0, 2, 10_000)
    found = shuffled(domain, np.ones(10_000), draw)
    assert abs(np.mean(found == domain) - 0.5) < 0.03


def test_nobody_is_nobody() -> None:
    """Law: no entities give no domains."""
    assert shuffled(np.empty(0, int), np.empty(0), np.random.default_rng(0)).shape == (0,)
