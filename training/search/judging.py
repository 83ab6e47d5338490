"""What a trial is: a configuration trained as `espalier train` trains it, and judged on the `stop` rows alone.

A trial goes through the stages' own `Run`, so that a configuration is worth in a search what it is worth afterwards.
Neither the `gate` half nor the test rows are scored (methods.md 5).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adapters_store.durable import TEMPORARY, write_durably
from network.backbone import Backbone
from network.lora import DomainAdapter
from training.adapters import TrainedAdapter
from training.batches import logits_of
from training.checkpoint import Memory, Record
from training.config import TrainingConfig
from training.frameworks.config import MamdrConfig
from training.frameworks.run import MamdrRun
from training.frameworks.scoring import all_logits, domain_aucs, mean_auc, positions_of
from training.metrics import auc, log_loss, probabilities
from training.packed.rows import DomainRows
from training.progress import Meter
from training.reporting.config import SinksConfig
from training.stages import Run
from training.threads import threads
from training.trials.trial import Config
from training.whole import WholeKind, whole_trainer


@dataclass(frozen=True)
class Judged:
    """What a trial is worth on the `stop` rows.

    Args:
        auc: what is searched for; None where there is none: one class only, or logits that are not finite.
        log_loss: in nats, before calibration; None with it.
    """

    auc: float | None
    log_loss: float | None


Judge = Callable[[Config, Path, Meter], Judged]
NOTHING = Judged(None, None)
_LOCK = ".lock"


def pretrain(config: Config, folder: Path, meter: Meter) -> Judged:
    """Stage 1, which is also the baseline Mix: the pooled AUC of the backbone."""

    def judged(run: Run) -> Judged:
        stop = run.positions.stop
        return _measured(run.rows.label[stop], _plain(run, run.pretrained().backbone, stop))

    return _run(config, folder, meter, judged)


def adapters(config: Config, folder: Path, meter: Meter) -> Judged:
    """Stage 2: the mean over divisions of the pooled AUC where each row is scored by its domain's adapter.

    A row in no domain of a division is scored by the backbone.
    """

    def judged(run: Run) -> Judged:
        pretrained = run.pretrained()
        trained = run.adapters(pretrained)
        stop = run.positions.stop
        label, plain = run.rows.label[stop], _plain(run, pretrained.backbone, stop)
        own = DomainRows(run.rows, stop)
        found = []
        for division in range(len(run.rows.divisions)):
            mine = [adapter for adapter in trained if adapter.place.division == division]
            found.append(_measured(label, _adapted(run, pretrained.backbone, mine, own, plain)))
        return _mean(found)

    return _run(config, folder, meter, judged)


def fuse(config: Config, folder: Path, meter: Meter) -> Judged:
    """Stage 3: the pooled AUC of the mode that the configuration asks for."""

    def judged(run: Run) -> Judged:
        pretrained = run.pretrained()
        trainer, fusions = run.fusions(pretrained, run.adapters(pretrained))
        chosen = next(fusion for fusion in fusions if fusion.mode == run.config.fusion.mode)
        stop = run.positions.stop
        return _measured(run.rows.label[stop], trainer.logits(chosen.tower, stop))

    return _run(config, folder, meter, judged)


def single(config: Config, folder: Path, meter: Meter) -> Judged:
    """The baseline Single: a network for each natural domain, from random weights; the AUC of all domains' rows."""
    return _run(config, folder, meter, lambda run: _whole(run, "single"))


def finetune(config: Config, folder: Path, meter: Meter) -> Judged:
    """The baseline Fine-tune: a network for each natural domain, from the backbone; the AUC of all domains' rows."""
    return _run(config, folder, meter, lambda run: _whole(run, "finetune"))


