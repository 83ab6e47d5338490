"""From a finished training to files that the service reads: a bundle of theta_S, and an adapter for each theta_i."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from adapters_store.backbone import read_bundle
from adapters_store.durable import write_durably
from network.backbone import Backbone
from network.lora import DomainAdapter
from training.artifacts_of import Choice, Notes, Source, lora_artifact
from training.dataset import EncodedDataset
from training.deltas.compressed import compressed_artifact
from training.deltas.compression import compress
from training.deltas.delta import delta_artifact
from training.deltas.evaluation import ValidationAuc
from training.deltas.overlay import row_sparse
from training.errors import CompressionRefused
from training.export import TrainedRun, export_bundle
from training.frameworks.lora import LoraStructure
from training.frameworks.setting import Setting
from training.frameworks.state import State
from training.frameworks.structure import PlainStructure
from training.frameworks.trained import Trained, shared_backbone, trained
from training.golden import exact_backbone
from training.progress import Meter

_BUNDLE, _ADAPTERS = "bundle", "adapters"


def export(
    setting: Setting,
    dataset: EncodedDataset,
    positions: NDArray[np.int64],
    state: State,
    out: Path,
    meter: Meter,
    only: int | None = None,
) -> None:
    """Write RUN/bundle and RUN/adapters/<domain>.safetensors, as far as the network can be served.

    Args:
        setting: what was trained on.
        dataset: encoded with the run's own training rows.
        positions: (n,) rows that golden rows may be taken from.
        state: theta_S and the theta_i.
        out: the run folder.
        meter: where progress goes.
        only: write this domain's adapter alone, beside what is there; the state has no other theta_i.

    Raises:
        ArtifactError: a value is not what an artifact may hold, such as one that is not finite.
        StoreUnavailable: a file cannot be written.
    """
    structure = setting.structure
    if not isinstance(structure, PlainStructure | LoraStructure):
        meter.say("a multi-domain network is not served: its predictions and its report are what it leaves")
        return
    backbone = shared_backbone(setting, structure.backbone, state)
    if only is None:
        # a plain network may get deltas even where this training left none: of domains that join it later
        dense = isinstance(structure, PlainStructure)
        export_bundle(_as_run(setting, dataset, positions, backbone), out / _BUNDLE, dense=dense)
    source = Source(
        dataset=dataset,
        rows=setting.rows,
        positions=positions,
        backbone=exact_backbone(backbone),
        fingerprint=read_bundle(out / _BUNDLE).fingerprint,
        dtype=setting.config.artifact_dtype,
        created_at=None,
    )
    folder = out / _ADAPTERS
    folder.mkdir(parents=True, exist_ok=True)
    written = set()
    for domain, content in _adapters(setting, structure, source, backbone, state, meter):
        path = folder / f"{setting.domains.names[domain]}.safetensors"
        write_durably(path, content)  # one at a time: those of tens of thousands of domains fit no memory
        written.add(path)
    if only is None:
        for left_over in set(folder.glob("*.safetensors")) - written:  # of an earlier export
            left_over.unlink()
    meter.say(f"bundle and {len(written)} adapters are in {out}")


def _adapters(
    setting: Setting,
    structure: PlainStructure | LoraStructure,
    source: Source,
    backbone: Backbone,
    state: State,
    meter: Meter,
) -> Iterator[tuple[int, bytes]]:
    """Make the artifact of each theta_i, one after the other."""
    notes = Notes(training={"framework": setting.config.framework, "seed": setting.config.seed})
    if isinstance(structure, LoraStructure):
        for domain in state.specifics:
            yield domain, lora_artifact(source, structure.adapter(backbone, state, domain), 0, domain, notes)
        return
    learned = trained(setting, backbone, state)
    for domain in learned.domains:
        if setting.config.artifact == "delta":
            yield domain, delta_of(learned, domain, source, notes)
        else:
            yield domain, _compressed(setting, learned, domain, source, notes, meter)


def _compressed(setting: Setting, learned: Trained, domain: int, source: Source, notes: Notes, meter: Meter) -> bytes:
    """Return one domain's delta as a LoRA; as it is, and why is told, where the gate on AUC refuses that."""
    dataset, own = source.dataset, learned.domains[domain]
    evaluate = ValidationAuc(learned.backbone.shape, setting.rows, setting.domains.stop[domain])
    theta_i = own.full(learned.shared)
    try:
        found = compress(
            learned.backbone,
            dataset.fields,
            dataset.vocabulary,
            theta_i,
            evaluate,
            domain=own.name,
            dtype=source.dtype,
        )
    except CompressionRefused as error:
        meter.say(f"{own.name} stays a delta: {error}")
        return delta_of(learned, domain, source, notes)
    if found.record["dropped"]:
        left_out = ", ".join(found.record["dropped"])
        meter.say(f"{own.name} as a LoRA: without {left_out}; {found.record['auc_loss']:.6f} validation AUC lost")
    return compressed_artifact(source, domain, found, notes)


def delta_of(learned: Trained, domain: int, source: Source, notes: Notes) -> bytes:
    """Return one domain's delta as an artifact: dense, rows of id fields as an overlay.

    Args:
        learned: what was trained.
        domain: its position.
        source: of every artifact of the run.
        notes: what the manifest records.
    """
    dataset = source.dataset
    theta_i = learned.domains[domain].full(learned.shared)
    overlays, rest = row_sparse(dataset.fields, dataset.vocabulary, learned.shared, theta_i)
    return delta_artifact(source, domain, rest, notes, overlays)


def _as_run(setting: Setting, dataset: EncodedDataset, positions: NDArray[np.int64], backbone: Backbone) -> TrainedRun:
    """What the export of a bundle needs."""
    none: Mapping[int, DomainAdapter] = {}
    chosen: Mapping[str, Choice] = {}
    return TrainedRun(
        dataset=dataset,
        rows=setting.rows,
        train=torch.cat(setting.domains.train).numpy(),
        positions=positions,
        backbone=backbone,
        adapters=tuple(none for _ in setting.rows.divisions),
        modes={},
        chosen=chosen,
        notes={},
        backbone_notes=Notes(training={"framework": setting.config.framework, "seed": setting.config.seed}),
        dtype=setting.config.artifact_dtype,
    )
