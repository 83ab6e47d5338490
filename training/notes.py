"""What a run writes about itself: into manifests, into the report, and on the screen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from network.counts import adapter_counts, backbone_counts, fusion_counts
from network.inputs import NetworkShape
from training.adapters import TrainedAdapter
from training.artifacts_of import Notes
from training.checkpoint import Record
from training.config import Schedule, TrainingConfig
from training.figures import SERVED, Evaluation
from training.fusion import TrainedFusion
from training.loops import Fitted
from training.pretrain import Pretrained
from training.ranks import adapter_ranks, fusion_ranks
from training.selection import Selection


def parameter_counts(shape: NetworkShape, config: TrainingConfig) -> dict[str, int]:
    """Count the parameters of the three networks, labelled as methods.md does."""
    counts = adapter_counts(shape, adapter_ranks(shape, config.adapter))
    adapter = {f"adapter: {name}": n for name, n in counts.items()}
    return backbone_counts(shape) | adapter | fusion_counts(shape, fusion_ranks(shape, config.fusion, config.adapter))


def count_lines(shape: NetworkShape, config: TrainingConfig) -> Iterator[str]:
    """The parameter counts as lines to show."""
    for name, n in parameter_counts(shape, config).items():
        yield f"{n:>12,} parameters: {name}"


def training_record(
    config: TrainingConfig,
    pretrained: Pretrained,
    adapters: Sequence[TrainedAdapter],
    fusions: Sequence[TrainedFusion],
    selection: Selection,
) -> Record:
    """Everything about the training that the report shows, as JSON values.

    Returns:
        {config, parameters, pretrain: curve, adapters: {domain: curve}, fuse: {mode: curve}, selection}; a curve is
        what `curve` gives, that of an adapter with {division, rows} too.
    """
    return {
        "config": config.model_dump(mode="json"),
        "parameters": parameter_counts(pretrained.backbone.shape, config),
        "pretrain": curve(pretrained.fitted),
        "adapters": {
            a.place.name: {"division": a.place.division_name, "rows": a.rows, **curve(a.fitted)} for a in adapters
        },
        "fuse": {fusion.mode: curve(fusion.fitted) for fusion in fusions},
        "selection": {"chosen": selection.chosen, "candidates": dict(selection.candidates)},
    }


def backbone_notes(config: TrainingConfig, pretrained: Pretrained, evaluation: Evaluation) -> Notes:
    """What the bundle's manifest records."""
    return Notes(
        evaluation.methods["backbone"].pooled.model_dump(mode="json"),
        _training(config, config.pretrain, pretrained.fitted),
        calibration={"slope": 1.0, "intercept": config.calibration.shift},
    )


def adapter_notes(
    config: TrainingConfig,
    adapter: TrainedAdapter,
    selection: Selection,
    evaluation: Evaluation,
    method: str = SERVED,
) -> Notes:
    """What an adapter's manifest records; a natural domain's also how it was selected and what it is worth.

    Args:
        config: of the run.
        adapter: as trained.
        selection: how natural domains are served.
        evaluation: of the test rows.
        method: the evaluated method that the artifact is; metrics are empty where it was not evaluated.
    """
    training = {**_training(config, config.adapters, adapter.fitted), "rows": adapter.rows}
    if adapter.place.division > 0:
        return Notes({}, training)
    training["selection"] = {"chosen": selection.chosen, "candidates": dict(selection.candidates)}
    found = evaluation.methods.get(method)
    return Notes({} if found is None else found.domains[adapter.place.name].model_dump(mode="json"), training)


def fusion_notes(config: TrainingConfig, fusions: Sequence[TrainedFusion]) -> Notes:
    """What the fusion's manifest records."""
    attention = next(fusion for fusion in fusions if fusion.mode == "attention")
    return Notes({}, _training(config, config.fuse, attention.fitted))


def _training(config: TrainingConfig, schedule: Schedule, fitted: Fitted) -> dict[str, Any]:
    """No times: the same training gives the same bytes."""
    history = [{key: value for key, value in entry.items() if key != "seconds"} for entry in fitted.history]
    return {
        "seed": config.seed,
        "select": config.select,
        "schedule": schedule.model_dump(mode="json"),
        "epoch": fitted.epoch,
        "validation_auc": fitted.auc,
        **average_of(fitted),
        "history": history,
    }


def curve(fitted: Fitted) -> Record:
    """How a training went: {epoch, auc, history: [{epoch, loss, auc, seconds}]}, and what `average_of` adds."""
    return {"epoch": fitted.epoch, "auc": fitted.auc, **average_of(fitted), "history": list(fitted.history)}


def average_of(fitted: Fitted) -> Record:
    """Whether the weights in place are an average of steps: {averaged}; empty where no average was judged."""
    judged = any("average_auc" in entry for entry in fitted.history)
    return {"averaged": fitted.averaged} if judged else {}
