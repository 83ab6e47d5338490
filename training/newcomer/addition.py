"""From a new domain's rows to an artifact: encode, train, calibrate, judge, write."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapters_store.artifact import encode_adapter
from adapters_store.canonical import digest
from adapters_store.feature_tables import Side, bundled_table
from adapters_store.manifest import AdapterManifest
from adapters_store.overlays import read_overlay
from adapters_store.structure import check_values
from features.fields import Field
from network.backbone import Backbone
from training.artifacts_of import Notes, Source, arrays, ranks_of
from training.batches import RowTensors
from training.dataset import Split
from training.deltas.golden import overlaid_golden
from training.gate import Verdict
from training.golden import exact_adapter, exact_backbone, stored
from training.judged import Judged, NaturalRows, calibrate, gate
from training.metrics import Floats, auc, probabilities
from training.newcomer.config import NewcomerConfig
from training.newcomer.encoding import EncodedNewcomer, encode_rows
from training.newcomer.ground import Ground
from training.newcomer.loading import network_of
from training.newcomer.overlay import Chosen, choose_overlay
from training.newcomer.rows import NewRows, split_rows
from training.newcomer.trainer import TrainedNewcomer, train_newcomer
from training.progress import Meter
from training.threads import threads

_OF: Mapping[Side, str] = {"users": "user", "items": "item"}


@dataclass(frozen=True)
class Addition:
    """A new domain's adapter, ready to be published.

    Args:
        content: the artifact.
        revision: of it.
        trained: the network.
        split: which rows served what.
        judged: calibration and verdict.
        figures: part of the rows (`stop`, `gate`, `test`) to {rows, positives, auc_backbone, auc_start, auc}; an AUC of
            one label is None.
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
    def verdict(self) -> Verdict | None:
        """What the gate says; None where it judges nothing."""
        return next(iter(self.judged.verdicts.values()), None)

    @property
    def overlaid(self) -> dict[str, int]:
        """Side to the number of ids that have an embedding of the domain's own."""
        return {chosen.overlay.field.of: len(chosen.overlay.ids) for chosen in self.trained.network.overlays}


def make_addition(rows: NewRows, ground: Ground, config: NewcomerConfig, meter: Meter) -> Addition:
    """Train a new domain and write its artifact; nothing is published.

    Args:
        rows: the domain's.
        ground: what it stands on.
        config: how it is trained, calibrated and judged.
        meter: where progress goes.

    Raises:
        UnknownIds: rows name ids that neither a table nor a file has.
        BadRows: the rows cannot be encoded, or leave one label to train on.
        ConfigError: the configuration does not fit the backbone.
        ShapeError: the bundle's network is none of this build.
        ArtifactError: a value is not finite.
    """
    with threads(config.threads):
        encoded = encode_rows(rows, ground)
        split = split_rows(rows, config.validation, config.seed)
        backbone = network_of(ground.bundle)
        overlays = overlays_of(backbone, encoded, ground, split, config)
        trained = train_newcomer(backbone, RowTensors(encoded.dataset), split, overlays, config, meter, ground.begun)
        judged = _judged(trained, encoded, split, config, ground)
        figures = {part: _figures(trained, encoded, positions) for part, positions in _parts(split).items()}
        drift = None if ground.begun is None else _drift(trained, split, judged, ground)
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
        field = _id_field(encoded.dataset.fields, _OF[side])
        if field is not None:
            unseen = _unseen(ground, side, field, encoded)
            chosen = choose_overlay(
                backbone, field, rows, unseen, split.train, config.overlay, live.get(field.name), ground.vocabulary
            )
            found += [chosen] if chosen is not None else []
    return found


