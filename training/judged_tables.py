"""The gate's verdicts and the calibrations of a run, laid out as tables from what report.json keeps of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from training.tables import MOST_DOMAINS, Table, number

_NONE = "–"


def verdicts_by_domain(record: Mapping[str, Any]) -> Table:
    """The verdict on each natural domain, the largest first.

    Args:
        record: what `training.judged.Judged.gate_record` gives.
    """
    rows = [[name, *_verdict(verdict)] for name, verdict in _largest(record["domains"])]
    losses = ("LogLoss gain", "by calibration alone", "p", "adjusted p")
    others = ("AUC difference", "its low end", "ECE", "backbone's")
    header = ("domain", "rows", "positives", "passes", *losses, *others, "why")
    return Table("Publish gate", header, rows)


def calibration_by_domain(record: Mapping[str, Any]) -> Table:
    """COPC and ECE before and after, of all test rows and of each natural domain, the largest first.

    Args:
        record: what `training.calibration.before_and_after` gives.
    """
    rows = [["all rows", *_figures(record["pooled"]), _NONE, _NONE, ""]]
    for name, found in _largest(record["domains"]):
        line = (number(found["slope"]), number(found["intercept"]))
        rows.append([name, *_figures(found), *line, found["fitted"]["reason"] or "fitted"])
    header = ("domain", "rows", "COPC", "after", "ECE", "after", "LogLoss", "after", "slope", "intercept", "fit")
    return Table("Calibration", header, rows)


def _largest(domains: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return sorted(domains.items(), key=lambda entry: -entry[1]["rows"])[:MOST_DOMAINS]


def _verdict(found: Mapping[str, Any]) -> list[str]:
    loss, auc, calibration = (found[name] or {} for name in ("log_loss", "auc", "calibration"))
    return [
        f"{found['rows']:,}",
        f"{found['positives']:,}",
        "yes" if found["passed"] else "no",
        _signed(loss.get("gain"), 5),
        _signed(loss.get("calibration_gain"), 5),
        number(loss.get("p")),
        number(loss.get("p_adjusted")),
        _signed(auc.get("difference")),
        _signed(auc.get("low")),
        number(calibration.get("adapter")),
        number(calibration.get("backbone")),
        found["reason"],
    ]


def _figures(found: Mapping[str, Any]) -> list[str]:
    names, ends = ("copc", "ece", "log_loss"), ("before", "after")
    return [f"{found['rows']:,}", *(number(found[end][name]) for name in names for end in ends)]


def _signed(value: float | None, digits: int = 4) -> str:
    return _NONE if value is None else f"{value:+.{digits}f}"
