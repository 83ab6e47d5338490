"""Artifacts of a trained run: manifests and tensors of adapters and the fusion, as docs/architecture.md says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adapters_store.artifact import encode_adapter, encode_fusion
from adapters_store.manifest import AdapterManifest, FusionManifest
from features.fields import Division
from features.rows import EncodedRows
from network.backbone import Backbone
from network.fused import FusedTower
from network.fusion import Mode
from network.grouping import Domains
from network.lora import DomainAdapter, norm_tensors
from training.batches import RowTensors
from training.dataset import EncodedDataset
from training.golden import (
    ADAPTER_ROWS,
    Dtype,
    GoldenRows,
    as_float64,
    exact_adapter,
    exact_tower,
    over_combinations,
    spread,
    stored,
)
from training.metrics import rows_by_domain

Choice = Literal["attention", "add", "avg", "single", "backbone"]
"""How a natural domain is served: fused in a mode, its own adapter alone, or the backbone."""


@dataclass(frozen=True)
class Notes:
    """What an artifact's manifest records beside its tensors.

    Args:
        metrics: what evaluation found.
        training: how it was trained.
        gate: what the publish gate found.
        calibration: slope and intercept on the logit; None is the identity.
        strength: that is folded into its tensors.
    """

    metrics: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    gate: Mapping[str, Any] | None = None
    calibration: Mapping[str, float] | None = None
    strength: float = 1.0


@dataclass(frozen=True)
class FusedMode:
    """One mode's tower and the training rows of each tuple that has norms of its own."""

    tower: FusedTower
    pair_rows: Mapping[Domains, int]


@dataclass(frozen=True)
class Source:
    """What every artifact of a run is made from.

    Args:
        dataset: its rows, for golden inputs.
        rows: the same as tensors.
        positions: (n,) int64, rows that golden rows may be taken from, such as the test rows.
        backbone: the float64 copy.
        fingerprint: of the exported bundle.
        dtype: of down, up, query and key.
        created_at: RFC 3339 time, or None.
    """

    dataset: EncodedDataset
    rows: RowTensors
    positions: NDArray[np.int64]
    backbone: Backbone
    fingerprint: str
    dtype: Dtype
    created_at: str | None

    @property
    def divisions(self) -> tuple[Division, ...]:
        """The divisions, the natural one first."""
        return self.rows.divisions

    def inside(self, division: int, domain: int) -> NDArray[np.int64]:
        """Rows of a domain that golden rows may be taken from; all rows where it has none."""
        mine = self._inside[division][domain]
        return mine if len(mine) else self.positions

    @cached_property
    def _inside(self) -> list[list[NDArray[np.int64]]]:
        """For each division the positions of each domain: sorted once, not looked through once a domain."""
        columns = [self.dataset.division[division.name][self.positions] for division in self.divisions]
        return [
            [self.positions[part] for part in rows_by_domain(column, len(division.domains))]
            for column, division in zip(columns, self.divisions, strict=True)
        ]

    def inputs(self, positions: NDArray[np.int64]) -> EncodedRows:
        """Encoded rows (n of them)."""
        return self.dataset.rows(positions)

    def common(self, division: int, domain: int, notes: Notes) -> dict[str, Any]:
        """What every adapter's manifest says."""
        return {
            "domain": self.divisions[division].domains[domain],
            "division": self.divisions[division].name,
            "fingerprint": self.fingerprint,
            "metrics": dict(notes.metrics),
            "training": dict(notes.training),
            "gate": None if notes.gate is None else dict(notes.gate),
            "calibration": {} if notes.calibration is None else dict(notes.calibration),
            "strength": notes.strength,
            "created_at": self.created_at,
        }


def lora_artifact(
    source: Source, adapter: DomainAdapter, division: int, domain: int, notes: Notes, fusion: str | None = None
) -> bytes:
    """Return the file of one domain's own adapter; `fusion` is the revision that one of an auxiliary division pins."""
    positions = spread(source.inside(division, domain), ADAPTER_ROWS)
    exact = exact_adapter(adapter, source.dtype)
    logits = source.backbone(source.rows.batch(torch.from_numpy(positions)), exact)
    tensors = adapter.tensors()
    manifest = {**source.common(division, domain, notes), "kind": "lora", "mode": "single", "ranks": ranks_of(tensors)}
    return encode_adapter(
        AdapterManifest.model_validate(manifest | {"fusion": fusion}),
        arrays(stored(tensors, source.dtype))
        | source.inputs(positions).to_tensors("golden.inputs")
        | {"golden.logits": as_float64(logits)},
    )


