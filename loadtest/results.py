"""The figures of a test as JSON, for a plot and for programs."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from loadtest.samples import Row, Samples, slope
from loadtest.trial import Trial
from loadtest.verdicts import Finding, judge, knee
from loadtest.watch import Cost, Watch

WINDOW_S = 2.0
SHOWN = 10


def results(trial: Trial, watch: Watch, pacing: str) -> dict[str, Any]:
    """Everything that a test found."""
    end = min(trial.offset(), trial.plan.end_s if trial.stopped_s is None else trial.stopped_s)
    rows = trial.final_rows()
    cold, changes = (s.row(n, 0.0, 0.0, end or 1.0) for s, n in ((trial.cold, "cold"), (trial.changes, "changes")))
    windows = _windows(trial.scores, end)
    found = knee(rows, trial.bounds) if trial.plan.shape == "step" else None
    findings = judge(trial.plan, rows, cold, changes, trial.wrong, trial.bounds)
    return {
        "schema": 1,
        "shape": trial.plan.shape,
        "pacing": pacing,
        "bounds": asdict(trial.bounds),
        "passed": all(finding.holds for finding in findings),
        "findings": [asdict(finding) for finding in findings],
        "knee": None if found is None else asdict(found),
        "stages": [_shown(row) | _generator(trial.lags, watch, row) for row in rows],
        "windows": [_shown(row) for row in windows],
        "cold": _shown(cold),
        "changes": _shown(changes),
        "wrong": trial.wrong,
        "growth": growth(windows, watch.costs) if trial.plan.shape == "soak" else None,
        "costs": [asdict(cost) for cost in watch.costs],
        "reasons": dict(trial.reasons.most_common(SHOWN)),
    }


def growth(windows: list[Row], costs: list[Cost]) -> dict[str, float]:
    """Growth of p99, of the server's memory and of its open files over the last 80% of a soak, as shares."""
    times = np.array([(row.start_s + row.end_s) / 2 for row in windows])
    p99 = np.array([row.p99_ms for row in windows])
    finite = np.isfinite(p99)
    out = {"p99": slope(times[finite], p99[finite])}
    seen = [cost for cost in costs if cost.resident_bytes is not None]
    at = np.array([cost.at_s for cost in seen])
    for name in ("resident_bytes", "descriptors"):
        out[name] = slope(at, np.array([getattr(cost, name) for cost in seen], dtype=np.float64))
    return out


def write_results(path: Path, content: dict[str, Any]) -> None:
    """Write results; what is no number in JSON becomes null."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".part")
    draft.write_text(json.dumps(_plain(content), indent=1, allow_nan=False) + "\n")
    draft.replace(path)


def lines(content: dict[str, Any]) -> list[str]:
    """What a person is told at the end."""
    out = []
    for row in content["stages"]:
        late = f"  (generator late by {row['lag_p99_ms']:.0f} ms)" if row["lag_p99_ms"] > row["p99_ms"] / 4 else ""
        out.append(
            f"{row['name']:>8}: load {row['load']:7.0f}  answered {row['answered_per_s']:7.1f}/s  "
            f"p50 {row['p50_ms']:7.1f} ms  p99 {row['p99_ms']:7.1f} ms  errors {row['errors']}  "
            f"unsent {row['unsent']}  fallbacks {row['fallbacks']}  wrong {row['wrong']}{late}"
        )
    for name in ("cold", "changes"):
        row = content[name]
        out.append(f"{name:>8}: {row['requests']} requests  p99 {row['p99_ms']:.1f} ms  errors {row['errors']}")
    if content["knee"] is not None:
        found = content["knee"]
        above = "" if found["reached"] else " or above: no higher load was tried"
        out.append(f"knee: load {found['load']:.0f}, {found['answered_per_s']:.0f} answers/s{above}")
    out += [f"why not: {reason} ({count} times)" for reason, count in content["reasons"].items()]
    return out + [_line(Finding(**finding)) for finding in content["findings"]]


def _line(finding: Finding) -> str:
    return f"{'holds' if finding.holds else 'FAILS'}: {finding.name} {finding.figure:.6g} {finding.bound}"


def _windows(samples: Samples, end_s: float) -> list[Row]:
    starts = np.arange(0.0, end_s - WINDOW_S / 2, WINDOW_S)
    return [samples.row("window", 0.0, float(start), float(start) + WINDOW_S) for start in starts]


def _generator(lags: Samples, watch: Watch, row: Row) -> dict[str, float]:
    """How late and how busy the generator itself was in a stage."""
    lag = lags.row(row.name, row.load, row.start_s, row.end_s).p99_ms
    busy = [cost.generator_cpu for cost in watch.costs if row.start_s <= cost.at_s < row.end_s]
    return {"lag_p99_ms": 0.0 if math.isnan(lag) else lag, "generator_cpu": max(busy, default=0.0)}


def _shown(row: Row) -> dict[str, Any]:
    return asdict(row) | {"error_share": row.error_share, "fallback_share": row.fallback_share}


def _plain(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _plain(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_plain(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content
