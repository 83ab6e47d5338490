"""`espalier train mamdr`, top to bottom: train, finetune, evaluate, export, report. One run folder, resumable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from network.backbone import Backbone
from network.inputs import NetworkShape
from training.baselines.baseline import Baseline
from training.baselines.phases import fit_phases
from training.baselines.table import build_baseline
from training.batches import shape_of
from training.checkpoint import Memory, StateFolder
from training.dataset import EncodedDataset, Split
from training.errors import ConfigError, StageMissing, StateMismatch
from training.evaluation import evaluate
from training.figures import BASELINE, Evaluation
from training.frameworks.config import MamdrConfig
from training.frameworks.exporting import export
from training.frameworks.finetune import Finetuned, finetune
from training.frameworks.fit import SPREAD, STATE, Fitted, fit
from training.frameworks.loaded import Loaded, decisive
from training.frameworks.lora import LoraStructure
from training.frameworks.newcomer import fit_newcomer
from training.frameworks.scoring import all_logits, domain_logits, positions_of
from training.frameworks.setting import Setting
from training.frameworks.state import State
from training.frameworks.structure import PlainStructure, Structure
from training.frameworks.table import FRAMEWORKS
from training.frameworks.trained import as_exported
from training.metrics import auc
from training.predictions import Predictions, write_predictions
from training.progress import Meter, SilentMeter
from training.report import write_report
from training.reporting.sinks import open_sinks, send_all
from training.seeds import Stream
from training.stages import refuse_existing
from training.threads import threads

_UNDECISIVE = {"data", "rows", "artifact", "artifact_dtype", "bootstrap_draws", "finetune", "sinks"}
"""Keys that theta_S and the theta_i do not depend on."""


class MamdrRun:
    """One run: its configuration, its data, its network, and its folder.

    Args:
        config: with `data` set.
        out: the run folder.
        meter: where progress goes.
        loaded: the data, where it is at hand already; else it is read.
        state: where checkpoints go; into the run folder by default.

    Raises:
        ConfigError: the configuration names no data, or asks for what the network does not have; or the data was loaded
            for another one.
        SinkMissing: the library of a sink that it asks for is not installed.
    """

    def __init__(
        self,
        config: MamdrConfig,
        out: Path,
        meter: Meter,
        loaded: Loaded | None = None,
        state: StateFolder | None = None,
    ) -> None:
        asked = decisive(config)
        open_sinks(config.sinks, out)  # one whose library is missing is refused before anything is trained
        if loaded is None:
            loaded = Loaded.of(config, out / "state")
        elif loaded.asked != asked:
            raise ConfigError(f"the data was loaded for {loaded.asked} and is asked for {asked}")
        self.config = config
        self.out = out
        self.meter = meter
        self.state = state or StateFolder(out / "state")
        self.split: Split = loaded.split
        self.dataset: EncodedDataset = loaded.dataset
        self.rows = loaded.rows
        self.domains = loaded.domains
        self._data_digest = loaded.digest
        structure = build(config, self.dataset, len(self.domains))
        if config.embeddings == "frozen" and structure.embeddings.starts:
            tables = ", ".join(structure.embeddings.starts)
            meter.say(f"embeddings: frozen keeps the tables of {tables} as they were drawn; nothing is learned there")
        domains = self.domains.without(config.left_out)
        self.setting = Setting(structure, self.rows, domains, config, Stream(config.seed, ("mamdr",)))

    def fitted(self) -> Fitted:
        """Train the framework, or take the finished training; a network of several phases in all of them."""
        framework_of = FRAMEWORKS[self.config.framework]
        structure = self.setting.structure
        if not isinstance(structure, Baseline) or len(structure.phases) == 1:
            return fit(self.setting, framework_of, self.memory(STATE), self.meter)
        memories = {phase: self.memory(f"{STATE}/{phase}") for phase in structure.phases}
        return fit_phases(self.setting, framework_of, memories, self.meter)

    def finetuned(self, fitted: Fitted) -> Finetuned | None:
        """Finetune every domain, where the configuration asks for it."""
        if self.config.finetune.epochs == 0:
            return None
        keys = {"finetune": self.config.finetune.model_dump(mode="json")}
        return finetune(self.setting, fitted.state, lambda name: self.memory(f"finetune/{name}", keys), self.meter)

    def memory(self, name: str, more: Mapping[str, Any] | None = None) -> Memory:
        """The place in the state of one piece of training."""
        settings = self.config.model_dump(mode="json", exclude=_UNDECISIVE)
        return Memory(self.state, name, {"data": self._data_digest, **settings, **(more or {})})

    def finished(self) -> Fitted:
        """Return the finished training of this folder.

        Raises:
            StageMissing: there is none.
            StateMismatch: it is of other settings.
        """
        saved = self.memory(STATE).load()
        if saved is None or not saved.record["finished"]:
            raise StageMissing(f"{self.out} holds no finished training: run `espalier train mamdr` into it first")
        return self.fitted()


def build(config: MamdrConfig, dataset: EncodedDataset, domains: int) -> Structure:
    """Return the untrained network; its weights depend on the seed and the configuration alone.

    Args:
        config: structure, network, specific.
        dataset: its fields.
        domains: how many natural domains there are.

    Raises:
        ConfigError: there is no such structure, or a key does not fit it.
        ShapeError: the network cannot be built, or the ranks do not fit it.
    """
    shape = shape_of(dataset.fields, config.network, config.network.dropout)
    return network_of(config, domains, dataset.given, shape)


def network_of(
    config: MamdrConfig, domains: int, given: Mapping[str, NDArray[np.float32]], shape: NetworkShape
) -> Structure:
    """Return the untrained network of a shape, the vectors that fields bring in it.

    Args:
        config: structure, network, specific.
        domains: how many natural domains there are.
        given: field -> its vectors (V, width), row 0 out of vocabulary.
        shape: of the network; a worker of a cluster gives one with smaller vocabularies of the trained fields.

    Raises:
        ConfigError: there is no such structure, or a key does not fit it.
        ShapeError: the network cannot be built, or the ranks do not fit it.
    """
    built = _untrained(config, shape, domains)
    # copies: torch wants to own memory that it may write to
    built.embeddings.take_given({name: torch.tensor(vectors) for name, vectors in given.items()})
    return built


def _untrained(config: MamdrConfig, shape: NetworkShape, domains: int) -> Structure:
    with Stream(config.seed, ("mamdr", "network")).ambient():
        if config.structure != "plain":
            return build_baseline(config.structure, shape, domains, config.settings)
        if config.settings:
            raise ConfigError("structure plain takes no settings: its widths stand under network")
        backbone = Backbone(shape)
        return LoraStructure(backbone, config.lora) if config.specific == "lora" else PlainStructure(backbone)


def train_mamdr(
    config: MamdrConfig,
    out: Path,
    *,
    resume: bool = False,
    meter: Meter | None = None,
    domain: str | None = None,
) -> Path:
    """Train a learning framework and everything that follows from it.

    Args:
        config: with `data` set.
        out: the run folder, made if it is not there.
        resume: go on where a run in `out` stopped.
        meter: where progress goes; nowhere by default.
        domain: add this domain alone, by Domain Regularization on the run's theta_S.

    Returns:
        The run folder, with bundle, adapters (as far as theta_i can be served), predictions and report in it.

    Raises:
        TrainingError: the folder holds another run, the data or the configuration cannot be used.
    """
    if domain is None:
        refuse_existing(out, "all", resume)
    with threads(config.threads):
        run = MamdrRun(config, out, meter or SilentMeter())
        with run.state.locked():
            return _train(run) if domain is None else _add(run, domain)


def _train(run: MamdrRun) -> Path:
    if run.state.holds(SPREAD) and not run.state.holds(STATE):
        raise StateMismatch(
            f"{run.out} holds a training on a cluster that is not finished: give --ray to go on with it, "
            "or train into another folder"
        )
    fitted = run.fitted()
    return finish(run, fitted, run.finetuned(fitted))


def finish(run: MamdrRun, fitted: Fitted, finetuned: Finetuned | None) -> Path:
    """Evaluate what was trained on the test rows, export it, report it.

    Args:
        run: its folder is written to.
        fitted: theta_S and theta_i of the selected epoch.
        finetuned: reported beside it, exported only for framework finetune.
    """
    method = str(run.config.framework)
    states: dict[str, State] = {method: fitted.state}
    if finetuned is not None and method == "finetune":  # there it is the method itself, and what it starts from is not
        states = {"alternate": fitted.state, method: finetuned.state}
    elif finetuned is not None:
        states[f"{method}_finetune"] = finetuned.state
    evaluation = _evaluated(run, fitted.state, states)
    served = states.get("finetune", fitted.state)
    export(run.setting, run.dataset, run.split.test, served, run.out, run.meter)
    record = record_of(run, fitted, finetuned)
    write_report(run.out, evaluation, record)
    run.meter.say(f"report: {run.out / 'report.md'}")
    send_all(open_sinks(run.config.sinks, run.out), run.out, evaluation, record, run.meter.say)
    return run.out


def _evaluated(run: MamdrRun, shared: State, states: Mapping[str, State]) -> Evaluation:
    """Score the test rows by what is served: row 0 of a table is the bundle's, not what a missing value trained."""
    rows = run.setting.domains.test
    positions = positions_of(rows)
    served = {name: as_exported(run.setting, state) for name, state in {BASELINE: shared, **states}.items()}
    logits = {name: all_logits(run.setting, state, rows, shared=name == BASELINE) for name, state in served.items()}
    dataset, natural = run.dataset, run.rows.divisions[0]
    probability = None if dataset.probability is None else dataset.probability[positions]
    domain = dataset.division[natural.name][positions]
    predictions = Predictions(
        logits, dataset.label[positions], domain, natural.domains, dataset.user[positions], probability
    )
    run.out.mkdir(parents=True, exist_ok=True)
    write_predictions(run.out, predictions)
    return evaluate(predictions, run.config.seed, run.config.bootstrap_draws)


