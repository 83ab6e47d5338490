"""One training of the long tables: all stages of MultiLoRA, or a network of its own for each domain; and many of them.

The stages give several methods at once: Mix is their backbone, SingleLoRA their stage 2, and so on.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from adapters_store.canonical import canonical_json, digest
from adapters_store.durable import write_durably
from benchmarks.claims import trainings
from training.checkpoint import Memory, StateFolder
from training.config import Schedule, TrainingConfig
from training.metrics import auc, log_loss, probabilities
from training.packed.whole import WholeTrainer
from training.pipeline import train_all
from training.progress import SilentMeter
from training.stages import Run, folder_digest
from training.threads import use_threads
from training.trials.code import code_commit
from training.trials.kept import ANY_COMMIT, Found, TrialKey
from training.whole import whole_trainer

Kind = Literal["stages", "finetune", "single"]
STAGES: dict[str, tuple[str, str]] = {
    "mix": ("backbone", "backbone"),
    "single_lora": ("single_lora", "single"),
    "multi_lora": ("multi_lora", ""),
    "multi_lora-attention": ("multi_lora_attention", "attention"),
    "multi_lora-avg": ("multi_lora_avg", "avg"),
    "multi_lora-add": ("multi_lora_add", "add"),
}
"""Method of the tables to its name in a report, and among the candidates that validation chose from."""
WHOLE = "whole"
"""Key of a baseline's configuration: the schedule of the domains' networks, beside the keys of a TrainingConfig."""
_DRAWS = 200


@dataclass(frozen=True)
class Training:
    """One training.

    Args:
        data: the prepared folder.
        kind: what is trained.
        config: keys of a TrainingConfig, as JSON; of a baseline also `whole`.
        seed: of the split and of all training.
    """

    data: str
    kind: Kind
    config: str
    seed: int

    @classmethod
    def of(cls, data: Path, kind: Kind, config: Mapping[str, Any], seed: int) -> Training:
        """A training of these keys."""
        return cls(str(data), kind, json.dumps(config, sort_keys=True), seed)

    @property
    def stage_1(self) -> str:
        """Digest of what decides stage 1, which trainings share; its state refuses to be taken for another's."""
        config, _ = self.checked()
        settings = config.model_dump(mode="json", include={"backbone", "pretrain", "seed", "threads"})
        return digest(canonical_json({"data": _content(self.data), **settings}))

    @property
    def key(self) -> TrialKey:
        """What its result is kept by; work on the claims themselves takes it whatever code it came from."""
        content = hashlib.sha256(json.dumps([_content(self.data), self.config]).encode()).hexdigest()
        return TrialKey(self.kind, self.seed, content, ANY_COMMIT)

    def checked(self) -> tuple[TrainingConfig, Schedule | None]:
        """The configuration, and the schedule of a baseline's networks."""
        keys = json.loads(self.config)
        whole = keys.pop(WHOLE, None)
        fixed = {"data": self.data, "seed": self.seed, "threads": 1, "bootstrap_draws": _DRAWS}
        return TrainingConfig.model_validate({**keys, **fixed}), None if whole is None else Schedule(**whole)


@lru_cache
def _content(data: str) -> str:
    """Digest of a prepared folder, which is another path on another machine; the path of one that is not there yet."""
    return folder_digest(Path(data)) if Path(data).exists() else data


def run(training: Training, backbones: Path | None = None) -> dict[str, Found]:
    """Train, select on validation, and score the test rows.

    Args:
        training: what to train.
        backbones: folder of finished stages 1, which is taken from there where it is, and left there where it is not.

    Returns:
        Method to {validation (pooled AUC of the `stop` rows), pooled, macro, log_loss, domains {name: test AUC},
        seconds, code (that trained it)}. Of `multi_lora` also `gated`: domain to {passed, low, high}, the verdict of
        the gate and the ends of the paired interval of its test AUC less the backbone's.
    """
    use_threads(1)
    code, began = code_commit(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="espalier-multilora-") as folder:
        own = Path(folder) / "run" / "state" / "pretrain.safetensors"
        shared = None
        if backbones is not None and training.kind != "single":
            shared = backbones / f"{training.stage_1}{own.suffix}"
        spared = 0.0
        if shared is not None and shared.exists():
            own.parent.mkdir(parents=True)
            shutil.copy(shared, own)
            spared = _stage_1_seconds(own)
        found = stages(training, Path(folder)) if training.kind == "stages" else whole(training, Path(folder))
        if shared is not None and not shared.exists():
            shared.parent.mkdir(parents=True, exist_ok=True)
            write_durably(shared, own.read_bytes())
    seconds = round(time.monotonic() - began + spared, 1)
    return {name: {**each, "seconds": seconds, "code": code} for name, each in found.items()}