@dataclass(frozen=True)
class FusedSource:
    """What the fused artifacts of one mode are made from.

    Args:
        source: of every artifact.
        mode: attention, add or avg.
        fused: the mode's tower as trained.
        pins: auxiliary domain to the revision of its adapter.
        fusion: revision of the fusion, for attention.
    """

    source: Source
    mode: Mode
    fused: FusedMode
    pins: Mapping[str, str]
    fusion: str | None

    def artifacts(self, notes: Mapping[int, Notes]) -> dict[int, bytes]:
        """Return the files of these natural domains, by position."""
        exact = exact_tower(self.fused.tower, self.source.dtype)  # once for all: it copies every adapter
        pairs: dict[int, list[Domains]] = {}
        for domains, _ in self.fused.tower.own_norms():
            pairs.setdefault(domains[0], []).append(domains)
        return {domain: self._artifact(exact, domain, pairs.get(domain, []), noted) for domain, noted in notes.items()}

    def _artifact(self, exact: FusedTower, domain: int, pairs: Sequence[Domains], notes: Notes) -> bytes:
        source, tower = self.source, self.fused.tower
        auxiliary = source.divisions[1:]
        pinned = [[i for i, name in enumerate(d.domains) if name in self.pins] for d in auxiliary]
        golden = over_combinations(source.inside(0, domain), domain, pinned)
        tensors = tower.adapter(0, domain).tensors()
        manifest = {**source.common(0, domain, notes), "kind": "fused", "mode": self.mode, "ranks": ranks_of(tensors)}
        for i, domains in enumerate(pairs):
            tensors |= norm_tensors(tower.adapted_norms(domains), f"pair.{i}.")
        manifest |= {
            "auxiliary": [d.name for d in auxiliary],
            "pairs": [{"domains": self._names(p), "rows": self.fused.pair_rows.get(p, 0)} for p in pairs],
            "fuses": dict(self.pins),
            "fusion": self.fusion,
            "golden_divisions": {d.name: list(d.domains) for d in auxiliary},
        }
        return encode_adapter(
            AdapterManifest.model_validate(manifest),
            arrays(stored(tensors, source.dtype)) | self._golden(exact, golden),
        )

    def _names(self, domains: Domains) -> list[str | None]:
        return [
            division.domains[i] if i >= 0 else None
            for division, i in zip(self.source.divisions[1:], domains[1:], strict=True)
        ]

    def _golden(self, exact: FusedTower, golden: GoldenRows) -> dict[str, NDArray[Any]]:
        source = self.source
        batch = source.rows.batch(torch.from_numpy(golden.positions))
        with torch.no_grad():
            logits = exact.logits(source.backbone, batch, torch.from_numpy(golden.domains))
        columns = {
            f"golden.division.{division.name}": golden.domains[:, i + 1].astype(np.int32)
            for i, division in enumerate(source.divisions[1:])
        }
        inputs = source.inputs(golden.positions).to_tensors("golden.inputs")
        return inputs | columns | {"golden.logits": as_float64(logits)}


def fusion_artifact(source: Source, tower: FusedTower, notes: Notes) -> bytes:
    """Return the file of the fusion of mode attention."""
    assert tower.fusion is not None
    tensors = tower.fusion.tensors()
    queries = {name: value for name, value in tensors.items() if name.endswith(".query")}
    ranks = {name.removeprefix("fusion.").removesuffix(".query"): len(value) for name, value in queries.items()}
    manifest = FusionManifest(
        fingerprint=source.fingerprint,
        divisor=tower.fusion.divisor,
        ranks=ranks,
        divisions=[division.name for division in source.divisions],
        metrics=dict(notes.metrics),
        training=dict(notes.training),
        created_at=source.created_at,
    )
    return encode_fusion(manifest, arrays(stored(tensors, source.dtype)))


def ranks_of(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Return the LoRA rank of each module."""
    return {name.removesuffix(".down"): len(value) for name, value in tensors.items() if name.endswith(".down")}


def arrays(tensors: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
    """Return tensors as numpy arrays."""
    return {name: value.numpy() for name, value in tensors.items()}
