"""Export: from trained stages to the files that the service reads (docs/architecture.md, "Files")."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from adapters_store.backbone import COUNTS, read_bundle, write_bundle
from adapters_store.canonical import digest
from adapters_store.dense import DENSE_GRAPH
from adapters_store.durable import write_durably
from adapters_store.manifest import BackboneManifest, Calibration
from adapters_store.tensors import write_tensors
from network.backbone import Backbone
from network.fusion import Mode
from network.inputs import NetworkShape
from network.lora import DomainAdapter, domain_generator
from network.onnx_export import export_scoring
from network.onnx_export_dense import export_dense
from training.artifacts_of import (
    Choice,
    FusedMode,
    FusedSource,
    Notes,
    Source,
    arrays,
    fusion_artifact,
    lora_artifact,
)
from training.batches import RowTensors
from training.dataset import EncodedDataset
from training.golden import BACKBONE_ROWS, Dtype, as_float64, exact_backbone, spread
from training.pretrain import count_rows

ABLATIONS: tuple[Mode, ...] = ("attention", "add", "avg", "single")


@dataclass(frozen=True)
class TrainedRun:
    """What the stages leave behind.

    Args:
        dataset: encoded with the run's own training rows.
        rows: the same as tensors.
        train: (m,) int64, rows that the backbone was trained on; how often they name an id stands in the bundle.
        positions: (n,) int64, rows that golden rows may be taken from, such as the test rows.
        backbone: frozen, row 0 of every table set (`FieldEmbeddings.fill_unknown`).
        adapters: for each division, natural first, the trained adapters by domain position.
        modes: the trained towers; attention, add, avg, as far as they were trained.
        chosen: natural domain to how it is served.
        notes: domain to what its manifest records; a domain that is not there has empty notes.
        ablation_notes: mode to natural domain to what its ablation's manifest records; empty where it is not there.
        backbone_notes: what the bundle's manifest records.
        fusion_notes: what the fusion's manifest records.
        withheld: natural domains that the publish gate did not let pass: RUN/adapters gets no file of them.
        strong: natural domain position to the adapter that serves alone, where its strength is not that of training.
        dtype: of down, up, query and key in artifacts.
        created_at: RFC 3339 time, or None.
    """

    dataset: EncodedDataset
    rows: RowTensors
    train: NDArray[np.int64]
    positions: NDArray[np.int64]
    backbone: Backbone
    adapters: tuple[Mapping[int, DomainAdapter], ...]
    modes: Mapping[Mode, FusedMode]
    chosen: Mapping[str, Choice]
    notes: Mapping[str, Notes]
    ablation_notes: Mapping[Mode, Mapping[str, Notes]] = field(default_factory=dict)
    backbone_notes: Notes = field(default_factory=Notes)
    fusion_notes: Notes = field(default_factory=Notes)
    withheld: Collection[str] = frozenset()
    strong: Mapping[int, DomainAdapter] = field(default_factory=dict)
    dtype: Dtype = "float16"
    created_at: str | None = None


def export_run(run: TrainedRun, out: Path, ablations: bool = False) -> str:
    """Write RUN/bundle, RUN/fusion.safetensors, RUN/adapters/<domain>.safetensors.

    Auxiliary domains get kind lora, and pin the fusion if any natural one is served by it; natural ones get what
    `chosen` says; a domain that chose the backbone gets an adapter whose LoRA is empty, one that is withheld none, and
    what an earlier export wrote of it is removed. Auxiliaries are pins and never withheld; ablations are for comparison
    and hold every domain. The same run gives the same bytes.

    Args:
        run: the trained stages.
        out: the run folder.
        ablations: also write RUN/ablations/<mode>/<natural domain>.safetensors for every mode that was trained.

    Returns:
        The bundle's revision.

    Raises:
        ArtifactError: a tensor is not what an artifact may hold, such as a value that is not finite.
        StoreUnavailable: a file cannot be written.
    """
    revision = export_bundle(run, out / "bundle")
    export = _Export(run, read_bundle(out / "bundle").fingerprint)
    fusion = export.fusion()
    fusion_revision = None if fusion is None else digest(fusion)
    if fusion is None:
        (out / "fusion.safetensors").unlink(missing_ok=True)
    else:
        write_durably(out / "fusion.safetensors", fusion)
    fused = "attention" in run.chosen.values()  # else nothing that serves is weighed by it
    auxiliaries = export.auxiliaries(fusion_revision if fused else None)
    pins = {name: digest(content) for name, content in auxiliaries.items()}
    published = {name: choice for name, choice in run.chosen.items() if name not in run.withheld}
    naturals = export.naturals(published, run.notes, pins, fusion_revision, run.strong)
    write_files(out / "adapters", {**auxiliaries, **naturals})
    if ablations:
        for mode in ABLATIONS:
            if mode == "single" or mode in run.modes:
                choice: dict[str, Choice] = dict.fromkeys(run.rows.divisions[0].domains, mode)
                notes = run.ablation_notes.get(mode, {})
                write_files(out / "ablations" / mode, export.naturals(choice, notes, pins, fusion_revision))
    return revision


@torch.no_grad()
def export_bundle(run: TrainedRun, folder: Path, dense: bool = False) -> str:
    """Write the bundle and return its revision.

    Args:
        run: the trained stages.
        folder: where.
        dense: also write `scoring_dense.onnx`, without which no adapter of kind delta is scored.
    """
    backbone, dataset = run.backbone, run.dataset
    positions = spread(run.positions, BACKBONE_ROWS)
    logits = exact_backbone(backbone)(run.rows.batch(torch.from_numpy(positions)))
    golden = dataset.rows(positions).to_tensors("inputs") | {"logits": as_float64(logits)}
    tensors = {
        "weights": arrays(backbone.weights()),
        "vocabulary": dataset.vocabulary.to_tensors(),
        "users": dataset.users.tensors(),
        "items": dataset.items.tensors(),
        "golden": golden,
        COUNTS: _id_counts(run),
    }
    files = {f"{name}.safetensors": write_tensors(found, {"content": name}) for name, found in tensors.items()}
    manifest = BackboneManifest(
        **form_of(backbone.shape),
        fields=list(dataset.fields),
        divisions=list(run.rows.divisions),
        calibration=Calibration.model_validate(run.backbone_notes.calibration or {}),
        metrics=dict(run.backbone_notes.metrics),
        training=dict(run.backbone_notes.training),
        created_at=run.created_at,
    )
    graphs = {"scoring.onnx": export_scoring(backbone)}
    if dense:
        graphs[DENSE_GRAPH] = export_dense(backbone)
    return write_bundle(folder, manifest, files | graphs)


def _id_counts(run: TrainedRun) -> dict[str, NDArray[np.int32]]:
    """By id field how many training rows name each row of its table, int32 (V,): what `overlay: rare` goes by."""
    embeddings = run.backbone.embeddings
    counts = count_rows(run.backbone, run.rows, torch.from_numpy(run.train)).to(torch.int32).numpy()
    places = {one.name: embeddings.starts[one.name] for one in run.dataset.fields if one.id and not one.frozen}
    return {name: counts[start : start + embeddings.rows[name]] for name, start in places.items()}


def form_of(shape: NetworkShape) -> dict[str, Any]:
    """Return what a bundle's manifest says about the network's form, fields apart."""
    form: dict[str, Any] = {"kind": shape.kind, "tower": list(shape.tower), "norm_eps": shape.norm_eps}
    if not shape.norm:
        form["norm"] = False
    if shape.kind in ("dcn", "dcn_v2"):
        form["cross_layers"] = shape.cross_layers
    if shape.kind == "autoint":
        form["attention"] = {
            "layers": shape.attention_layers,
            "heads": shape.heads,
            "head_width": shape.head_width,
        }
    return form


def write_files(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write one file a domain, each whole or not at all, and remove those of an earlier export."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        write_durably(folder / f"{name}.safetensors", content)
    for path in folder.glob("*.safetensors"):
        if path.name.removesuffix(".safetensors") not in contents:
            path.unlink()


class _Export:
    """The adapters of one run.

    Args:
        run: the trained stages.
        fingerprint: of the bundle.
    """

    def __init__(self, run: TrainedRun, fingerprint: str) -> None:
        self._run = run
        self._source = Source(
            dataset=run.dataset,
            rows=run.rows,
            positions=run.positions,
            backbone=exact_backbone(run.backbone),
            fingerprint=fingerprint,
            dtype=run.dtype,
            created_at=run.created_at,
        )

    def fusion(self) -> bytes | None:
        """Return the fusion's file, None where attention was not trained."""
        fused = self._run.modes.get("attention")
        return None if fused is None else fusion_artifact(self._source, fused.tower, self._run.fusion_notes)

    def auxiliaries(self, fusion: str | None) -> dict[str, bytes]:
        """Return the files of all auxiliary domains, which pin this fusion."""
        return {
            self._name(division, domain): self._lora(
                division, domain, adapter, self._run.notes.get(self._name(division, domain), Notes()), fusion
            )
            for division, found in enumerate(self._run.adapters)
            if division > 0
            for domain, adapter in found.items()
        }

    def naturals(
        self,
        chosen: Mapping[str, Choice],
        notes: Mapping[str, Notes],
        pins: Mapping[str, str],
        fusion: str | None,
        strong: Mapping[int, DomainAdapter] | None = None,
    ) -> dict[str, bytes]:
        """Return the files of natural domains.

        Args:
            chosen: natural domain to how it is served; one that is not there gets no file. Fused modes become `single`
                where nothing is there to fuse.
            notes: natural domain to what its manifest records; a domain that is not there has empty notes.
            pins: auxiliary domain to revision.
            fusion: revision of the fusion.
            strong: adapters that stand alone, by domain position, in place of those that were trained.
        """
        alone = {**self._run.adapters[0], **(strong or {})}
        by_choice: dict[Choice, list[int]] = {}
        for domain in self._run.adapters[0]:
            if self._name(0, domain) not in chosen:
                continue
            choice = chosen[self._name(0, domain)]
            by_choice.setdefault(choice if choice == "backbone" or pins else "single", []).append(domain)
        files: dict[int, bytes] = {}
        for choice, domains in by_choice.items():
            noted = {domain: notes.get(self._name(0, domain), Notes()) for domain in domains}
            files |= self._of_choice(choice, noted, pins, fusion, alone)
        return {self._name(0, domain): files[domain] for domain in sorted(files)}

    def _of_choice(
        self,
        choice: Choice,
        notes: Mapping[int, Notes],
        pins: Mapping[str, str],
        fusion: str | None,
        alone: Mapping[int, DomainAdapter],
    ) -> dict[int, bytes]:
        if choice == "single":
            return {domain: self._lora(0, domain, alone[domain], noted) for domain, noted in notes.items()}
        if choice == "backbone":
            return {domain: self._lora(0, domain, self._empty(domain), noted) for domain, noted in notes.items()}
        fused = FusedSource(
            self._source, choice, self._run.modes[choice], pins, fusion if choice == "attention" else None
        )
        return fused.artifacts(notes)

    def _lora(
        self, division: int, domain: int, adapter: DomainAdapter, notes: Notes, fusion: str | None = None
    ) -> bytes:
        return lora_artifact(self._source, adapter, division, domain, notes, fusion)

    def _empty(self, domain: int) -> DomainAdapter:
        """An adapter that is the backbone: up and shift are zero."""
        ranks = self._run.adapters[0][domain].ranks
        return DomainAdapter.untrained(self._run.backbone, ranks, domain_generator(0, *self._place(domain))).eval()

    def _place(self, domain: int) -> tuple[str, str]:
        return self._run.rows.divisions[0].name, self._name(0, domain)

    def _name(self, division: int, domain: int) -> str:
        return self._run.rows.divisions[division].domains[domain]
