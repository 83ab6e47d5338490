"""Trials that need no data, and a training of them that a test can look into."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from training.config import TrainingConfig
from training.progress import Meter
from training.trials.kept import Found
from training.trials.trial import Trial


def trial(method: str = "base", seed: int = 0, commit: str = "c1", **changes: Any) -> Trial:
    """A trial of the default configuration with some keys replaced."""
    return Trial(method, TrainingConfig.model_validate({"seed": seed, **changes}), "data", commit)


def scores(auc: float | None, **domains: float | None) -> dict[str, Any]:
    """What is kept of a method."""
    keys = dict.fromkeys(("auc", "macro_auc", "weighted_auc", "gauc"), auc)
    return {**keys, "log_loss": None if auc is None else 1.0 - auc, "domains": domains}


class Training:
    """Trains nothing; each result is told by the trial's seed.

    Args:
        stops_at: the training, counted from 1, at which a person stops everything.
    """

    def __init__(self, stops_at: int | None = None) -> None:
        self.trained: list[Trial] = []
        self._stops_at = stops_at

    def __call__(self, trial: Trial, folder: Path, meter: Meter) -> Found:
        """Train in a folder, which is left with some state."""
        folder.mkdir(exist_ok=True)
        (folder / "state").write_text("begun")
        if len(self.trained) + 1 == self._stops_at:
            raise KeyboardInterrupt
        self.trained.append(trial)
        return {"rows": {"a": 5}, "scores": {"backbone": scores(0.5 + trial.seed / 100, a=0.5)}, "seconds": 1.0}
