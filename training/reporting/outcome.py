"""What every sink is told of a finished run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters_store.canonical import digest
from training.figures import Evaluation, MethodFigures
from training.reporting.page import PAGE
from training.tables import MOST_DOMAINS

_FILES = (PAGE, "report.md", "auc.png", "learning.png")
_NOT_TOLD = ("data", "rows", "sinks")
"""Settings that say where something lies, and nothing about the run."""


@dataclass(frozen=True)
class Point:
    """One value of a series.

    Args:
        tag: of the series: its parts, such as ("adapters", "age-25", "auc").
        step: the epoch.
        value: there.
    """

    tag: tuple[str, ...]
    step: int
    value: float


@dataclass(frozen=True)
class Outcome:
    """A finished run.

    Args:
        name: of its folder.
        settings: its configuration, one text a key in full (`pretrain.lr`).
        figures: what it came to on the test rows; step 0.
        curves: how it learned, by epoch; of the domains, the largest alone.
        files: of its report, without report.json, which says where the data lay.
        digest: of report.json: two runs that differ in anything have two.
    """

    name: str
    settings: Mapping[str, str]
    figures: Sequence[Point]
    curves: Sequence[Point]
    files: Sequence[Path]
    digest: str


def outcome_of(run: Path, evaluation: Evaluation, record: Mapping[str, Any]) -> Outcome:
    """Gather what sinks are told of a run whose report is written.

    Args:
        run: the run folder.
        evaluation: of its test rows.
        record: what the report says of the training; may be empty.

    Raises:
        OSError: report.json is not there.
    """
    config = record.get("config", {})
    told = {key: value for key, value in config.items() if key not in _NOT_TOLD}
    if config.get("data"):
        told["data"] = Path(config["data"]).name
    return Outcome(
        run.resolve().name,
        dict(_flat(told)),
        tuple(_figures(evaluation)),
        tuple(_curves(record)),
        tuple(run / name for name in _FILES if (run / name).is_file()),
        digest((run / "report.json").read_bytes()),
    )


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value)


def _figures(evaluation: Evaluation) -> Iterator[Point]:
    largest = evaluation.domains_by_rows()[:MOST_DOMAINS]
    for name, method in evaluation.methods.items():
        for figure, value in _of_method(method).items():
            if value is not None:
                yield Point(("test", name, figure), 0, value)
        for domain in largest:
            auc = method.domains[domain].auc
            if auc is not None:
                yield Point(("domains", domain, name), 0, auc)


def _of_method(method: MethodFigures) -> dict[str, float | None]:
    pooled = method.pooled
    return {
        "auc": pooled.auc,
        "macro_auc": method.macro.auc,
        "weighted_auc": method.row_weighted.auc,
        "gauc": pooled.gauc,
        "log_loss": pooled.log_loss,
        "ece": pooled.ece,
    }


def _curves(record: Mapping[str, Any]) -> Iterator[Point]:
    if "pretrain" in record:
        yield from _curve(("pretrain",), record["pretrain"])
    adapters = sorted(record.get("adapters", {}).items(), key=lambda pair: -pair[1]["rows"])
    for name, curve in adapters[:MOST_DOMAINS]:
        yield from _curve(("adapters", name), curve)
    for mode, curve in record.get("fuse", {}).items():
        yield from _curve(("fuse", mode), curve)


def _curve(tag: tuple[str, ...], curve: Mapping[str, Any]) -> Iterator[Point]:
    for entry in curve["history"]:
        for figure in ("auc", "loss"):
            if entry.get(figure) is not None:
                yield Point((*tag, figure), entry["epoch"], entry[figure])
