"""The paired bootstrap, held to resampling rows one draw at a time and to DeLong's interval."""

from __future__ import annotations

import numpy as np
import pytest

from training.metrics import auc, auc_interval
from training.resampling import auc_draws, interval


def clicks(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, a good score and a worse one."""
    generator = np.random.default_rng(seed)
    truth = generator.normal(size=n)
    label = (generator.random(n) < 1 / (1 + np.exp(-truth))).astype(np.float32)
    return label, truth, truth + generator.normal(size=n)


@pytest.mark.parametrize("decimals", [8, 0], ids=["untied", "tied"])
def test_each_draw_is_the_auc_of_its_resample(decimals: int) -> None:
    """Law: a draw equals the exact AUC of the rows that it picked, repeats and ties included."""
    label, score, _ = clicks(300)
    score = score.round(decimals)
    found = auc_draws(label, [score], 5, np.random.default_rng(7))[0]
    picked = np.random.default_rng(7).integers(0, 300, size=(5, 300))
    np.testing.assert_allclose(found, [auc(label[rows], score[rows]) for rows in picked], atol=1e-12)


def test_methods_share_their_resamples() -> None:
    """Law: equal scores have equal draws, so a method never differs from itself; order alone counts."""
    label, score, _ = clicks(500)
    one, same, rescaled = auc_draws(label, [score, score.copy(), 3 * score - 1], 100, np.random.default_rng(0))
    assert (one == same).all()
    assert (one == rescaled).all()


def test_draws_do_not_depend_on_other_methods() -> None:
    """Law: comparing with one more method moves no interval of the others."""
    label, good, worse = clicks(500)
    alone = auc_draws(label, [good], 50, np.random.default_rng(3))
    together = auc_draws(label, [good, worse], 50, np.random.default_rng(3))
    assert (alone[0] == together[0]).all()


def test_interval_agrees_with_delong() -> None:
    """Law: two routes to the same uncertainty: bootstrap and DeLong intervals of one AUC nearly coincide."""
    label, _, score = clicks(5000)
    found = interval(auc_draws(label, [score], 2000, np.random.default_rng(1))[0])
    expected = auc_interval(label, score)
    assert found is not None
    assert expected is not None
    np.testing.assert_allclose(found, expected, atol=0.1 * (expected[1] - expected[0]))


def test_pairing_narrows_the_interval() -> None:
    """Law: two methods that agree on most rows differ with far less noise than each has alone."""
    label, good, _ = clicks(2000)
    near = good + 0.05 * np.random.default_rng(5).normal(size=2000)
    a, b = auc_draws(label, [good, near], 500, np.random.default_rng(2))
    paired, alone = interval(a - b), interval(a)
    assert paired is not None
    assert alone is not None
    assert paired[1] - paired[0] < 0.3 * (alone[1] - alone[0])


def test_one_class_has_no_draws() -> None:
    """Law: without both classes there is nothing to order: no draw, no interval; and none without rows."""
    draws = auc_draws(np.ones(10), [np.arange(10.0)], 20, np.random.default_rng(0))
    assert np.isnan(draws).all()
    assert interval(draws[0]) is None
    assert np.isnan(auc_draws(np.empty(0), [np.empty(0)], 20, np.random.default_rng(0))).all()


def test_resamples_that_lose_a_class_are_left_out() -> None:
    """Law: with two clicks in ten rows some resamples have none; the interval is that of the others."""
    label = np.array([1, 1, *[0] * 8])
    draws = auc_draws(label, [np.arange(10.0)], 400, np.random.default_rng(0))[0]
    assert 0 < np.isnan(draws).sum() < 200
    assert interval(draws) is not None
