"""The publish gate, held to its tests written out pair by pair, and to worlds where the truth is known."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from training import metrics
from training.config import GateConfig
from training.gate import Case, Verdict, benjamini_hochberg, calibration_test, judge, loss_test

RULES = GateConfig()


def world(rng: np.random.Generator, n: int, of_backbone: float, of_adapter: float, shift: float = 0.0) -> Case:
    """Rows whose true logits both know but for noise of these sizes, the adapter with a constant error too."""
    truth = rng.normal(size=n) * 1.5
    label = (rng.random(n) < 1 / (1 + np.exp(-truth))).astype(np.float32)
    backbone, adapter = (truth + size * rng.normal(size=n) for size in (of_backbone, of_adapter))
    return Case(label, adapter + shift, backbone)


def one(case: Case, config: GateConfig = RULES) -> Verdict:
    """The verdict on a domain that is alone."""
    return judge({"a": case}, config)["a"]


def delong_by_pairs(label: NDArray[Any], scores: tuple[NDArray[Any], NDArray[Any]]) -> tuple[float, float]:
    """Difference and standard error from the O(n m) definition: the kernel of every pair, and its covariances."""
    positives, negatives = np.flatnonzero(label == 1), np.flatnonzero(label == 0)
    of_positive: list[list[float]] = []
    of_negative: list[list[float]] = []
    for score in scores:
        kernel = [[(score[i] > score[j]) + 0.5 * (score[i] == score[j]) for j in negatives] for i in positives]
        of_positive.append([sum(line) / len(negatives) for line in kernel])
        of_negative.append([sum(line[j] for line in kernel) / len(positives) for j in range(len(negatives))])
    areas = [sum(values) / len(values) for values in of_positive]

    def covariance(parts: list[list[float]], a: int, b: int) -> float:
        pairs = zip(parts[a], parts[b], strict=True)
        return sum((x - areas[a]) * (y - areas[b]) for x, y in pairs) / (len(parts[a]) - 1)

    variance = 0.0
    for parts in (of_positive, of_negative):
        spread = covariance(parts, 0, 0) + covariance(parts, 1, 1) - 2 * covariance(parts, 0, 1)
        variance += spread / len(parts[0])
    return areas[0] - areas[1], math.sqrt(variance)


@pytest.mark.parametrize("seed", range(5))
def test_auc_difference_is_delongs(seed: int) -> None:
    """Law: difference and standard error are those of the definition over all pairs, ties included."""
    rng = np.random.default_rng(seed)
    label = (rng.random(60) < 0.4).astype(np.float32)
    scores = (np.round(rng.normal(size=60) + label, 1), np.round(rng.normal(size=60) + 0.5 * label, 1))
    found = metrics.auc_difference(label, *scores)
    assert found == pytest.approx(delong_by_pairs(label, scores), abs=1e-12)


def test_auc_difference_needs_two_of_each_class() -> None:
    """Law: one positive has no variance, so there is no bound."""
    assert metrics.auc_difference(np.array([1, 0, 0]), np.arange(3.0), np.arange(3.0)) is None


@pytest.mark.parametrize("seed", range(20))
def test_benjamini_hochberg_is_the_step_up_rule(seed: int) -> None:
    """Law: at any q those with adjusted p <= q are the k smallest, k the largest with p_(k) <= k q / m."""
    rng = np.random.default_rng(seed)
    p = [float(value) for value in rng.random(rng.integers(1, 30)) ** rng.integers(1, 4)]
    adjusted = benjamini_hochberg(p)
    for q in (0.01, 0.1, 0.3):
        smallest = sorted(p)
        let_through = 0
        for k in range(1, len(p) + 1):
            if smallest[k - 1] <= k * q / len(p):
                let_through = k
        expected = set(smallest[:let_through])
        assert {value for value, level in zip(p, adjusted, strict=True) if level <= q} == expected


def test_no_test_is_no_adjustment() -> None:
    """Law: a run in which nothing can be tested is judged all the same."""
    assert benjamini_hochberg([]) == []
    assert judge({}, RULES) == {}


def test_z_is_the_mean_over_its_standard_error() -> None:
    """Law: the paired z of the rows' LogLoss, by its definition, and the upper tail of the normal distribution."""
    case = world(np.random.default_rng(0), 50, 1.0, 0.5)
    gains = []
    for y, adapter, backbone in zip(case.label, case.served, case.backbone, strict=True):
        losses = [-math.log(1 / (1 + math.exp(-logit if y else logit))) for logit in (backbone, adapter)]
        gains.append(losses[0] - losses[1])
    mean = sum(gains) / 50
    deviation = math.sqrt(sum((gain - mean) ** 2 for gain in gains) / 49)
    found = loss_test(case)
    assert found.gain == pytest.approx(mean)
    assert found.z == pytest.approx(mean / (deviation / math.sqrt(50)))
    assert found.p == pytest.approx(0.5 * math.erfc((found.z or 0.0) / math.sqrt(2)))
    assert found.backbone - found.adapter == pytest.approx(found.gain)


