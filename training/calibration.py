"""Calibration per domain: a straight line on the logit, fitted on the `stop` half of validation (methods.md 5).

Two steps, both linear, so that the manifest carries them as one slope and one intercept:
- Platt: slope * logit + intercept, by maximum likelihood, where a domain has rows enough to show that it helps;
- prior shift: where only a share w of the negatives was kept, the odds among all rows are w times those among the kept
  ones, so log(w) is added. The rows at hand are the kept ones, so whatever is measured on them is measured before this
  shift; only what is served has it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from training import metrics
from training.config import CalibrationConfig
from training.metrics import Array, Floats, rows_by_domain

_STEPS = 50
_HALVINGS = 30
_FLAT, _NEARLY_FLAT = 1e-10, 1e-6  # of the gradient, for one row
_FAR = 1e6  # no line lies further from the identity
_SPREAD = 1e-6  # logits closer together than this tell nothing about a slope
_PRICE = 2.0  # of each parameter, as deviance: Akaike's criterion


@dataclass(frozen=True)
class Calibration:
    """What one domain's logits are calibrated by.

    Args:
        slope: of the line.
        intercept: of the line, before the prior shift.
        shift: log of the share of negatives that was kept.
        rows: that it was fitted on.
        positives: of them.
        reason: why it is the identity; None where it was fitted.
    """

    slope: float
    intercept: float
    shift: float
    rows: int
    positives: int
    reason: str | None

    def __call__(self, logits: Array) -> Floats:
        """Calibrate logits (n,) of rows like those it was fitted on: without the shift."""
        line: Floats = self.slope * logits.astype(np.float64) + self.intercept
        return line

    def served(self) -> dict[str, float]:
        """What the manifest carries and every engine applies last."""
        return {"slope": self.slope, "intercept": self.intercept + self.shift}

    def record(self) -> dict[str, Any]:
        """How it came about, as JSON values."""
        return {
            "method": "identity" if self.reason else "platt",
            "rows": self.rows,
            "positives": self.positives,
            "shift": self.shift,
            "reason": self.reason,
        }


def fit_domains(
    label: Array, logits: Array, domain: Array, domains: int, config: CalibrationConfig
) -> tuple[Calibration, ...]:
    """Fit every domain on its own rows.

    Args:
        label: (n,) of 0 and 1, of the `stop` rows.
        logits: (n,) finite.
        domain: (n,) positions; -1 is none.
        domains: how many there are.
        config: when a fit is trusted.

    Returns:
        A calibration for each domain position.
    """
    return tuple(fit(label[part], logits[part], config) for part in rows_by_domain(domain, domains))


def fit(label: Array, logits: Array, config: CalibrationConfig) -> Calibration:
    """Fit one domain; the identity where the rows do not show that another line is better.

    Platt's targets (N+ + 1) / (N+ + 2) and 1 / (N- + 2) stand in for 1 and 0, so that an optimum exists whatever the
    rows are. The fit is kept if it lowers the deviance on the labels themselves by more than 2 for each of its two
    parameters (Akaike), and if a higher logit still is a higher probability.

    Args:
        label: (n,) of 0 and 1.
        logits: (n,) finite.
        config: when a fit is trusted.

    Returns:
        The calibration, with the prior shift either way.

    Source: Platt (1999); Lin, Lin & Weng (2007) for the damped Newton steps.
    """
    rows, positives = len(label), int(np.sum(label))
    reason = _too_little(rows, positives, logits, config)
    if reason is None:
        line = _platt(np.asarray(label, np.float64), logits.astype(np.float64))
        reason = "Newton's steps did not converge" if line is None else _useless(label, logits, *line)
        if line is not None and reason is None:
            return Calibration(*line, config.shift, rows, positives, None)
    return Calibration(1.0, 0.0, config.shift, rows, positives, reason)


def calibrated(logits: Array, domain: Array, calibrations: Sequence[Calibration]) -> Floats:
    """Calibrate rows of many domains, each by its own; without the shift.

    Args:
        logits: (n,).
        domain: (n,) positions in `calibrations`; rows of -1 stay as they are.
        calibrations: of every domain.
    """
    slope = np.array([*(one.slope for one in calibrations), 1.0])  # -1 is the last
    intercept = np.array([*(one.intercept for one in calibrations), 0.0])
    line: Floats = slope[domain] * logits.astype(np.float64) + intercept[domain]
    return line


def before_and_after(
    label: Array, logits: Array, domain: Array, names: Sequence[str], calibrations: Sequence[Calibration]
) -> dict[str, Any]:
    """COPC, ECE and LogLoss before and after, of all rows and of each domain, as JSON values.

    ECE takes 20 bins of equally many rows, in the order of the probability; fewer than 20 rows are a bin each.

    Args:
        label: (n,) of 0 and 1, of rows that nothing was fitted on.
        logits: (n,) before calibration.
        domain: (n,) positions; -1 is none.
        names: of the domains.
        calibrations: of the domains.

    Returns:
        {pooled: figures, domains: {name: {slope, intercept, ..., figures}}}; figures are {rows, positives, before:
        {copc, ece, log_loss}, after: the same}, each None where there are no rows.
    """
    after = calibrated(logits, domain, calibrations)
    found: dict[str, Any] = {"pooled": _both(label, logits, after), "domains": {}}
    parts = rows_by_domain(domain, len(names))
    for name, one, mine in zip(names, calibrations, parts, strict=True):
        figures = _both(label[mine], logits[mine], after[mine])
        found["domains"][name] = {**one.served(), "fitted": one.record(), **figures}
    return found


def _both(label: Array, before: Array, after: Array) -> dict[str, Any]:
    return {
        "rows": len(label),
        "positives": int(np.sum(label)),
        "before": _figures(label, before),
        "after": _figures(label, after),
    }


def _figures(label: Array, logits: Array) -> Mapping[str, float | None]:
    if len(label) == 0:
        return dict.fromkeys(("copc", "ece", "log_loss"))
    probability = metrics.probabilities(logits)
    return {
        "copc": metrics.copc(label, probability),
        "ece": metrics.ece(label, probability),
        "log_loss": metrics.log_loss(label, probability),
    }


def _too_little(rows: int, positives: int, logits: Array, config: CalibrationConfig) -> str | None:
    """Why no line is fitted, None where one is."""
    if config.method == "none":
        return "the configuration fits none"
    if rows < config.min_rows:
        return f"{rows} rows, fewer than {config.min_rows}"
    fewest = min(positives, rows - positives)
    if fewest < config.min_of_class:
        return f"{fewest} rows of one class, fewer than {config.min_of_class}"
    if float(np.ptp(logits)) < _SPREAD:
        return "all logits are equal"
    return None


def _useless(label: Array, logits: Array, slope: float, intercept: float) -> str | None:
    """Why a fitted line is not used, None where it is."""
    if slope <= 0.0:
        return f"slope {slope:.3f} would turn the order round"
    gain = 2.0 * (_cost(label, logits) - _cost(label, slope * logits + intercept))
    if gain <= 2 * _PRICE:
        return f"the deviance falls by {gain:.2f}, not by more than {2 * _PRICE:.0f}"
    return None


def _cost(target: Array, logits: Array) -> float:
    """Cross entropy, summed; exact for targets between 0 and 1 and without overflow."""
    exact = logits.astype(np.float64)
    return float(np.sum(np.logaddexp(0.0, exact) - target * exact))


def _platt(label: Floats, logits: Floats) -> tuple[float, float] | None:
    """Slope and intercept by Newton's method, each step halved until the cost falls; None where that leads nowhere."""
    positives = label.sum()
    target = np.where(label > 0.5, (positives + 1.0) / (positives + 2.0), 1.0 / (len(label) - positives + 2.0))
    line: Array = np.array([1.0, 0.0])
    cost = _cost(target, logits)
    for _ in range(_STEPS):
        gradient, curvature = _derivatives(target, logits, line)
        steepest = float(np.abs(gradient).max()) / len(label)
        if steepest <= _FLAT:
            return float(line[0]), float(line[1])
        try:
            step = np.linalg.solve(curvature, gradient)
        except np.linalg.LinAlgError:  # all probabilities are 0 or 1
            return None
        if not np.abs(step).max() < _FAR:
            return None
        shorter = next((found for found in _halved(target, logits, line, step) if found[1] < cost), None)
        if shorter is None:  # the cost has no more digits to lose
            return (float(line[0]), float(line[1])) if steepest <= _NEARLY_FLAT else None
        line, cost = shorter
    return None


def _derivatives(target: Floats, logits: Floats, line: Array) -> tuple[Floats, Floats]:
    """Gradient (2,) and Hessian (2, 2) of the cost; sums, not products of matrices, whose bits depend on the cores."""
    probability = metrics.probabilities(line[0] * logits + line[1])
    error, weight = probability - target, probability * (1.0 - probability)
    mixed = np.sum(weight * logits)
    curvature = np.array([[np.sum(weight * logits**2), mixed], [mixed, np.sum(weight)]])
    return np.array([np.sum(error * logits), np.sum(error)]), curvature


def _halved(target: Floats, logits: Floats, line: Array, step: Array) -> Iterator[tuple[Array, float]]:
    """Yield ever shorter steps: the line that each leads to, and its cost."""
    for halving in range(_HALVINGS):
        shorter = line - 0.5**halving * step
        yield shorter, _cost(target, shorter[0] * logits + shorter[1])
