"""From a new domain's rows to an artifact: encode, train, calibrate, judge, write."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from adapters_store.backbone import COUNTS
from adapters_store.canonical import digest
from adapters_store.errors import MalformedArtifact
from adapters_store.feature_tables import Side, bundled_table
from adapters_store.overlays import read_overlay
from features.fields import Field
from network.backbone import Backbone
from network.fused import FusedTower
from training.artifacts_of import Notes
from training.batches import RowTensors, logits_of
from training.dataset import Split
from training.errors import ConfigError
from training.gate import Verdict
from training.judged import Judged
from training.newcomer.artifact import newcomer_artifact
from training.newcomer.config import NewcomerConfig, OverlayConfig
from training.newcomer.encoding import OF, EncodedNewcomer, encode_rows
from training.newcomer.fused import loaded_as_served
from training.newcomer.ground import Ground
from training.newcomer.judging import drift_of, figures_of, judge_newcomer
from training.newcomer.live import Live
from training.newcomer.loading import network_of
from training.newcomer.network import NewcomerNetwork
from training.newcomer.overlay import Chosen, choose_overlay
from training.newcomer.rows import NewRows, split_rows
from training.newcomer.trainer import TrainedNewcomer, train_newcomer
from training.notes import average_of
from training.progress import Meter
from training.threads import threads


@dataclass(frozen=True)
class Addition:
    """A new domain's adapter, ready to be published.

    Args:
        content: the artifact.
        revision: of it.
        trained: the network.
        split: which rows served what.
        judged: calibration and verdict.
        figures: part of the rows (`stop`, `gate`, `test`) to {rows, positives, auc_backbone, auc_start, auc}, and
            `auc_live` where an adapter is live that scores here; an AUC of one label is None.
        drift: where training went on from a live adapter {from, rows, mean, largest}: how far probabilities of the
            validation rows moved; else None.
    """

    content: bytes
    revision: str
    trained: TrainedNewcomer
    split: Split
    judged: Judged
    figures: Mapping[str, Mapping[str, Any]]
    drift: Mapping[str, Any] | None

    @property
    def withheld(self) -> bool:
        """Whether the gate keeps it from being published."""
        return bool(self.judged.withheld())

    @property
    def overlay_alone(self) -> bool:
        """Whether the rest of the adapter is what was live: it fuses others, and stays as it was."""
        return isinstance(self.trained.network.adapter, FusedTower)

    @property
    def verdict(self) -> Verdict | None:
        """What the gate says; None where it judges nothing."""
        return next(iter(self.judged.verdicts.values()), None)

    @property
    def overlaid(self) -> dict[str, int]:
        """Side to the number of ids that have an embedding of the domain's own."""
        return {chosen.overlay.field.of: len(chosen.overlay.ids) for chosen in self.trained.network.overlays}


def make_addition(
    rows: NewRows, ground: Ground, config: NewcomerConfig, meter: Meter, split: Split | None = None
) -> Addition:
    """Train a new domain and write its artifact; nothing is published.

    Args:
        rows: the domain's.
        ground: what it stands on.
        config: how it is trained, calibrated and judged.
        meter: where progress goes.
        split: what each row serves; None is as `split_rows` chooses.

    Raises:
        UnknownIds: rows name ids that neither a table nor a file has.
        BadRows: the rows cannot be encoded, or leave one label to train on.
        ConfigError: the configuration does not fit the backbone.
        ShapeError: the bundle's network is none of this build.
        ArtifactError: a value is not finite.
    """
    with threads(config.threads):
        encoded = encode_rows(rows, ground)
        split = split_rows(rows, config.validation, config.seed) if split is None else split
        backbone = network_of(ground.bundle)
        overlays = overlays_of(backbone, encoded, ground, split, config)
        rows_of = RowTensors(encoded.dataset)
        trained = train_newcomer(backbone, rows_of, split, overlays, config, meter, ground.begun, ground.pins)
        live = _live(ground, trained, encoded, split, config)
        judged = judge_newcomer(trained, split, config, live, ground.bundle.manifest.calibration)
        figures = figures_of(trained, split, live)
        drift = drift_of(trained, split, judged, None if ground.begun is None else live)
        record = _record(trained, split, config) | ({} if drift is None else {"drift": drift})
        notes = judged.gated_notes(ground.domain, "single", Notes(figures, record))
        content = newcomer_artifact(trained, encoded, ground, config, notes)
    return Addition(content, digest(content), trained, split, judged, figures, drift)


