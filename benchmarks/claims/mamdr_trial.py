"""One training of one method on one data set with one seed, and many of them side by side."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from network.backbone import Backbone
from network.inputs import FieldShape, NetworkShape
from training.baselines.baseline import Baseline
from training.baselines.phases import fit_phases
from training.baselines.table import build_baseline
from training.batches import RowTensors
from training.checkpoint import Memory, StateFolder
from training.dataset import EncodedDataset, encode, split_of
from training.frameworks.config import MamdrConfig
from training.frameworks.domains import DomainRows
from training.frameworks.finetune import finetune
from training.frameworks.fit import fit
from training.frameworks.scoring import all_logits, domain_aucs, mean_auc, positions_of
from training.frameworks.setting import Setting
from training.frameworks.state import State
from training.frameworks.structure import PlainStructure, Structure
from training.frameworks.table import FRAMEWORKS
from training.metrics import auc
from training.prepared import PreparedDataset
from training.progress import SilentMeter
from training.seeds import Stream

Found = dict[str, Any]


@dataclass(frozen=True)
class Trial:
    """One training.

    Args:
        data: the prepared folder.
        config: keys of a MamdrConfig, JSON values.
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
    def key(self) -> str:
        """Names this trial's result."""
        return hashlib.sha256(json.dumps([self.data, self.config, self.seed]).encode()).hexdigest()[:24]

    def setting(self) -> Setting:
        """The network, untrained, over the encoded rows."""
        config = MamdrConfig.model_validate({**json.loads(self.config), "seed": self.seed})
        prepared = PreparedDataset.load(Path(self.data))
        split = split_of(prepared, self.seed)
        dataset = encode(prepared, split.train, config.network.width)
        rows = RowTensors(dataset)
        domains = DomainRows.of(rows, split)
        stream = Stream(self.seed, ("contest",))
        with stream.of("start").ambient():
            structure = network(config, dataset, len(domains))
        return Setting(structure, rows, domains, config, stream)


def network(config: MamdrConfig, dataset: EncodedDataset, domains: int) -> Structure:
    """The network that a configuration asks for: plain, or a baseline by name."""
    own = config.network
    shape = NetworkShape(
        fields=tuple(FieldShape(field.name, field.kind, field.vocabulary_size) for field in dataset.fields),
        width=own.width,
        tower=own.tower,
        dropout=own.dropout,
        norm_eps=own.norm_eps,
        norm_momentum=own.norm_momentum,
        embedding_std=own.embedding_std,
        kind=own.kind,
        norm=own.norm,
    )
    if config.structure == "plain":
        return PlainStructure(Backbone(shape))
    return build_baseline(config.structure, shape, domains, config.settings)


def run(trial: Trial) -> Found:
    """Train, select on validation, and score the test rows.

    Returns:
        validation and test (mean over domains), domains {name: test AUC}, pooled (test AUC), epoch, seconds.
    """
    torch.set_num_threads(1)
    began = time.monotonic()
    setting = trial.setting()
    with tempfile.TemporaryDirectory(prefix="espalier-trial-") as folder:
        state, epoch = _learned(setting, StateFolder(Path(folder)))
    domains = setting.domains
    test = domain_aucs(setting, state, domains.test)
    return {
        "validation": mean_auc(domain_aucs(setting, state, domains.stop)),
        "test": mean_auc(test),
        "domains": dict(zip(domains.names, test, strict=True)),
        "pooled": pooled_auc(setting, state),
        "epoch": epoch,
        "seconds": round(time.monotonic() - began, 1),
    }


def pooled_auc(setting: Setting, state: State) -> float | None:
    """The AUC over the test rows of all domains."""
    rows = setting.domains.test
    return auc(setting.rows.label[positions_of(rows)].numpy(), all_logits(setting, state, rows))


def _learned(setting: Setting, folder: StateFolder) -> tuple[State, int]:
    """What the framework selected, finetuned where it is asked for."""
    name, meter = setting.config.framework, SilentMeter()
    if isinstance(setting.structure, Baseline):
        memories = {phase: Memory(folder, phase, {}) for phase in setting.structure.phases}
        fitted = fit_phases(setting, FRAMEWORKS[name], memories, meter)
    else:
        fitted = fit(setting, FRAMEWORKS[name], Memory(folder, name, {}), meter)
    if name != "finetune":
        return fitted.state, fitted.epoch
    tuned = finetune(setting, fitted.state, lambda domain: Memory(folder, f"finetune/{domain}", {}), meter)
    return tuned.state, fitted.epoch


def run_all(trials: Sequence[Trial], kept: Path) -> dict[Trial, Found]:
    """Run trials, a process a core with one thread each; a result that is kept is not run again.

    Args:
        trials: what to run; longest first is quickest.
        kept: folder of results, one JSON file each.
    """
    kept.mkdir(parents=True, exist_ok=True)
    done = {trial: json.loads(path.read_text()) for trial in trials if (path := kept / f"{trial.key}.json").exists()}
    left = [trial for trial in trials if trial not in done]
    cores = len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(max_workers=cores, mp_context=get_context("spawn")) as pool:
        running = {pool.submit(run, trial): trial for trial in left}
        for future in as_completed(running):
            trial = running[future]
            done[trial] = future.result()
            draft = kept / f"{trial.key}.part"
            draft.write_text(json.dumps(done[trial]))
            draft.rename(kept / f"{trial.key}.json")
            print(
                f"# {trial.config} seed {trial.seed}: {done[trial]['test']:.4f}, {done[trial]['seconds']:.0f} s",
                flush=True,
            )
    return done
