"""The baselines Fine-tune and Single of a run: a whole network for each natural domain, beside the backbone.

They show what adapters are to be compared with; no service loads them, so nothing of them is exported.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from network.backbone import Backbone
from training.batches import logits_of
from training.checkpoint import Memory, Record, StateFolder
from training.config import TrainingConfig
from training.evaluation import evaluate
from training.figures import BASELINE
from training.notes import curve
from training.packed.config import PackedConfig
from training.packed.course import Terms
from training.packed.packer import MemoryOf
from training.packed.plan import check_share
from training.packed.whole import WholeTrainer
from training.pipeline import predictions_of
from training.predictions import write_predictions
from training.pretrain import Pretrained
from training.progress import Meter, SilentMeter
from training.report import write_report
from training.reporting.sinks import open_sinks, send_all
from training.seeds import Stream
from training.stages import Run, refuse_existing
from training.threads import threads

WholeKind = Literal["finetune", "single"]
WHOLE_KINDS: tuple[WholeKind, ...] = ("finetune", "single")
Fill = Callable[[WholeTrainer, MemoryOf], None]
FOLDER = "whole"
"""Of a run folder: where predictions and report of the baselines lie."""


def whole_trainer(run: Run, kind: WholeKind, score: Tensor) -> WholeTrainer:
    """Return what trains a baseline of a run, by the run's section `whole`.

    Args:
        run: its backbone is what Fine-tune starts from, trained first where it is not finished.
        kind: Single starts every domain from one network of random weights.
        score: (n,) positions of the rows to score in the end.
    """
    config, where = run.config, run.positions
    stream = Stream(config.seed, (kind,))
    if kind == "finetune":
        start = run.pretrained().backbone
    else:
        with stream.of("start").ambient():
            start = Backbone(run.shape, run.rows.given)
    return WholeTrainer(
        start=start.freeze(),
        rows=run.rows,
        train=where.train,
        stop=where.stop,
        score=score,
        terms=Terms(config.whole, "best", start_counts=kind == "finetune"),
        stream=stream,
        meter=run.meter,
        config=config.packed or PackedConfig(),
    )


def train_whole(
    kinds: Sequence[WholeKind],
    config: TrainingConfig,
    out: Path,
    *,
    resume: bool = False,
    meter: Meter | None = None,
    share: tuple[int, int] | None = None,
    fill: Fill | None = None,
) -> Path:
    """Train baselines, and compare them with the backbone (the baseline Mix) on the test rows.

    Args:
        kinds: which; the report has these alone.
        config: with `data` set.
        out: a run folder that holds a backbone of this configuration, or a new one, where it is trained first.
        resume: go on where a training in `out` stopped; what is finished is read.
        meter: where progress goes; nowhere by default.
        share: (i, n) trains the i-th of n shares of each baseline's packs, and compares nothing; `out` holds the
            backbone that all shares have in common.
        fill: trains a baseline's packs into their memories before they are read.

    Returns:
        OUT/whole, with predictions and report in it, which `espalier evaluate` takes as it takes a run; of a share OUT.

    Raises:
        TrainingError: the folder holds other training, the data or the configuration cannot be used; there is no such
            share.
    """
    _refuse(kinds, out, resume, share)
    folder = out / FOLDER
    sinks = open_sinks(config.sinks, folder)  # one whose library is missing is refused before anything is trained
    with threads(config.threads):
        run = Run(config, out, meter or SilentMeter())
        with run.state.locked():
            if share is not None:
                _train_share(run, kinds, share)
                return out
            pretrained = run.pretrained()
            test = run.positions.test
            plain = logits_of(test, lambda part: pretrained.backbone(run.rows.batch(part)))
            found = {kind: _trained(run, kind, plain, fill) for kind in kinds}
            predictions = predictions_of(run, {BASELINE: plain} | {kind: logits for kind, (logits, _) in found.items()})
            folder.mkdir(parents=True, exist_ok=True)
            write_predictions(folder, predictions)
            evaluation = evaluate(predictions, config.seed, config.bootstrap_draws)
            record = _record(run, pretrained, {kind: curves for kind, (_, curves) in found.items()})
            report = write_report(folder, evaluation, record)
    run.meter.say(f"report: {report}")
    send_all(sinks, folder, evaluation, record, run.meter.say)
    return folder


def _refuse(kinds: Sequence[WholeKind], out: Path, resume: bool, share: tuple[int, int] | None) -> None:
    if share is not None:
        check_share(*share)
    if not StateFolder(out / "state").holds("pretrain"):
        refuse_existing(out, "all", resume)
    for kind in kinds:
        refuse_existing(out, kind, resume)


def _train_share(run: Run, kinds: Sequence[WholeKind], share: tuple[int, int]) -> None:
    run.require("pretrain")  # which all shares have in common: one trained here could be another
    for kind in kinds:
        trained = whole_trainer(run, kind, run.positions.test).each(_memories(run, kind), share)
        count = sum(1 for _ in trained)
        run.meter.say(f"{kind}: {count} domains of share {share[0]}/{share[1]} are trained")


def _memories(run: Run, kind: WholeKind) -> MemoryOf:
    settings = run.config.whole.model_dump(mode="json")

    def memory_of(name: str, content: Record) -> Memory:
        memory = run.memory("pretrain", f"{kind}/{name}")
        return replace(memory, identity={**memory.identity, "whole": settings, **content})

    return memory_of


def _trained(
    run: Run, kind: WholeKind, plain: NDArray[np.float64], fill: Fill | None
) -> tuple[NDArray[np.float64], Record]:
    """Logits of the test rows, and every domain's curve; a row of no natural domain is the backbone's."""
    test = run.positions.test
    trainer, memory_of = whole_trainer(run, kind, test), _memories(run, kind)
    if fill is not None:
        fill(trainer, memory_of)
    by_row = np.zeros(len(run.rows.label))
    by_row[test.numpy()] = plain
    curves: Record = {}
    for one in trainer.each(memory_of):
        by_row[one.rows.numpy()] = one.logits
        curves[one.place.name] = curve(one.fitted)
    return by_row[test.numpy()], curves


def _record(run: Run, pretrained: Pretrained, curves: Record) -> Record:
    """What the report has of the training."""
    return {"config": run.config.model_dump(mode="json"), "pretrain": curve(pretrained.fitted), "whole": curves}
