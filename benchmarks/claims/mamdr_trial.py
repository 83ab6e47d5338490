"""One training of one method on one data set with one seed, and many of them side by side."""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.claims import trainings
from training.frameworks.config import MamdrConfig
from training.frameworks.run import MamdrRun
from training.frameworks.scoring import all_logits, domain_aucs, mean_auc, positions_of
from training.frameworks.setting import Setting
from training.frameworks.state import State
from training.metrics import auc
from training.progress import SilentMeter
from training.trials.kept import ANY_COMMIT, TrialKey

Found = dict[str, Any]


@dataclass(frozen=True)
class Trial:
    """One training.

    Args:
        data: the prepared folder.
        config: keys of a MamdrConfig, as JSON.
        seed: of training, and of the split where the data has none.
    """

    data: str
    config: str
    seed: int

    @classmethod
    def of(cls, data: Path, config: Mapping[str, Any], seed: int) -> Trial:
        """A trial of these keys."""
        return cls(str(data), json.dumps(config, sort_keys=True), seed)

    @property
    def key(self) -> TrialKey:
        """What its result is kept by; work on the claims themselves takes it whatever code it came from."""
        keys = json.loads(self.config)
        structure = keys.get("structure", "plain")
        method = keys.get("framework", "mamdr") if structure == "plain" else structure
        content = hashlib.sha256(json.dumps([self.data, self.config]).encode()).hexdigest()
        return TrialKey(method, self.seed, content, ANY_COMMIT)

    def opened(self, folder: Path) -> MamdrRun:
        """The run of `espalier train mamdr`, untrained, with its state in a folder."""
        keys = {**json.loads(self.config), "data": self.data, "seed": self.seed}
        return MamdrRun(MamdrConfig.model_validate(keys), folder, SilentMeter())


def run(trial: Trial) -> Found:
    """Train, select on validation, and score the test rows.

    Returns:
        validation and test (mean over domains), domains {name: test AUC}, pooled (test AUC), epoch, seconds.
    """
    torch.set_num_threads(1)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="espalier-trial-") as folder:
        opened = trial.opened(Path(folder))
        fitted = opened.fitted()
        tuned = opened.finetuned(fitted)
    state, setting = (fitted.state if tuned is None else tuned.state), opened.setting
    test = domain_aucs(setting, state, setting.domains.test)
    return {
        "validation": mean_auc(domain_aucs(setting, state, setting.domains.stop)),
        "test": mean_auc(test),
        "domains": dict(zip(setting.domains.names, test, strict=True)),
        "pooled": pooled_auc(setting, state),
        "epoch": fitted.epoch,
        "seconds": round(time.monotonic() - began, 1),
    }


def pooled_auc(setting: Setting, state: State) -> float | None:
    """The AUC over the test rows of all domains."""
    rows = setting.domains.test
    return auc(setting.rows.label[positions_of(rows)].numpy(), all_logits(setting, state, rows))


def run_all(trials: Sequence[Trial], kept: Path) -> dict[Trial, Found]:
    """Run trials, as `benchmarks.claims.trainings.run_all` does.

    Args:
        trials: what to run; longest first is quickest.
        kept: folder of results, one JSON file each.
    """
    return trainings.run_all(trials, run, _told, kept)


def _told(trial: Trial, found: Found) -> str:
    return f"{found['test']:.4f} in {found['seconds']:.0f} s: seed {trial.seed}, {trial.config}"
