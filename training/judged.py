"""What is decided about natural domains once they are trained: their calibration, and whether they pass the gate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.artifacts_of import Choice, Notes
from training.calibration import Calibration, calibrated, fit_domains
from training.config import CalibrationConfig, GateConfig
from training.gate import Case, Verdict, judge
from training.metrics import rows_by_domain

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class NaturalRows:
    """Rows of all natural domains.

    Args:
        label: (n,) of 0 and 1.
        domain: (n,) positions in `names`; -1 is none.
        names: of the domains.
    """

    label: NDArray[Any]
    domain: NDArray[Any]
    names: tuple[str, ...]


@dataclass(frozen=True)
class Judged:
    """The decisions of one run.

    Args:
        calibrations: candidate to the calibration of each natural domain, in the division's order; of every candidate,
            for ablations carry theirs.
        verdicts: domain to what the gate says of the candidate that serves; empty where nothing is judged.
        config: of the gate.
        served: the calibration of each natural domain as it is served, where that differs from the candidate.
    """

    calibrations: Mapping[Choice, Mapping[str, Calibration]]
    verdicts: Mapping[str, Verdict]
    config: GateConfig
    served: Mapping[str, Calibration] = field(default_factory=dict)

    def withheld(self) -> frozenset[str]:
        """Domains that publish nothing."""
        if self.config.policy != "withhold":
            return frozenset()
        return frozenset(name for name, verdict in self.verdicts.items() if not verdict.passed)

    def notes(self, domain: str, choice: Choice, notes: Notes) -> Notes:
        """Add the calibration that a natural domain's adapter of a candidate has."""
        return _calibrated_by(self.calibrations[choice][domain], notes)

    def gated_notes(self, domain: str, choice: Choice, notes: Notes) -> Notes:
        """The same for the final adapter, with the gate's verdict."""
        own = self.served.get(domain, self.calibrations[choice][domain])
        return replace(_calibrated_by(own, notes), gate=self.gate_of(domain))

    def gate_of(self, domain: str) -> dict[str, Any] | None:
        """The verdict as the manifest records it: with the rules that it was found by; None where nothing is judged."""
        verdict = self.verdicts.get(domain)
        return None if verdict is None else {**verdict.record(), "rules": self.rules}

    @cached_property
    def rules(self) -> dict[str, Any]:
        """The bounds, and how many domains were judged and tested together."""
        tested = sum(verdict.loss is not None for verdict in self.verdicts.values())
        return {**self.config.model_dump(mode="json"), "domains": len(self.verdicts), "tested": tested}

    def gate_record(self) -> dict[str, Any]:
        """All verdicts for the report, as JSON values."""
        return {"rules": self.rules, "domains": {name: verdict.record() for name, verdict in self.verdicts.items()}}

    def line(self) -> str:
        """The outcome in one line."""
        if not self.verdicts:
            return "publish gate: none"
        passed = sum(verdict.passed for verdict in self.verdicts.values())
        rest = {"withhold": "the others publish nothing", "record": "recorded only, all are exported", "none": ""}
        return f"publish gate: {passed} of {len(self.verdicts)} domains pass; {rest[self.config.policy]}"


def _calibrated_by(found: Calibration, notes: Notes) -> Notes:
    return replace(notes, calibration=found.served(), training={**notes.training, "calibration": found.record()})


def calibrate(
    rows: NaturalRows, logits: Mapping[Choice, Floats], config: CalibrationConfig
) -> dict[Choice, dict[str, Calibration]]:
    """Fit every candidate's calibrations.

    Args:
        rows: the `stop` half.
        logits: candidate to its logits (n,).
        config: when a fit is trusted.
    """
    fitted = {
        name: fit_domains(rows.label, found, rows.domain, len(rows.names), config) for name, found in logits.items()
    }
    return {name: dict(zip(rows.names, found, strict=True)) for name, found in fitted.items()}


def gate(
    rows: NaturalRows,
    served: Floats,
    backbone: Floats,
    calibrations: Sequence[Calibration],
    config: GateConfig,
    lines: Sequence[Calibration] | None = None,
) -> dict[str, Verdict]:
    """Judge every natural domain.

    Args:
        rows: the `gate` half.
        served: (n,) logits of the candidate that serves, before calibration.
        backbone: (n,) logits.
        calibrations: of each domain, in the order of the names.
        config: the bounds.
        lines: what calibrates `backbone` in each domain, so that a verdict tells what that alone gains.

    Returns:
        Domain to its verdict; empty where the policy is to judge nothing.
    """
    if config.policy == "none":
        return {}
    line = calibrated(served, rows.domain, calibrations)
    again = None if lines is None else calibrated(backbone, rows.domain, lines)
    parts = zip(rows.names, rows_by_domain(rows.domain, len(rows.names)), strict=True)
    cases = {
        name: Case(rows.label[part], line[part], backbone[part], None if again is None else again[part])
        for name, part in parts
    }
    return judge(cases, config)
