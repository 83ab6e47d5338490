"""The publish gate: which domains' adapters are shown to be better than the backbone (methods.md 5).

It looks at the `gate` half of validation, which nothing else has seen, and at each natural domain's final adapter as it
would be served. Four tests, all to be passed:
- LogLoss, the primary one: z = mean(d) / (std(d) / sqrt(n)) of the rows' differences d, backbone minus adapter;
  one-sided p; Benjamini-Hochberg over the domains keeps the expected share of false passes at q;
- AUC: the one-sided lower bound of the difference (DeLong, paired) lies above -auc_margin;
- calibration: the ECE is not above the backbone's by more than two perfectly calibrated predictors differ by chance;
- at least `min_positives` positives.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np

from training import metrics
from training.config import GateConfig
from training.metrics import Array, Floats

_MOST_BINS, _ROWS_OF_A_BIN = 20, 50
_SAME = 1e-4  # of a probability: verification of an artifact sees no smaller difference


@dataclass(frozen=True)
class Case:
    """The gate rows of one domain.

    Args:
        label: (n,) of 0 and 1.
        served: (n,) logits of the adapter, calibrated, without the prior shift, which the backbone does not have.
        backbone: (n,) logits that are served if nothing is published.
        recalibrated: (n,) the same under a calibration of their own; None where none was looked for.
    """

    label: Array
    served: Array
    backbone: Array
    recalibrated: Array | None = None


@dataclass(frozen=True)
class LossTest:
    """The paired test of LogLoss.

    Args:
        backbone: mean LogLoss.
        adapter: mean LogLoss.
        gain: backbone - adapter.
        z: gain over its standard error; None where all differences are equal.
        p: one-sided; 1 where there is no z.
        p_adjusted: smallest q at which Benjamini-Hochberg lets it pass; None until all domains are known.
        calibration_gain: what the LogLoss of what is served without this adapter falls by under a line of its own, on
            top of any that it has; 0 where that line stays the identity, None where none was looked for. Not tested.
    """

    backbone: float
    adapter: float
    gain: float
    z: float | None
    p: float
    p_adjusted: float | None = None
    calibration_gain: float | None = None


@dataclass(frozen=True)
class AucTest:
    """The bound on the difference of AUC.

    Args:
        backbone, adapter: AUC.
        difference: adapter - backbone.
        low: its one-sided lower bound.
    """

    backbone: float
    adapter: float
    difference: float
    low: float


@dataclass(frozen=True)
class CalibrationTest:
    """Whether the probabilities are as right as before.

    Args:
        backbone, adapter: ECE.
        allowed: what the ECE may rise by: two perfectly calibrated predictors that order rows independently stay below
            it with the confidence asked for, two that agree differ by less.
        copc_backbone, copc_adapter: observed over predicted clicks; shown, not tested.
    """

    backbone: float
    adapter: float
    allowed: float
    copc_backbone: float | None
    copc_adapter: float | None


@dataclass(frozen=True)
class Verdict:
    """What the gate says of one domain.

    Args:
        passed: whether all tests were.
        reason: in words, with figures.
        rows: of its gate half.
        positives: of them.
        loss, auc, calibration: the tests; None where it could not be tested.
    """

    passed: bool
    reason: str
    rows: int
    positives: int
    loss: LossTest | None = None
    auc: AucTest | None = None
    calibration: CalibrationTest | None = None

    def record(self) -> dict[str, Any]:
        """The verdict as JSON values."""
        tests = {"log_loss": self.loss, "auc": self.auc, "calibration": self.calibration}
        return {
            "passed": self.passed,
            "reason": self.reason,
            "rows": self.rows,
            "positives": self.positives,
            **{name: None if test is None else dict(vars(test)) for name, test in tests.items()},
        }


def judge(cases: Mapping[str, Case], config: GateConfig) -> dict[str, Verdict]:
    """Judge all natural domains of a run together.

    Domains that have too few positives, or whose adapter scores as the backbone does, are not tested and do not count
    in Benjamini-Hochberg's number of tests: both are known without looking at any difference of the losses.

    Args:
        cases: domain to its gate rows.
        config: the bounds.

    Returns:
        A verdict for each domain.
    """
    losses: dict[str, LossTest] = {}
    verdicts: dict[str, Verdict] = {}
    for name, case in cases.items():
        reason = _untestable(case, config)
        if reason is None:
            losses[name] = loss_test(case)
        else:
            verdicts[name] = Verdict(False, reason, len(case.label), int(np.sum(case.label)))
    adjusted = benjamini_hochberg([loss.p for loss in losses.values()])
    for (name, loss), p_adjusted in zip(losses.items(), adjusted, strict=True):
        verdicts[name] = _verdict(cases[name], replace(loss, p_adjusted=p_adjusted), config)
    return {name: verdicts[name] for name in cases}


def loss_test(case: Case) -> LossTest:
    """The paired z test of the rows' LogLoss.

    Returns:
        The test, p not adjusted yet.
    """
    label = case.label.astype(np.float64)
    backbone, adapter = (_losses(label, logits.astype(np.float64)) for logits in (case.backbone, case.served))
    gains = backbone - adapter
    gain = float(gains.mean())
    error = float(gains.std(ddof=1)) / math.sqrt(len(gains)) if len(gains) > 1 else 0.0
    z = gain / error if error > 0.0 else None
    p = 1.0 if z is None else 0.5 * math.erfc(z / math.sqrt(2.0))
    found = LossTest(float(backbone.mean()), float(adapter.mean()), gain, z, p)
    if case.recalibrated is None:
        return found
    alone = backbone - _losses(label, case.recalibrated.astype(np.float64))
    return replace(found, calibration_gain=float(alone.mean()))


def auc_test(case: Case, config: GateConfig) -> AucTest | None:
    """DeLong's lower bound of the difference of AUC; None where a class has fewer than two rows."""
    found = metrics.auc_difference(case.label, case.served, case.backbone)
    backbone, adapter = (metrics.auc(case.label, logits) for logits in (case.backbone, case.served))
    if found is None or backbone is None or adapter is None:
        return None
    difference, error = found
    return AucTest(backbone, adapter, difference, difference - NormalDist().inv_cdf(config.confidence) * error)