def framework(config: Config, folder: Path, meter: Meter) -> Judged:
    """A framework or a multi-domain network: the unweighted mean of the domains' AUC (methods.md 3)."""
    assert isinstance(config, MamdrConfig)
    with threads(config.threads):
        run = MamdrRun(config.model_copy(update={"sinks": SinksConfig()}), folder, meter)
        fitted = run.fitted()
        tuned = run.finetuned(fitted)
        state, setting = (fitted.state if tuned is None else tuned.state), run.setting
        rows = setting.domains.stop
        logits = all_logits(setting, state, rows)
        if not len(logits) or not np.isfinite(logits).all():
            return NOTHING
        label = setting.rows.label[positions_of(rows)].numpy()
        mean = mean_auc(domain_aucs(setting, state, rows))
    return NOTHING if mean is None else Judged(mean, log_loss(label, probabilities(logits)))


def ground(stages: Sequence[str], config: Config, folder: Path, meter: Meter) -> None:
    """Train the stages that every trial of a search stands on, or find them finished.

    Args:
        stages: `pretrain`, `adapters` or both.
        config: of them.
        folder: of their state.
        meter: where progress goes.
    """
    assert isinstance(config, TrainingConfig)
    with threads(config.threads):
        run = Run(config, folder, meter)
        pretrained = run.pretrained()
        if "adapters" in stages:
            run.adapters(pretrained)


def lay(ground_folder: Path, folder: Path) -> None:
    """Let a trial find the stages that it stands on in its own folder, as links where the file system has them.

    A finished stage's files are only ever read, and a file that is written takes the place of its link.
    """
    source = ground_folder / "state"
    for path in sorted(source.rglob("*")) if source.is_dir() else ():
        target = folder / "state" / path.relative_to(source)
        if path.is_dir() or path.name.startswith((_LOCK, TEMPORARY)) or target.exists():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, target)
        except OSError:
            write_durably(target, path.read_bytes())


def _run(config: Config, folder: Path, meter: Meter, judged: Callable[[Run], Judged]) -> Judged:
    assert isinstance(config, TrainingConfig)
    with threads(config.threads):
        return judged(Run(config, folder, meter))


def _plain(run: Run, backbone: Backbone, rows: Tensor) -> NDArray[np.float64]:
    """Logits of the backbone alone."""
    return logits_of(rows, lambda part: backbone(run.rows.batch(part)))


def _adapted(
    run: Run, backbone: Backbone, trained: Iterable[TrainedAdapter], own: DomainRows, plain: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Logits of the `stop` rows, those of a domain by its adapter, all others as they are."""
    stop = run.positions.stop
    by_row = np.zeros(len(run.rows.label))
    by_row[stop.numpy()] = plain

    def score(adapter: DomainAdapter, part: Tensor) -> Tensor:
        logits: Tensor = backbone(run.rows.batch(part), adapter)
        return logits

    for one in trained:
        rows = own.of(one.place.division, one.place.domain)
        by_row[rows.numpy()] = logits_of(rows, partial(score, one.adapter))
    found: NDArray[np.float64] = by_row[stop.numpy()]
    return found


def _whole(run: Run, kind: WholeKind) -> Judged:
    trainer = whole_trainer(run, kind, run.positions.stop)
    identity = run.config.model_dump(mode="json", include={"seed", "threads", "backbone", "pretrain", "whole"})

    def memory_of(name: str, content: Record) -> Memory:
        return Memory(run.state, f"{kind}/{name}", {**identity, **content})

    trained = list(trainer.each(memory_of))
    rows = torch.cat([one.rows for one in trained])
    return _measured(run.rows.label[rows], np.concatenate([one.logits for one in trained]))


def _measured(label: Tensor, logits: NDArray[np.float64]) -> Judged:
    known: NDArray[Any] = label.numpy()
    area = auc(known, logits) if len(logits) and np.isfinite(logits).all() else None
    return NOTHING if area is None else Judged(area, log_loss(known, probabilities(logits)))


def _mean(found: Sequence[Judged]) -> Judged:
    areas = [one.auc for one in found if one.auc is not None]
    losses = [one.log_loss for one in found if one.log_loss is not None]
    if len(areas) < len(found):
        return NOTHING
    return Judged(math.fsum(areas) / len(areas), math.fsum(losses) / len(losses))