def newcomer_artifact(
    trained: TrainedNewcomer, encoded: EncodedNewcomer, ground: Ground, config: NewcomerConfig, notes: Notes
) -> bytes:
    """Return the domain's file: LoRA, norms and overlays as stored, and golden rows scored by them in float64.

    Raises:
        ArtifactError: a value is not finite, or overflows the dtype; the tensor is named.
    """
    dtype = config.artifact_dtype
    source = Source(
        dataset=encoded.dataset,
        rows=trained.network.rows,
        positions=np.arange(len(encoded.dataset.label)),
        backbone=exact_backbone(trained.network.backbone),
        fingerprint=ground.bundle.fingerprint,
        dtype=dtype,
        created_at=None,
    )
    overlays = [chosen.overlay.exported().stored(dtype) for chosen in trained.network.overlays]
    own = trained.network.adapter.tensors()
    tensors = arrays(stored(own, dtype))
    for overlay in overlays:
        tensors |= overlay.tensors()
    check_values(tensors)  # before golden logits, which would be no numbers either, and no cause
    golden = overlaid_golden(source, 0, overlays)
    logits = golden.logits(source.backbone, exact_adapter(trained.network.adapter, dtype))
    manifest = {**source.common(0, 0, notes), "kind": "lora", "mode": "single", "ranks": ranks_of(own)}
    return encode_adapter(AdapterManifest.model_validate(manifest), tensors | golden.tensors(logits))


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


def _parts(split: Split) -> dict[str, NDArray[np.int64]]:
    found = {"stop": split.stop, "gate": split.gate, "test": split.test}
    return {name: positions for name, positions in found.items() if len(positions)}


def _judged(
    trained: TrainedNewcomer, encoded: EncodedNewcomer, split: Split, config: NewcomerConfig, ground: Ground
) -> Judged:
    """Calibrate on the `stop` half, judge on the `gate` half against what is served if nothing is published."""
    stop, held = (_natural(trained, encoded, part) for part in (split.stop, split.gate))
    calibrations = calibrate(stop, {"single": trained.logits(split.stop)}, config.calibration)
    own = tuple(calibrations["single"].values())
    rival = _by_start(trained, split.gate, ground, shift=math.log(config.calibration.negatives_kept))
    verdicts = gate(held, trained.logits(split.gate), rival, own, config.gate)
    return Judged(calibrations, verdicts, config.gate)


def _by_start(trained: TrainedNewcomer, positions: NDArray[np.int64], ground: Ground, shift: float = 0.0) -> Floats:
    """Logits (n,) by what serves now: the backbone, or the live adapter under its calibration without the prior shift.

    Args:
        trained: knows the logits before any calibration.
        positions: of the rows.
        ground: may have a live adapter.
        shift: of the prior, which the live calibration holds and the rows at hand have not.
    """
    raw = trained.start[positions]
    if ground.begun is None:
        return raw
    line = ground.begun.manifest.calibration
    served: Floats = line.slope * raw + (line.intercept - shift)
    return served


def _drift(trained: TrainedNewcomer, split: Split, judged: Judged, ground: Ground) -> dict[str, Any]:
    """How far served probabilities of the validation rows, or of all where there are none, moved from the live ones."""
    positions = np.sort(np.concatenate([split.stop, split.gate]))
    if not len(positions):
        positions = split.train
    line = next(iter(judged.calibrations["single"].values())).served()
    now = probabilities(line["slope"] * trained.logits(positions) + line["intercept"])
    moved = np.abs(now - probabilities(_by_start(trained, positions, ground)))
    return {"from": ground.live, "rows": len(moved), "mean": float(moved.mean()), "largest": float(moved.max())}


def _natural(trained: TrainedNewcomer, encoded: EncodedNewcomer, positions: NDArray[np.int64]) -> NaturalRows:
    division = trained.network.rows.divisions[0]
    label = encoded.dataset.label[positions]
    return NaturalRows(label, np.zeros(len(label), np.int64), division.domains)


def _figures(trained: TrainedNewcomer, encoded: EncodedNewcomer, positions: NDArray[np.int64]) -> dict[str, Any]:
    label = encoded.dataset.label[positions]
    return {
        "rows": len(label),
        "positives": int(label.sum()),
        "auc_backbone": auc(label, trained.backbone_logits(positions)),
        "auc_start": auc(label, trained.start[positions]),
        "auc": auc(label, trained.logits(positions)),
    }


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
        "blind": trained.blind,
        "history": history,
    }
