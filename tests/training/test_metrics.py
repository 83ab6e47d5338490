"""Metrics, held to their definitions, written out pair by pair and row by row."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from training import metrics

Row = tuple[int, int, int]
ROWS = st.lists(st.tuples(st.integers(0, 1), st.integers(-3, 3), st.integers(0, 3)), min_size=1, max_size=30)


def columns(rows: list[Row]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Label, score and user; few distinct scores, so that ties are common."""
    label, score, user = (np.array(column) for column in zip(*rows, strict=True))
    return label.astype(np.float32), score.astype(np.float64), user.astype(np.int32)


def auc_by_pairs(label: NDArray[Any], score: NDArray[Any]) -> float | None:
    """The definition: over all (click, no click) pairs, the share in order, a tie counting half."""
    pairs = [(p, n) for p in score[label == 1] for n in score[label == 0]]
    return sum((p > n) + 0.5 * (p == n) for p, n in pairs) / len(pairs) if pairs else None


@given(ROWS)
def test_auc_counts_pairs_and_half_of_ties(rows: list[Row]) -> None:
    """Law: AUC is the share of ordered (click, no click) pairs, ties half; undefined, never 0.5, for one class."""
    label, score, _ = columns(rows)
    expected = auc_by_pairs(label, score)
    found = metrics.auc(label, score)
    assert found == expected if expected is None else found == pytest.approx(expected, abs=1e-12)


@given(ROWS)
def test_auc_sees_only_the_order(rows: list[Row]) -> None:
    """Law: logits and their probabilities have the same AUC."""
    label, score, _ = columns(rows)
    assert metrics.auc(label, score) == metrics.auc(label, metrics.probabilities(score))


@given(ROWS)
def test_gauc_is_the_row_weighted_mean_over_users_with_both_classes(rows: list[Row]) -> None:
    """Law: GAUC weighs each user's own AUC by the user's rows, and leaves out users with one class."""
    label, score, user = columns(rows)
    aucs = [(auc_by_pairs(label[user == u], score[user == u]), int((user == u).sum())) for u in set(user.tolist())]
    both = [(auc, n) for auc, n in aucs if auc is not None]
    expected = sum(auc * n for auc, n in both) / sum(n for _, n in both) if both else None
    found = metrics.gauc(label, score, user)
    assert found == expected if expected is None else found == pytest.approx(expected, abs=1e-12)


def test_log_loss_is_the_mean_negative_log_likelihood() -> None:
    """Law: each row costs -log of the probability that it gave to what happened."""
    loss = metrics.log_loss(np.array([1, 0]), np.array([0.8, 0.4]))
    assert loss == pytest.approx(-(math.log(0.8) + math.log(0.6)) / 2)


def test_log_loss_stays_finite_when_sure_and_wrong() -> None:
    """Law: a probability of exactly 0 or 1 costs much, not infinitely much."""
    assert math.isfinite(metrics.log_loss(np.array([1, 0]), np.array([0.0, 1.0])))


def test_normalized_entropy_of_the_click_rate_is_one() -> None:
    """Law: always predicting the rows' click rate has NE 1; with one class it is not defined."""
    label = np.array([1, 0, 0, 0])
    assert metrics.normalized_entropy(label, np.full(4, 0.25)) == pytest.approx(1.0)
    assert metrics.normalized_entropy(np.zeros(4), np.full(4, 0.25)) is None


def test_calibration_is_predicted_over_observed() -> None:
    """Law: 1 when as many clicks are predicted as observed; undefined where nobody clicked."""
    assert metrics.calibration(np.array([1, 1, 0, 0]), np.array([0.9, 0.3, 0.9, 0.9])) == pytest.approx(1.5)
    assert metrics.calibration(np.zeros(4), np.full(4, 0.1)) is None


def test_ece_is_zero_when_every_group_happens_as_often_as_predicted() -> None:
    """Law: groups predicted at their own rate have no calibration error; all predicted too high by d have error d."""
    label = np.tile([1, 0, 0, 0, 1, 1, 1, 0], 20)
    rate = np.tile(np.repeat([0.25, 0.75], 4), 20)
    assert metrics.ece(label, rate, bins=2) == pytest.approx(0.0, abs=1e-12)
    assert metrics.ece(label, rate + 0.1, bins=2) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("auc", "base", "expected"), [(0.6, 0.6, 0.0), (0.7, 0.6, 1.0), (0.55, 0.6, -0.5), (0.6, 0.5, None)]
)
def test_rela_impr_measures_from_one_half(auc: float, base: float, expected: float | None) -> None:
    """Law: 0.5 is no skill at all, so 0.7 over 0.6 is twice as good; nothing can be relative to no skill."""
    found = metrics.rela_impr(auc, base)
    assert found == expected if expected is None else found == pytest.approx(expected)


def test_probabilities_do_not_overflow() -> None:
    """Law: the sigmoid of any finite logit lies in [0, 1], and of opposite logits adds up to 1."""
    logits = np.array([-1e4, -30.0, 0.0, 30.0, 1e4])
    found = metrics.probabilities(logits)
    assert found.tolist()[::2] == [0.0, 0.5, 1.0]
    np.testing.assert_allclose(found + metrics.probabilities(-logits), 1.0)
