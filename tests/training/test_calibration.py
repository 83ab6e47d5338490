"""Calibration per domain, held to the likelihood written out row by row."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from training import metrics
from training.calibration import Calibration, before_and_after, calibrated, fit, fit_domains
from training.config import CalibrationConfig

EAGER = CalibrationConfig(min_rows=2, min_of_class=1)


def drawn(slope: float, intercept: float, n: int = 4000, seed: int = 0) -> tuple[NDArray[Any], NDArray[Any]]:
    """Labels whose true logit is slope * logit + intercept."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(-0.5, 1.5, n)
    label = rng.random(n) < 1 / (1 + np.exp(-(slope * logits + intercept)))
    return label.astype(np.float32), logits


def cost(label: NDArray[Any], logits: NDArray[Any], slope: float, intercept: float) -> float:
    """Platt's objective, term by term."""
    positives = sum(label.tolist())
    up, down = (positives + 1) / (positives + 2), 1 / (len(label) - positives + 2)
    total = 0.0
    for y, logit in zip(label.tolist(), logits.tolist(), strict=True):
        p = 1 / (1 + math.exp(-(slope * logit + intercept)))
        target = up if y else down
        total -= target * math.log(p) + (1 - target) * math.log(1 - p)
    return total


@pytest.mark.parametrize(("slope", "intercept"), [(0.5, 0.0), (1.0, -1.0), (2.0, 0.7)])
def test_fit_is_the_minimum_of_platts_objective(slope: float, intercept: float) -> None:
    """Law: no line around the fitted one has a lower cost, and the cost's slope there is nothing."""
    label, logits = drawn(slope, intercept, n=600)
    found = fit(label, logits, EAGER)
    assert found.reason is None
    here = cost(label, logits, found.slope, found.intercept)
    for step in (1e-3, 1e-1):
        for a in (-step, 0.0, step):
            for b in (-step, 0.0, step):
                assert cost(label, logits, found.slope + a, found.intercept + b) >= here
    for a, b in ((1e-5, 0.0), (0.0, 1e-5)):
        ahead, behind = (
            cost(label, logits, found.slope + sign * a, found.intercept + sign * b) for sign in (1.0, -1.0)
        )
        assert abs(ahead - behind) / 2e-5 < 1e-4 * len(label)


@pytest.mark.parametrize(("slope", "intercept"), [(0.5, 0.0), (1.0, -1.0), (1.5, 0.7)])
def test_a_planted_line_is_found(slope: float, intercept: float) -> None:
    """Law: with many rows the fit comes to the line that the labels were drawn by."""
    found = fit(*drawn(slope, intercept, n=40_000), CalibrationConfig())
    assert found.slope == pytest.approx(slope, abs=0.05)
    assert found.intercept == pytest.approx(intercept, abs=0.05)


def test_calibration_helps_on_rows_that_it_has_not_seen() -> None:
    """Law: of a miscalibrated domain, COPC comes to 1, and ECE and LogLoss fall, on new rows; AUC stays."""
    found = fit(*drawn(0.6, -0.8, n=20_000), CalibrationConfig())
    label, logits = drawn(0.6, -0.8, n=20_000, seed=1)
    record = before_and_after(label, logits, np.zeros(len(label), int), ["a"], [found])
    before, after = record["pooled"]["before"], record["pooled"]["after"]
    assert abs(after["copc"] - 1) < 0.05 < abs(before["copc"] - 1)
    assert after["ece"] < 0.3 * before["ece"]
    assert after["log_loss"] < before["log_loss"]
    assert record["domains"]["a"]["after"] == after
    assert metrics.auc(label, found(logits)) == metrics.auc(label, logits)


def test_well_calibrated_domains_mostly_stay_as_they_are() -> None:
    """Law: where the logits are right already, noise seldom passes for a better line (14% by Akaike's criterion)."""
    fits = [fit(*drawn(1.0, 0.0, n=300, seed=seed), CalibrationConfig()) for seed in range(100)]
    assert sum(one.reason is None for one in fits) < 28