def _stage_1_seconds(state: Path) -> float:
    """What the epochs of a finished stage 1 took when it was trained."""
    saved = StateFolder(state.parent).read(state.stem)
    assert saved is not None
    return float(sum(entry["seconds"] for entry in saved.record["history"]))


def stages(training: Training, folder: Path) -> dict[str, Found]:
    """All three stages."""
    config, _ = training.checked()
    return told_by(json.loads((train_all(config, folder / "run", resume=True) / "report.json").read_text()))


def told_by(report: Mapping[str, Any]) -> dict[str, Found]:
    """What a report of the stages says of each method."""
    candidates = report["training"]["selection"]["candidates"]
    fused = {mode: curve["auc"] for mode, curve in report["training"]["fuse"].items()}
    chosen = candidates[report["training"]["selection"]["chosen"]]
    validation = {**fused, **candidates, "": chosen}
    methods = report["evaluation"]["methods"]
    found = {
        name: {"validation": validation[candidate], **_figures(methods[reported])}
        for name, (reported, candidate) in STAGES.items()
    }
    found["multi_lora"]["gated"] = _gated(methods["multi_lora"], report["training"].get("gate"))
    return found


def _figures(method: Mapping[str, Any]) -> Found:
    return {
        "pooled": method["pooled"]["auc"],
        "macro": method["macro"]["auc"],
        "log_loss": method["pooled"]["log_loss"],
        "domains": {name: figures["auc"] for name, figures in method["domains"].items()},
    }


def _gated(method: Mapping[str, Any], gate: Mapping[str, Any] | None) -> Found:
    verdicts = {} if gate is None else gate["domains"]
    found = {}
    for name, figures in method["domains"].items():
        ends = figures["difference"] or {"low": None, "high": None}
        found[name] = {"passed": bool(verdicts.get(name, {}).get("passed")), "low": ends["low"], "high": ends["high"]}
    return found


def whole(training: Training, folder: Path) -> dict[str, Found]:
    """A network for each domain, from the pre-trained backbone (Fine-tune) or from random weights (Single)."""
    config, schedule = training.checked()
    assert schedule is not None
    assert training.kind != "stages"
    opened = Run(config.model_copy(update={WHOLE: schedule}), folder / "run", SilentMeter())
    where = opened.positions
    trainer = whole_trainer(opened, training.kind, torch.cat([where.stop, where.test]))
    logits = _scored(trainer, folder / "state", len(opened.rows.label))
    stop, test = (part.numpy()[np.isfinite(logits[part.numpy()])] for part in (where.stop, where.test))
    label = opened.rows.label.numpy()
    domain = opened.rows.domains[:, 0].numpy()
    parts = {name: test[domain[test] == i] for i, name in enumerate(opened.rows.divisions[0].domains)}
    domains = {name: auc(label[part], logits[part]) for name, part in parts.items()}
    known = [value for value in domains.values() if value is not None]
    found: Found = {
        "validation": auc(label[stop], logits[stop]),
        "pooled": auc(label[test], logits[test]),
        "macro": statistics.mean(known) if known else None,
        "log_loss": log_loss(label[test], probabilities(logits[test])),
        "domains": domains,
    }
    return {training.kind: found}


def _scored(trainer: WholeTrainer, state: Path, rows: int) -> NDArray[np.float64]:
    """Logits (rows,) of what was to be scored, NaN elsewhere."""
    kept = StateFolder(state)
    logits = np.full(rows, np.nan)
    for one in trainer.each(lambda name, content: Memory(kept, name, content)):
        logits[one.rows.numpy()] = one.logits
    return logits


def run_all(todo: Sequence[Training], kept: Path) -> dict[Training, Found]:
    """Run trainings, as `benchmarks.claims.trainings.run_all` does.

    Args:
        todo: what to run; longest first is quickest.
        kept: folder of results, one JSON file each.
    """
    # git ignores folders of this name, so that only results are committed of an unfinished table
    return trainings.run_all(todo, partial(run, backbones=kept / "runs"), _told, kept)


def _told(training: Training, found: Found) -> str:
    name, figures = next(iter(found.items()))
    told = f"{name} {figures['pooled']:.4f} in {figures['seconds']:.0f} s"
    return f"{told}: seed {training.seed}, {training.kind}, {training.config}"