def test_a_planted_gain_passes() -> None:
    """Law: an adapter that knows the truth better than the backbone passes, and the reason has the figures."""
    verdict = one(world(np.random.default_rng(1), 3000, 1.0, 0.1))
    assert verdict.passed
    assert verdict.loss is not None
    assert verdict.auc is not None
    assert verdict.loss.gain > 0.02
    assert verdict.auc.low > 0.0
    assert f"LogLoss falls by {verdict.loss.gain:.5f}" in verdict.reason


def test_what_a_calibration_alone_gains_is_told() -> None:
    """Law: it is the backbone's LogLoss less that of its calibrated logits, and no part of any test."""
    case = world(np.random.default_rng(6), 3000, 0.3, 0.2)
    overconfident = Case(case.label, case.served, 3.0 * case.backbone)
    verdict = one(replace(overconfident, recalibrated=case.backbone))
    alone = loss_test(Case(case.label, case.backbone, 3.0 * case.backbone))
    assert verdict.loss is not None
    assert verdict.loss.calibration_gain == pytest.approx(alone.gain)
    assert 0.0 < alone.gain < verdict.loss.gain
    assert f"(a calibration alone: +{alone.gain:.5f})" in verdict.reason
    plain = one(overconfident)
    assert plain.loss is not None
    assert plain.loss.calibration_gain is None
    assert replace(verdict.loss, calibration_gain=None) == plain.loss
    assert "alone" not in plain.reason


def test_a_harmful_adapter_does_not_pass() -> None:
    """Law: what is worse than the backbone is refused, in words."""
    verdict = one(world(np.random.default_rng(1), 3000, 0.1, 1.0))
    assert not verdict.passed
    assert "LogLoss does not fall" in verdict.reason
    assert "AUC may fall" in verdict.reason


def test_a_worse_order_does_not_pass_by_a_better_logloss() -> None:
    """Law: softening an overconfident backbone with noise lowers LogLoss, and is refused for its AUC alone."""
    case = world(np.random.default_rng(2), 3000, 0.0, 0.5)
    verdict = one(Case(case.label, case.served, 5.0 * case.backbone))
    assert not verdict.passed
    assert verdict.reason.startswith("AUC may fall")


def test_worse_probabilities_do_not_pass_by_a_better_order() -> None:
    """Law: a better order with probabilities off by a constant is refused for its ECE alone."""
    case = world(np.random.default_rng(3), 5000, 0.0, 0.0, shift=0.35)
    verdict = one(Case(case.label, case.served, np.full(5000, math.log(case.label.mean() / (1 - case.label.mean())))))
    assert not verdict.passed
    assert verdict.reason.startswith("ECE rises from 0.0")


def test_too_few_positives_are_not_tested() -> None:
    """Law: below the bound nothing is tested, whatever the gain; at the bound it is."""
    case = world(np.random.default_rng(4), 3000, 2.0, 0.0)
    order = np.argsort(-case.label, kind="stable")
    few = order[int(case.label.sum()) - 19 :]
    verdict = one(Case(case.label[few], case.served[few], case.backbone[few]))
    assert (verdict.passed, verdict.positives, verdict.loss) == (False, 19, None)
    assert "19 positives" in verdict.reason
    more = order[int(case.label.sum()) - 20 :]
    assert one(Case(case.label[more], case.served[more], case.backbone[more])).loss is not None


def test_an_adapter_that_is_the_backbone_is_not_tested() -> None:
    """Law: differences below what verification sees are none: rounding can never be a significant gain."""
    case = world(np.random.default_rng(5), 3000, 0.5, 0.5)
    better = case.backbone + 1e-6 * (2 * case.label - 1)
    verdict = one(Case(case.label, better, case.backbone))
    assert (verdict.passed, verdict.loss) == (False, None)
    assert "scores as the backbone does" in verdict.reason
    assert (loss_test(Case(case.label, better, case.backbone)).z or 0.0) > 10