@pytest.mark.parametrize(
    ("rows", "config", "reason"),
    [
        (drawn(0.5, 0.0, n=199), CalibrationConfig(), "199 rows, fewer than 200"),
        ((np.zeros(300), np.arange(300.0)), CalibrationConfig(), "0 rows of one class, fewer than 20"),
        ((np.ones(300), np.arange(300.0)), EAGER, "0 rows of one class, fewer than 1"),
        ((np.tile([0.0, 1.0], 150), np.full(300, 0.3)), CalibrationConfig(), "all logits are equal"),
        (drawn(-1.0, 0.0), CalibrationConfig(), "would turn the order round"),
        (drawn(0.5, 0.0), CalibrationConfig(method="none"), "the configuration fits none"),
        ((np.zeros(0), np.zeros(0)), CalibrationConfig(), "0 rows, fewer than 200"),
    ],
)
def test_where_no_line_can_be_trusted_nothing_changes(
    rows: tuple[NDArray[Any], NDArray[Any]], config: CalibrationConfig, reason: str
) -> None:
    """Law: too few rows, one class, equal logits or a falling line give the identity, and the reason."""
    found = fit(*rows, config)
    assert (found.slope, found.intercept, found.shift) == (1.0, 0.0, 0.0)
    assert reason in str(found.reason)
    assert found.served() == {"slope": 1.0, "intercept": 0.0}


@given(st.lists(st.tuples(st.integers(0, 1), st.floats(-1e4, 1e4)), min_size=2, max_size=30))
def test_any_rows_give_a_usable_line(rows: list[tuple[int, float]]) -> None:
    """Law: whatever the rows, separable or extreme, the line is finite, rising, and not worse on them."""
    label, logits = (np.array(column, np.float64) for column in zip(*rows, strict=True))
    found = fit(label, logits, EAGER)
    assert math.isfinite(found.slope)
    assert math.isfinite(found.intercept)
    assert found.slope > 0.0
    losses = [np.sum(np.logaddexp(0, line) - label * line) for line in (logits, found(logits))]
    assert losses[1] <= losses[0]


def test_down_sampled_negatives_are_counted_back() -> None:
    """Law: fitted where a tenth of the negatives was kept, what is served is calibrated on all rows."""
    label, logits = drawn(1.3, -2.0, n=60_000)
    kept = (label > 0.5) | (np.random.default_rng(5).random(len(label)) < 0.1)
    found = fit(label[kept], logits[kept], CalibrationConfig(negatives_kept=0.1))
    served = found.served()
    assert served["slope"] == pytest.approx(1.3, abs=0.05)
    assert served["intercept"] == pytest.approx(-2.0, abs=0.1)
    probability = metrics.probabilities(served["slope"] * logits + served["intercept"])
    assert metrics.copc(label, probability) == pytest.approx(1.0, abs=0.03)
    sampled = metrics.copc(label[kept], metrics.probabilities(found(logits[kept])))
    assert sampled == pytest.approx(1.0, abs=0.03)  # the rows at hand are judged as they are


def test_the_shift_does_not_wait_for_a_fit() -> None:
    """Law: a domain with too few rows for a line is still shifted back to all negatives."""
    served = fit(np.zeros(3), np.zeros(3), CalibrationConfig(negatives_kept=0.25)).served()
    assert served == {"slope": 1.0, "intercept": pytest.approx(math.log(0.25))}


def test_each_domain_has_its_own_line() -> None:
    """Law: fitting all domains is fitting each on its rows; rows of no domain are left out, and left as they are."""
    rng = np.random.default_rng(2)
    parts = [drawn(0.5, 0.0, n=500, seed=1), drawn(1.0, 1.5, n=400, seed=2), drawn(3.0, 0.0, n=300, seed=3)]
    domain = np.repeat([0, 2, -1], [500, 400, 300])
    label, logits = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
    order = rng.permutation(len(domain))
    fits = fit_domains(label[order], logits[order], domain[order], 3, CalibrationConfig())
    for position, part in ((0, parts[0]), (2, parts[1])):
        alone = fit(*part, CalibrationConfig())
        assert fits[position].slope == pytest.approx(alone.slope, rel=1e-9)
        assert fits[position].intercept == pytest.approx(alone.intercept, rel=1e-9)
        assert fits[position].rows == len(part[0])
    assert fits[1].reason == "0 rows, fewer than 200"
    after = calibrated(logits, domain, fits)
    np.testing.assert_array_equal(after[domain == -1], logits[domain == -1])
    np.testing.assert_array_equal(after[domain == 2], fits[2](logits[domain == 2]))


def test_figures_of_a_domain_without_rows_are_none() -> None:
    """Law: a domain without test rows has no figures, and is there all the same."""
    one = Calibration(1.0, 0.0, 0.0, 0, 0, "0 rows")
    record = before_and_after(np.array([1.0, 0.0]), np.zeros(2), np.zeros(2, int), ["a", "b"], [one, one])
    assert record["domains"]["b"]["after"] == {"copc": None, "ece": None, "log_loss": None}
    assert record["pooled"]["before"]["copc"] == pytest.approx(1.0)
