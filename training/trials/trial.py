"""One training of a table over seeds: what it is, where it is trained, and what is kept of it."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from adapters_store.canonical import canonical_json, digest
from training.config import TrainingConfig
from training.figures import Evaluation, MethodFigures
from training.frameworks.config import MamdrConfig
from training.frameworks.run import train_mamdr
from training.pipeline import train_all
from training.progress import Meter
from training.reporting.config import SinksConfig
from training.trials.kept import Found, TrialKey

Config = TrainingConfig | MamdrConfig
_ELSEWHERE = {"seed", "data", "rows", "sinks"}
"""Keys that stand beside the digest of a configuration, or decide nothing."""


@dataclass(frozen=True, eq=False)
class Trial:
    """One training of one configuration with one seed; what tells it from another is its key.

    Args:
        method: what the table calls the configuration.
        config: with `data` set, and the trial's seed.
        data: digest of the prepared data.
        commit: of the code.
    """

    method: str
    config: Config
    data: str
    commit: str

    @property
    def seed(self) -> int:
        """Of the training, and of the split."""
        return self.config.seed

    @cached_property
    def key(self) -> TrialKey:
        """What its result is kept by; the folder that the data lies in is no part of it, its content is."""
        settings = self.config.model_dump(mode="json", exclude=_ELSEWHERE)
        kind = type(self.config).__name__
        found = digest(canonical_json({"kind": kind, "data": self.data, "settings": settings}))
        return TrialKey(self.method, self.seed, found, self.commit)


def train_trial(trial: Trial, folder: Path, meter: Meter) -> Found:
    """Train in a folder, or go on there, and return what is kept.

    Args:
        trial: to train.
        folder: of this run alone; its state survives an interruption.
        meter: where progress goes.

    Raises:
        TrainingError: as training does.
    """
    began = time.monotonic()
    quiet = trial.config.model_copy(update={"sinks": SinksConfig()})  # a table's trials are told by the table
    if isinstance(quiet, MamdrConfig):
        train_mamdr(quiet, folder, resume=True, meter=meter)
    else:
        train_all(quiet, folder, resume=True, meter=meter)
    content = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return found_of(Evaluation.model_validate(content["evaluation"]), time.monotonic() - began)


def found_of(evaluation: Evaluation, seconds: float) -> Found:
    """What is kept of a finished run.

    Args:
        evaluation: of its test rows.
        seconds: of the sitting that finished it.

    Returns:
        {rows: {domain: n}, scores: {method: {auc, macro_auc, weighted_auc, gauc, log_loss, domains: {name: AUC}}},
        seconds}; an AUC that is not defined is None.
    """
    first = next(iter(evaluation.methods.values()))
    return {
        "rows": {name: figures.rows for name, figures in first.domains.items()},
        "scores": {name: _scores(method) for name, method in evaluation.methods.items()},
        "seconds": round(seconds, 1),
    }


def _scores(method: MethodFigures) -> Mapping[str, Any]:
    return {
        "auc": method.pooled.auc,
        "macro_auc": method.macro.auc,
        "weighted_auc": method.row_weighted.auc,
        "gauc": method.pooled.gauc,
        "log_loss": method.pooled.log_loss,
        "domains": {name: figures.auc for name, figures in method.domains.items()},
    }


def remove_run(folder: Path) -> None:
    """Remove the folder of a trial whose result is kept."""
    shutil.rmtree(folder, ignore_errors=True)