def overlays_of(
    backbone: Backbone, encoded: EncodedNewcomer, ground: Ground, split: Split, config: NewcomerConfig
) -> list[Chosen]:
    """Choose both sides' overlays, untrained."""
    held = None if ground.begun is None else read_overlay(ground.bundle, ground.begun)
    live = {} if held is None else {overlay.field: overlay for overlay in held.sides.values()}
    found = []
    for side, rows in encoded.sides.items():
        field = _id_field(encoded.dataset.fields, OF[side])
        if field is not None:
            few = _unseen(ground, side, field, encoded)
            if config.overlay.ids == "rare":
                few |= _counts(ground, field)[rows.columns.arrays[field.name]] < config.overlay.rare_below
            chosen = choose_overlay(
                backbone, field, rows, few, split.train, config.overlay, live.get(field.name), ground.vocabulary
            )
            found += [chosen] if chosen is not None else []
    return found


def _live(
    ground: Ground, trained: TrainedNewcomer, encoded: EncodedNewcomer, split: Split, config: NewcomerConfig
) -> Live | None:
    """What is live, scored on all rows; None where nothing is, or nothing that scores here."""
    if ground.begun is not None:
        return Live(ground.begun, trained.start_logits(np.arange(len(trained.network.rows.label))))
    if ground.replaced is None:
        return None
    backbone, rows = trained.network.backbone, trained.network.rows
    as_it_is = config.model_copy(update={"overlay": OverlayConfig(ids="none")})
    overlays = overlays_of(backbone, encoded, replace(ground, begun=ground.replaced), split, as_it_is)
    adapter = loaded_as_served(backbone, ground.replaced, ground.pins, rows.divisions)
    network = NewcomerNetwork(backbone, rows, adapter, overlays)
    return Live(ground.replaced, logits_of(torch.arange(len(rows.label)), network.score))


def _id_field(fields: tuple[Field, ...], side: str) -> Field | None:
    """The field that an overlay of a side acts on: its only id field, where that has a trained table."""
    own = [field for field in fields if field.id and field.of == side]
    return own[0] if len(own) == 1 and not own[0].frozen else None


def _unseen(ground: Ground, side: Side, field: Field, encoded: EncodedNewcomer) -> NDArray[np.bool_]:
    """Which ids the backbone's training never saw: those without a row of their own.

    In a hashed vocabulary every id has a row; there it is those that the bundle's own table does not have.
    """
    rows = encoded.sides[side]
    if f"{field.name}.buckets" in ground.vocabulary[field.name].to_tensors(field.name):
        return bundled_table(ground.bundle, side).table.find(rows.index.values()) < 0
    return np.asarray(rows.columns.arrays[field.name] == 0)


def _counts(ground: Ground, field: Field) -> NDArray[np.int32]:
    """How many rows of the backbone's training name each row of a field's table (V,).

    Raises:
        ConfigError: the bundle does not say.
    """
    if f"{COUNTS}.safetensors" not in ground.bundle.files:
        raise ConfigError(
            f"overlay.ids: rare needs {COUNTS}.safetensors, and the bundle {ground.bundle.revision[:12]} was written "
            "by an older build that left none: train it anew, or choose unseen or all"
        )
    found = ground.bundle.tensors(COUNTS).get(field.name)
    rows = len(ground.bundle.weights[f"embedding.{field.name}"])
    if found is None or found.shape != (rows,) or found.dtype != np.int32:
        raise MalformedArtifact(f"{COUNTS}.safetensors of the bundle has no tensor {field.name!r}, int32 ({rows},)")
    return found


def _record(trained: TrainedNewcomer, split: Split, config: NewcomerConfig) -> dict[str, Any]:
    """How it was trained, as JSON values; no times: the same training gives the same bytes."""
    history = [{key: value for key, value in entry.items() if key != "seconds"} for entry in trained.fitted.history]
    overlaid = {chosen.overlay.field.of: len(chosen.overlay.ids) for chosen in trained.network.overlays}
    return {
        "method": "newcomer",
        "seed": config.seed,
        "schedule": config.schedule.model_dump(mode="json"),
        "overlay": {**config.overlay.model_dump(mode="json"), **overlaid},
        "rows": len(split.train),
        "epoch": trained.fitted.epoch,
        **average_of(trained.fitted),
        "blind": trained.blind,
        "history": history,
    }
