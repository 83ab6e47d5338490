"""A whole training run, top to bottom: stages, selection, calibration and gate, predictions, evaluation, export."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from network.fused import FusedTower
from training.adapters import TrainedAdapter
from training.artifacts_of import Choice, FusedMode
from training.batches import logits_of
from training.calibration import before_and_after
from training.checkpoint import Record
from training.config import TrainingConfig
from training.errors import ConfigError
from training.evaluation import evaluate
from training.export import TrainedRun, export_run
from training.figures import METHOD_OF, SERVED, Evaluation
from training.fusion import FusionTrainer, TrainedFusion
from training.judged import Judged, NaturalRows, calibrate, gate
from training.notes import adapter_notes, backbone_notes, count_lines, fusion_notes, training_record
from training.predictions import Predictions, write_predictions
from training.pretrain import Pretrained
from training.progress import Meter, SilentMeter
from training.report import write_report
from training.reporting.sinks import open_sinks, send_all
from training.selection import Selection, choose
from training.stages import Run, by_division, refuse_existing
from training.strength import Earned, earn
from training.strength import line as strength_line
from training.threads import threads

Floats = NDArray[np.float64]
Score = Callable[[Tensor], Floats]
"""From positions (n,) int64 to logits (n,)."""


def train_all(config: TrainingConfig, out: Path, resume: bool = False, meter: Meter | None = None) -> Path:
    """Train all stages, then export, evaluate and report.

    Args:
        config: with `data` set.
        out: the run folder, made if it is not there.
        resume: go on where a run in `out` stopped.
        meter: where progress goes; nowhere by default.

    Returns:
        The run folder, with bundle, fusion.safetensors, adapters, predictions and report in it.

    Raises:
        TrainingError: the folder holds another run, the data or the configuration cannot be used.
    """
    return train("all", config, out, resume=resume, meter=meter)


def train(
    stage: str,
    config: TrainingConfig,
    out: Path,
    *,
    resume: bool = False,
    meter: Meter | None = None,
    share: tuple[int, int] | None = None,
) -> Path:
    """Train one stage (`pretrain`, `adapters` or `fuse`) or `all`; see `train_all`.

    Args:
        stage, config, out, resume, meter: as there.
        share: (i, n) trains the i-th of n shares of the packs alone; of stage `adapters`, where `packed` is set.

    Raises:
        ConfigError: there is no such share, or nothing to share.
        StageMissing: the stage before this one is not finished in `out`.
        StateMismatch: what is in `out` was trained with other settings.
        SinkMissing: the library of a sink that the configuration asks for is not installed.
    """
    if share is not None and (stage != "adapters" or config.packed is None):
        raise ConfigError("shares are of packs: set `packed` in the configuration, and train the stage `adapters`")
    refuse_existing(out, stage, resume)
    open_sinks(config.sinks, out)  # one whose library is missing is refused now, and not after hours of training
    with threads(config.threads):
        run = Run(config, out, meter or SilentMeter())
        with run.state.locked():
            return _train(stage, run, share or (1, 1))


def _train(stage: str, run: Run, share: tuple[int, int]) -> Path:
    if stage in ("adapters", "fuse"):
        run.require("pretrain")
    if stage == "fuse":
        run.require("adapters")
    run.meter.say(rows_line(run))
    pretrained = run.pretrained()
    for line in count_lines(pretrained.backbone.shape, run.config):
        run.meter.say(line)
    if stage == "pretrain":
        return run.out
    adapters = run.adapters(pretrained, share)
    if stage == "adapters":
        return run.out
    return _finish(run, pretrained, adapters)


def rows_line(run: Run) -> str:
    """State how many rows there are, and what they take where."""
    where = "in memory once read" if run.config.rows == "memory" else "in files that memory maps"
    return f"data: {len(run.rows.label):,} rows, {run.rows.memory_bytes / 2**20:,.0f} MiB {where}"


def _finish(run: Run, pretrained: Pretrained, adapters: Sequence[TrainedAdapter]) -> Path:
    """Stage 3, and everything that follows from the three stages."""
    trainer, fusions = run.fusions(pretrained, adapters)
    candidates = _candidates(trainer, fusions)
    stop = {name: score(run.positions.stop) for name, score in candidates.items()}
    aucs = {name: run.rows.auc(run.positions.stop, logits) for name, logits in stop.items()}
    selection = choose(run.config.fusion.mode, run.config.select, aucs)
    run.meter.say(f"natural domains are served by: {selection.chosen}")
    earned = earn(trainer, candidates, selection.chosen, run.positions.stop, run.config.strength)
    run.meter.say(strength_line(earned.strengths))
    judged = _judged(run, candidates, stop, earned)
    run.meter.say(judged.line())
    test = {name: score(run.positions.test) for name, score in candidates.items()}
    predictions = predictions_of(run, _named(test, earned.score(run.positions.test)))
    write_predictions(run.out, predictions)
    evaluation = evaluate(predictions, run.config.seed, run.config.bootstrap_draws)
    trained = _trained_run(run, pretrained, adapters, fusions, selection, evaluation, judged, earned)
    revision = export_run(trained, run.out, ablations=run.config.export_ablations)
    run.meter.say(f"bundle {revision[:12]} and {len(adapters) - len(trained.withheld)} adapters are in {run.out}")
    record = training_record(run.config, pretrained, adapters, fusions, selection)
    record |= {"strength": {name: found.record() for name, found in earned.strengths.items()}}
    record |= _judged_record(judged, predictions)
    write_report(run.out, evaluation, record)
    run.meter.say(f"report: {run.out / 'report.md'}")
    send_all(open_sinks(run.config.sinks, run.out), run.out, evaluation, record, run.meter.say)
    return run.out


def _candidates(trainer: FusionTrainer, fusions: Sequence[TrainedFusion]) -> dict[Choice, Score]:
    """How each candidate scores rows; all networks are frozen and in eval mode by now."""
    backbone, rows = trainer.backbone, trainer.rows
    towers: dict[Choice, FusedTower] = {"single": trainer.untrained("single").eval()}
    towers |= {fusion.mode: fusion.tower for fusion in fusions}
    scores: dict[Choice, Score] = {
        "backbone": lambda positions: logits_of(positions, lambda part: backbone(rows.batch(part)))
    }
    return scores | {name: partial(trainer.logits, tower) for name, tower in towers.items()}


def _judged(run: Run, candidates: Mapping[Choice, Score], stop: Mapping[Choice, Floats], earned: Earned) -> Judged:
    """Calibrate natural domains on the `stop` half, and judge what will serve them on the `gate` half."""
    config = run.config
    rows = _natural_rows(run, run.split.stop)
    calibrations = calibrate(rows, stop, config.calibration)
    own = calibrate(rows, {earned.chosen: earned.score(run.positions.stop)}, config.calibration)[earned.chosen]
    served, backbone = earned.score(run.positions.gate), candidates["backbone"](run.positions.gate)
    lines = tuple(calibrations["backbone"].values())
    verdicts = gate(_natural_rows(run, run.split.gate), served, backbone, tuple(own.values()), config.gate, lines)
    return Judged(calibrations, verdicts, config.gate, own)


def _natural_rows(run: Run, positions: NDArray[np.int64]) -> NaturalRows:
    natural = run.rows.divisions[0]
    return NaturalRows(run.dataset.label[positions], run.dataset.division[natural.name][positions], natural.domains)


def _judged_record(judged: Judged, predictions: Predictions) -> Record:
    """What the report shows of calibration (on the test rows) and of the gate."""
    calibration = before_and_after(
        predictions.label,
        predictions.logits[SERVED],
        predictions.domain,
        predictions.domains,
        tuple(judged.served.values()),
    )
    return {"calibration": calibration} | ({"gate": judged.gate_record()} if judged.verdicts else {})


def predictions_of(run: Run, logits: Mapping[str, Floats]) -> Predictions:
    """The test rows of a run, as methods score them.

    Args:
        run: its split says which rows they are.
        logits: (n,) of each method, by its name in reports.
    """
    test, dataset = run.split.test, run.dataset
    natural = run.rows.divisions[0]
    probability = None if dataset.probability is None else dataset.probability[test]
    domain = dataset.division[natural.name][test]
    return Predictions(logits, dataset.label[test], domain, natural.domains, dataset.user[test], probability)


def _named(logits: Mapping[Choice, Floats], served: Floats) -> dict[str, Floats]:
    """The candidates' logits under each method's name in reports."""
    return {
        "backbone": logits["backbone"],
        "single_lora": logits["single"],
        "multi_lora": served,
        "multi_lora_attention": logits["attention"],
        "multi_lora_avg": logits["avg"],
        "multi_lora_add": logits["add"],
    }


def _trained_run(
    run: Run,
    pretrained: Pretrained,
    adapters: Sequence[TrainedAdapter],
    fusions: Sequence[TrainedFusion],
    selection: Selection,
    evaluation: Evaluation,
    judged: Judged,
    earned: Earned,
) -> TrainedRun:
    """What the export needs."""
    config, natural = run.config, run.rows.divisions[0]
    notes = {a.place.name: adapter_notes(config, a, selection, evaluation) for a in adapters}
    for name in natural.domains:
        notes[name] = earned.notes(name, judged.gated_notes(name, selection.chosen, notes[name]))
    return TrainedRun(
        dataset=run.dataset,
        rows=run.rows,
        train=run.split.train,
        positions=run.split.test,
        backbone=pretrained.backbone,
        adapters=tuple(by_division(adapters, len(run.rows.divisions))),
        modes={fusion.mode: FusedMode(fusion.tower, fusion.pair_rows) for fusion in fusions},
        chosen={name: earned.choice(name) for name in natural.domains},
        notes=notes,
        ablation_notes={
            mode: {
                a.place.name: judged.notes(a.place.name, mode, adapter_notes(config, a, selection, evaluation, method))
                for a in adapters
                if a.place.division == 0
            }
            for mode, method in METHOD_OF.items()
        },
        backbone_notes=backbone_notes(config, pretrained, evaluation),
        fusion_notes=fusion_notes(config, fusions),
        withheld=judged.withheld(),
        strong=earned.strong,
        dtype=config.artifact_dtype,
    )
