"""Data and settings with which a trial of any method takes a fraction of a second; and trials that train nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.training.small import SETTINGS
from training.config import TrainingConfig
from training.frameworks.config import MamdrConfig
from training.progress import Meter
from training.search.found import Budget
from training.search.judging import Judged
from training.search.methods import Method, methods_of
from training.search.searching import Data, Search
from training.trials.trial import Config

ONCE = {"lr": 5e-3, "batch_rows": 512, "epochs": 1, "dropout": 0.1}
STAGES: dict[str, Any] = {
    **SETTINGS,
    "export_ablations": False,
    "pretrain": ONCE,
    "adapters": ONCE,
    "fuse": ONCE,
    "whole": ONCE,
}
FRAMEWORK: dict[str, Any] = {
    "framework": "mix",
    "network": {"width": 4, "tower": [8]},
    "batch_rows": 512,
    "epochs": 1,
    "bootstrap_draws": 100,
}
DATA = Data("digest", 1000, 2)


def stages(data: Path | None = None, **changes: Any) -> TrainingConfig:
    """A small configuration of the three stages."""
    return TrainingConfig.model_validate({"data": data, **STAGES, **changes})


def framework(data: Path | None = None, **changes: Any) -> MamdrConfig:
    """A small configuration of a framework."""
    return MamdrConfig.model_validate({"data": data, **FRAMEWORK, **changes})


class Planned:
    """Judges by a formula: best where the step size is 1e-3 and the dropout 0.2. Trains nothing.

    Args:
        stops_at: the trial, counted from 1, over which a person stops everything.
        worthless: trials, counted from 1, that have no AUC.
    """

    def __init__(self, stops_at: int | None = None, worthless: tuple[int, ...] = ()) -> None:
        self.judged: list[Config] = []
        self._stops_at = stops_at
        self._worthless = worthless

    def __call__(self, config: Config, folder: Path, meter: Meter) -> Judged:
        """Judge, and leave some state behind as a training would."""
        assert isinstance(config, TrainingConfig)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "state").write_text("begun")
        if len(self.judged) + 1 == self._stops_at:
            raise KeyboardInterrupt
        self.judged.append(config)
        if len(self.judged) in self._worthless:
            return Judged(None, None)
        chosen = config.pretrain
        return Judged(0.8 - math.log10(chosen.lr / 1e-3) ** 2 / 10 - (chosen.dropout - 0.2) ** 2 / 10, 0.5)


class Ticking:
    """A clock that gains some seconds each time it is read."""

    def __init__(self, seconds: float) -> None:
        self._now = 0.0
        self._seconds = seconds

    def __call__(self) -> float:
        self._now += self._seconds
        return self._now


def pretraining(judge: Planned) -> Method:
    """The search of stage 1, its trials judged otherwise."""
    (method,) = methods_of(stages(), ["pretrain"])
    return replace(method, judge=judge)


def searching(
    out: Path, judge: Planned, trials: int, meter: Meter, hours: float | None = None, **changes: Any
) -> Search:
    """A search of stage 1 whose trials take two seconds each."""
    method = pretraining(judge)
    given: Mapping[str, Any] = {"pretrain": {**ONCE, **changes}}
    budget = Budget(trials, hours)
    return Search(method, stages(**given), method.space, out, DATA, budget, meter, "c1", clock=Ticking(2.0))