def calibration_test(case: Case, config: GateConfig) -> CalibrationTest:
    """ECE of both, in bins of 50 rows or more, 20 at most, and by how much they may differ by chance."""
    backbone, adapter = (metrics.probabilities(logits) for logits in (case.backbone, case.served))
    bins = max(1, min(_MOST_BINS, len(case.label) // _ROWS_OF_A_BIN))
    deviation = math.hypot(metrics.ece_deviation(backbone), metrics.ece_deviation(adapter))
    return CalibrationTest(
        metrics.ece(case.label, backbone, bins),
        metrics.ece(case.label, adapter, bins),
        NormalDist().inv_cdf(config.confidence) * deviation,
        metrics.copc(case.label, backbone),
        metrics.copc(case.label, adapter),
    )


def benjamini_hochberg(p: Sequence[float]) -> list[float]:
    """The adjusted p of each test: the smallest q at which it is among those let through.

    Of m tests the k smallest are let through, k the largest with p_(k) <= k q / m; so the adjusted p of the i-th
    smallest is the minimum over k >= i of m p_(k) / k.

    Source: Benjamini & Hochberg (1995).
    """
    values = np.array(p, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    scaled = values[order] * len(values) / np.arange(1, len(values) + 1)
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum.accumulate(scaled[::-1])[::-1]
    return [float(value) for value in adjusted]


def _losses(label: Floats, logits: Floats) -> Floats:
    """Cross entropy of each row; no logit overflows."""
    losses: Floats = np.logaddexp(0.0, logits) - label * logits
    return losses


def _untestable(case: Case, config: GateConfig) -> str | None:
    """Why a domain is not tested, None where it is."""
    positives = int(np.sum(case.label))
    if positives < config.min_positives:
        return f"{positives} positives in its {len(case.label)} gate rows, fewer than {config.min_positives}"
    moved = np.abs(metrics.probabilities(case.served) - metrics.probabilities(case.backbone)).max()
    if moved <= _SAME:
        return f"its adapter scores as the backbone does (no probability moves by more than {_SAME:g})"
    return None


def _verdict(case: Case, loss: LossTest, config: GateConfig) -> Verdict:
    auc, calibration = auc_test(case, config), calibration_test(case, config)
    faults = [*_loss_faults(loss, config), *_auc_faults(auc, config), *_calibration_faults(calibration)]
    alone = f" (a calibration alone: {loss.calibration_gain:+.5f})" if loss.calibration_gain else ""
    passed = f"LogLoss falls by {loss.gain:.5f}{alone}, adjusted p {loss.p_adjusted:.3g}"
    reason = "; ".join(faults) if faults else passed
    return Verdict(not faults, reason, len(case.label), int(np.sum(case.label)), loss, auc, calibration)


def _loss_faults(loss: LossTest, config: GateConfig) -> list[str]:
    if loss.p_adjusted is not None and loss.p_adjusted <= config.q:
        return []
    if loss.gain <= 0.0:
        return [f"LogLoss does not fall ({-loss.gain:+.5f})"]
    return [f"LogLoss falls by {loss.gain:.5f} only (adjusted p {loss.p_adjusted:.3g} above {config.q:g})"]


def _auc_faults(auc: AucTest | None, config: GateConfig) -> list[str]:
    if auc is None:
        return ["one class has fewer than two rows, so there is no bound on AUC"]
    if auc.low > -config.auc_margin:
        return []
    return [f"AUC may fall by {-auc.low:.5f} (difference {auc.difference:+.5f}), {config.auc_margin:g} is allowed"]


def _calibration_faults(found: CalibrationTest) -> list[str]:
    if found.adapter - found.backbone <= found.allowed:
        return []
    return [f"ECE rises from {found.backbone:.4f} to {found.adapter:.4f}, by more than chance ({found.allowed:.4f})"]
