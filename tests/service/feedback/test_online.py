"""Laws of online figures: equal to what a textbook says, bounded, and silent where too little is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from service.aggregation import Registry, exposition
from service.feedback.metrics import FeedbackMetrics
from service.feedback.online import (
    CURRENT_ROWS,
    LEAST_LABELLED,
    REFERENCE_ROWS,
    Figures,
    LabelledRows,
    OnlineFigures,
    ScoreDrift,
    area_under_curve,
    binned,
    stability_index,
)
from tests.service.feedback.parts import result


def test_auc_is_that_of_scikit_learn() -> None:
    """Law: the area under the curve is exact, ties counting half."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        scores = np.round(rng.random(rng.integers(2, 300)), 2)
        positive = rng.random(len(scores)) < 0.3
        positive[:2] = True, False
        assert area_under_curve(scores, positive) == pytest.approx(roc_auc_score(positive, scores), abs=1e-12)


def test_labelled_rows_are_a_window() -> None:
    """Law: figures are of the last rows only; calibration is observed over predicted."""
    rows = LabelledRows(200)
    for _ in range(500):
        rows.add(0.9, False)
    for number in range(200):
        rows.add(0.5 if number % 4 else 0.8, number % 4 == 0)
    assert rows.auc() == 1.0
    assert rows.calibration_ratio() == pytest.approx(50 / (50 * 0.8 + 150 * 0.5))


def test_too_little_shows_nothing() -> None:
    """Law: below the least number of rows, or with one class only, there is no AUC."""
    rows = LabelledRows()
    for number in range(LEAST_LABELLED - 1):
        rows.add(0.5, number % 2 == 0)
    assert (rows.auc(), rows.calibration_ratio()) == (None, None)
    rows = LabelledRows()
    for _ in range(LEAST_LABELLED):
        rows.add(0.25, True)
    assert (rows.auc(), rows.calibration_ratio()) == (None, 4.0)


def test_psi_is_the_sum_over_groups() -> None:
    """Law: with groups as they are, the index is sum (p - q) ln(p / q), half a row added to each group."""
    reference, current = np.array([100, 300]), np.array([300, 100])
    p, q = 300.5 / 401, 100.5 / 401
    wanted = (p - q) * math.log(p / q) + (q - p) * math.log(q / p)
    assert stability_index(reference, current, groups=4) == pytest.approx(wanted)
    assert stability_index(reference, reference) == 0.0
    assert math.isfinite(stability_index(np.array([10, 0, 0]), np.array([0, 0, 10])))


def test_psi_groups_hold_about_equally_many_reference_rows() -> None:
    """Law: a shift of scores within a narrow range is seen, since groups follow the reference."""
    rng = np.random.default_rng(1)
    narrow = binned(1 / (1 + np.exp(-rng.normal(0.0, 0.3, 20_000))))
    shifted = binned(1 / (1 + np.exp(-rng.normal(0.3, 0.3, 20_000))))
    assert stability_index(narrow, shifted) > 0.5


def test_every_probability_has_a_bin() -> None:
    """Law: 0, 1 and everything between are counted."""
    assert binned([0.0, 1e-300, 0.5, 1.0 - 1e-16, 1.0]).sum() == 5


def test_drift_needs_a_reference_and_starts_anew_with_a_revision() -> None:
    """Law: the index compares with the first rows of the revision; another revision brings its own reference."""
    drift, rng = ScoreDrift(), np.random.default_rng(2)

    def give(rows: int, mean: float, revision: str) -> None:
        drift.add(1 / (1 + np.exp(-rng.normal(mean, 1.0, rows))), revision)

    give(REFERENCE_ROWS, 0.0, "one")
    assert drift.psi() is None
    give(CURRENT_ROWS, 0.0, "one")
    steady = drift.psi()
    assert steady is not None
    assert steady < 0.01
    for _ in range(4):
        give(CURRENT_ROWS // 2, 1.0, "one")
    moved = drift.psi()
    assert moved is not None
    assert moved > 0.5
    give(100, 1.0, "two")
    assert drift.psi() is None


def test_only_live_rows_count() -> None:
    """Law: a canary's or a fallback's scores are not those of the live revision."""
    online = OnlineFigures(3)
    online.scored([result("r", [0.5], "a", alias="canary"), result("r", [0.5], "b", fallback="loading")])
    online.scored([result("r", [0.5], "c")])
    assert list(online.figures()) == ["c"]


def test_the_busiest_domains_are_shown_and_no_more_are_kept() -> None:
    """Law: of 500 domains in a long tail the five busiest are shown, whatever order they come in."""
    online, rng = OnlineFigures(5), np.random.default_rng(3)
    for _ in range(60):
        drawn = rng.zipf(1.5, 200)
        online.scored([result("r", np.full(10, 0.5), f"d{number}") for number in drawn if number <= 500])
    assert set(online.figures()) == {"d1", "d2", "d3", "d4", "d5"}
    assert len(online._domains) <= 20


def test_labels_of_an_untracked_domain_are_dropped() -> None:
    """Law: labels alone make no domain busy."""
    online = OnlineFigures(1)
    online.labelled("unseen", 0.5, True)
    assert online.figures() == {}


def test_series_leave_with_their_domain() -> None:
    """Law: a domain that is no longer among the busiest, or whose figure is gone, has no series."""
    registry = Registry()
    metrics = FeedbackMetrics(registry, 1 << 30)
    metrics.online({"a": Figures(0.7, 1.1, 0.01), "b": Figures(None, 0.9, None)})
    shown = exposition(registry.families()).decode()
    assert 'espalier_online_auc{domain="a"} 0.7' in shown
    assert 'espalier_online_calibration_ratio{domain="b"} 0.9' in shown
    assert 'espalier_score_psi{domain="b"}' not in shown
    metrics.online({"b": Figures(0.6, None, None)})
    shown = exposition(registry.families()).decode()
    assert 'domain="a"' not in shown
    assert 'espalier_online_auc{domain="b"} 0.6' in shown
    assert "espalier_online_calibration_ratio{" not in shown