def test_one_class_does_not_pass() -> None:
    """Law: without negatives there is no AUC and so no bound on it."""
    verdict = one(Case(np.ones(100), np.full(100, 3.0) + np.arange(100) * 1e-3, np.zeros(100)))
    assert not verdict.passed
    assert "no bound on AUC" in verdict.reason


def test_in_a_null_world_q_is_kept() -> None:
    """Law: where no adapter is better, Benjamini-Hochberg lets one through in q of all worlds, the gate in fewer."""
    rng = np.random.default_rng(6)
    through, passed = 0, 0
    for _ in range(300):
        cases = {str(i): world(rng, 150, 0.5, 0.5) for i in range(8)}
        adjusted = benjamini_hochberg([loss_test(case).p for case in cases.values()])
        through += min(adjusted) <= RULES.q
        if min(adjusted) <= RULES.q:  # the gate asks for this and more
            passed += any(verdict.passed for verdict in judge(cases, RULES).values())
    assert 0.04 < through / 300 < 0.17  # q = 0.1, and four standard errors of 300 worlds
    assert passed <= 0.1 * 300


def test_among_many_domains_false_passes_stay_few() -> None:
    """Law: of 40 domains, 20 with a gain, the gainful ones pass and the share of the others among passes is small."""
    rng = np.random.default_rng(7)
    good = {f"good-{i}": world(rng, 1500, 1.2, 0.2) for i in range(20)}
    null = {f"null-{i}": world(rng, 1500, 0.5, 0.5) for i in range(20)}
    verdicts = judge(good | null, RULES)
    passed = {name for name, verdict in verdicts.items() if verdict.passed}
    assert set(good) <= passed
    assert len(passed - set(good)) <= 3
    assert list(verdicts) == [*good, *null]


def test_untested_domains_do_not_weigh_on_the_others() -> None:
    """Law: a domain that cannot be tested does not change another one's verdict."""
    rng = np.random.default_rng(8)
    case, empty = world(rng, 800, 0.8, 0.5), Case(np.zeros(5), np.zeros(5), np.zeros(5))
    alone = one(case)
    crowded = judge({"a": case} | {str(i): empty for i in range(50)}, RULES)
    assert crowded["a"] == alone


def test_a_verdict_is_json_of_finite_numbers() -> None:
    """Law: the record fits a manifest: plain values, None where a test was not made."""
    for n in (3000, 10):
        record = one(world(np.random.default_rng(9), n, 1.0, 0.1)).record()
        assert json.loads(json.dumps(record, allow_nan=False)) == record
        assert (record["auc"] is None) == (n == 10)


def test_ece_deviation_is_that_of_drawn_labels() -> None:
    """Law: over labels drawn with their own probabilities the ECE spreads as stated, whatever the bins."""
    rng = np.random.default_rng(10)
    probability = 1 / (1 + np.exp(-rng.normal(-1, 1, 1000)))
    labels = [(rng.random(1000) < probability).astype(float) for _ in range(500)]
    for bins in (4, 20):
        drawn = [metrics.ece(label, probability, bins) for label in labels]
        assert np.std(drawn) == pytest.approx(metrics.ece_deviation(probability), rel=0.1)


def test_two_calibrated_predictors_seldom_differ_by_more_than_chance() -> None:
    """Law: where both are right on average, the ECE rises beyond what is allowed in 5% of all draws, noise apart."""
    rng = np.random.default_rng(11)
    beyond = 0
    for _ in range(300):
        one_half, other_half = rng.uniform(-0.2, 0.2, (2, 600))
        label = (rng.random(600) < 0.5 + one_half + other_half).astype(np.float32)
        logits = (np.log(p / (1 - p)) for p in (0.5 + one_half, 0.5 + other_half))
        found = calibration_test(Case(label, *logits), RULES)
        beyond += found.adapter - found.backbone > found.allowed
    assert 0.02 * 300 < beyond < 0.09 * 300


def test_copc_is_observed_over_predicted() -> None:
    """Law: above 1 where too few clicks are predicted; undefined where none is."""
    assert metrics.copc(np.array([1, 1, 0, 0]), np.full(4, 0.25)) == pytest.approx(2.0)
    assert metrics.copc(np.array([1, 0]), np.zeros(2)) is None