def record_of(run: MamdrRun, fitted: Fitted, finetuned: Finetuned | None) -> dict[str, Any]:
    """Return what the report says about the training, as JSON values."""
    structure = run.setting.structure
    dense = sum(parameter.numel() for parameter in structure.dense_parameters())
    own = {name: value.numel() for name, value in structure.named_parameters() if name in structure.specific_names()}
    return {
        "config": run.config.model_dump(mode="json"),
        "parameters": {
            "embeddings": structure.embeddings.table.numel(),
            "theta_S without embeddings": dense,
            "theta_i of one domain, without rows of embeddings": sum(own.values()),
        },
        "pretrain": {"epoch": fitted.epoch, "auc": fitted.auc, "history": list(fitted.history)},
        "finetune": None if finetuned is None else list(finetuned.records),
    }


def _add(run: MamdrRun, name: str) -> Path:
    """Train one domain's theta_i on the finished theta_S, and keep it in the state."""
    if name not in run.domains.names:
        raise ConfigError(f"the data has no domain {name!r}; it has {', '.join(run.domains.names)}")
    if isinstance(run.setting.structure, Baseline):
        raise ConfigError(f"structure {run.config.structure} is not served: a domain joins structure plain alone")
    learned = run.finished().state
    others = tuple(one for one in run.config.left_out if one != name)
    setting = replace(run.setting, domains=run.domains.without(others))
    domain = run.domains.names.index(name)
    fitted = fit_newcomer(setting, domain, learned, run.memory(f"newcomer/{name}"), run.meter)
    # the bundle is the run's own: its row 0 was counted without the new domain, whose `stop` rows judge its compression
    served = replace(run.setting, domains=replace(run.setting.domains, stop=setting.domains.stop))
    export(served, run.dataset, run.split.test, fitted.state, run.out, run.meter, only=domain)
    _tell_joined(run, domain, as_exported(served, fitted.state))
    return run.out


def _tell_joined(run: MamdrRun, domain: int, state: State) -> None:
    """Say what a domain that joined is worth on its test rows; the run's report is of the domains that it learned."""
    rows = run.domains.test[domain]
    label = run.rows.label[rows].numpy()
    own, alone = (
        auc(label, domain_logits(run.setting, state, domain, rows, shared)) if len(rows) else None
        for shared in (False, True)
    )
    shown = " against ".join("undefined" if value is None else f"{value:.5f}" for value in (own, alone))
    run.meter.say(f"{run.domains.names[domain]}: test AUC {shown} of theta_S alone")
