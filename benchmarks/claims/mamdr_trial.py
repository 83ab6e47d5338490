"""One training of one method on one data set with one seed, and many of them side by side."""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.claims import trainings
from training.checkpoint import Record, Saved, StateFolder
from training.frameworks.config import MamdrConfig
from training.frameworks.loaded import Loaded
from training.frameworks.run import MamdrRun
from training.frameworks.scoring import domain_aucs, domain_logits, mean_auc, positions_of
from training.frameworks.setting import Setting
from training.frameworks.state import State
from training.metrics import auc
from training.progress import SilentMeter
from training.threads import use_threads
from training.trials.code import code_commit
from training.trials.kept import ANY_COMMIT, TrialKey

Found = dict[str, Any]


@dataclass(frozen=True)
class Trial:
    """One training.

    Args:
        data: the prepared folder.
        config: keys of a MamdrConfig, as JSON.
        seed: of training, and of the split where the data has none.
        content: digest of the prepared folder; its path tells trials apart where there is none.
    """

    data: str
    config: str
    seed: int
    content: str = ""

    @classmethod
    def of(cls, data: Path, config: Mapping[str, Any], seed: int, content: str = "") -> Trial:
        """A trial of these keys."""
        return cls(str(data), json.dumps(config, sort_keys=True), seed, content)

    @property
    def key(self) -> TrialKey:
        """What its result is kept by; one of other code is taken too, and says which code it is of."""
        keys = json.loads(self.config)
        structure = keys.get("structure", "plain")
        method = keys.get("framework", "mamdr") if structure == "plain" else structure
        told = hashlib.sha256(json.dumps([self.content or self.data, self.config]).encode()).hexdigest()
        return TrialKey(method, self.seed, told, ANY_COMMIT)

    def checked(self) -> MamdrConfig:
        """The configuration."""
        return MamdrConfig.model_validate({**json.loads(self.config), "data": self.data, "seed": self.seed})

    def opened(self, folder: Path, loaded: Loaded | None = None) -> MamdrRun:
        """The run of `espalier train mamdr`, untrained, that leaves no checkpoints in its folder."""
        return MamdrRun(self.checked(), folder, SilentMeter(), loaded, NoState(folder))


class NoState(StateFolder):
    """Remembers nothing: a trial that was stopped begins anew, so that nobody would read its checkpoints.

    The table, what Adam remembers of it and the best epoch's are 80 MB on epinions-mdr, written and synced each epoch.
    """

    def write(self, name: str, tensors: Mapping[str, Tensor], record: Record) -> None:
        """Do nothing."""

    def read(self, name: str) -> Saved | None:
        """Return nothing."""
        return None


# of one process and in the order of its trials: most follow one of the same data and seed, and reading the rows of
# epinions-mdr takes a third as long as a plain epoch
@lru_cache(maxsize=1)
def _loaded(data: str, seed: int, width: int) -> Loaded:
    config = MamdrConfig.model_validate({"data": data, "seed": seed, "network": {"width": width}})
    return Loaded.of(config, Path(data))  # in memory: nothing is laid out there


def run(trial: Trial) -> Found:
    """Train, select on validation, and score the test rows.

    Returns:
        validation and test (mean over domains), domains {name: test AUC}, pooled (test AUC), epoch, seconds, and code
        (that trained it, as `training.trials.code.code_commit` names it).
    """
    use_threads(1)
    code, began = code_commit(), time.monotonic()
    config = trial.checked()
    loaded = None if config.left_out else _loaded(trial.data, trial.seed, config.network.width)
    with tempfile.TemporaryDirectory(prefix="espalier-trial-") as folder:
        opened = trial.opened(Path(folder), loaded)
        fitted = opened.fitted()
        tuned = opened.finetuned(fitted)
    state, setting = (fitted.state if tuned is None else tuned.state), opened.setting
    return {
        "validation": mean_auc(domain_aucs(setting, state, setting.domains.stop)),
        **tested(setting, state),
        "epoch": fitted.epoch,
        "seconds": round(time.monotonic() - began, 1),
        "code": code,
    }


def tested(setting: Setting, state: State) -> Found:
    """The exact AUC of the test rows: of each domain, their mean, and pooled over all; every row is scored once."""
    rows, label = setting.domains.test, setting.rows.label
    logits = [domain_logits(setting, state, domain, part) for domain, part in enumerate(rows)]
    aucs = [auc(label[part].numpy(), own) if len(part) else None for part, own in zip(rows, logits, strict=True)]
    pooled = auc(label[torch.from_numpy(positions_of(rows))].numpy(), np.concatenate(logits))
    return {"test": mean_auc(aucs), "domains": dict(zip(setting.domains.names, aucs, strict=True)), "pooled": pooled}


def run_all(trials: Sequence[Trial], kept: Path) -> dict[Trial, Found]:
    """Run trials, as `benchmarks.claims.trainings.run_all` does.

    Args:
        trials: what to run; longest first is quickest.
        kept: folder of results, one JSON file each.
    """
    return trainings.run_all(trials, run, _told, kept)


def _told(trial: Trial, found: Found) -> str:
    return f"{found['test']:.4f} in {found['seconds']:.0f} s: seed {trial.seed}, {trial.config}"
