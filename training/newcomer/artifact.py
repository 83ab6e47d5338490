"""The file of a new domain: its own tensors and overlays as stored, and golden rows scored by them in float64."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from adapters_store.artifact import Adapter, encode_adapter
from adapters_store.manifest import AdapterManifest
from adapters_store.structure import GOLDEN, OVERLAY, check_values
from network.fused import FusedTower
from network.lora import DomainAdapter
from training.artifacts_of import Notes, Source, arrays, ranks_of
from training.deltas.golden import overlaid_golden
from training.deltas.overlay import OverlayRows
from training.golden import Dtype, exact_adapter, exact_backbone, over_combinations, stored
from training.newcomer.config import NewcomerConfig
from training.newcomer.encoding import EncodedNewcomer
from training.newcomer.ground import Ground
from training.newcomer.overlay import TrainedOverlay
from training.newcomer.trainer import TrainedNewcomer


def newcomer_artifact(
    trained: TrainedNewcomer, encoded: EncodedNewcomer, ground: Ground, config: NewcomerConfig, notes: Notes
) -> bytes:
    """Return the domain's file.

    Raises:
        ArtifactError: a value is not finite, or overflows the dtype; the tensor is named.
    """
    source = Source(
        dataset=encoded.dataset,
        rows=trained.network.rows,
        positions=np.arange(len(encoded.dataset.label)),
        backbone=exact_backbone(trained.network.backbone),
        fingerprint=ground.bundle.fingerprint,
        dtype=config.artifact_dtype,
        created_at=None,
    )
    overlays = [_stored(chosen.overlay, source.dtype) for chosen in trained.network.overlays]
    adapter = trained.network.adapter
    if isinstance(adapter, FusedTower):
        assert ground.begun is not None
        return _fused(source, adapter, ground.begun, overlays, notes)
    return _alone(source, adapter, overlays, notes)


def _stored(overlay: TrainedOverlay, dtype: Dtype) -> OverlayRows:
    rows = overlay.exported()
    return rows.stored(dtype) if overlay.bits is None else rows.in_bits(overlay.bits)


def _alone(source: Source, adapter: DomainAdapter, overlays: list[OverlayRows], notes: Notes) -> bytes:
    """Of kind `lora`."""
    own = adapter.tensors()
    tensors = _checked(arrays(stored(own, source.dtype)), overlays)
    golden = overlaid_golden(source, 0, overlays)
    logits = golden.logits(source.backbone, exact_adapter(adapter, source.dtype))
    manifest = {**source.common(0, 0, notes), "kind": "lora", "mode": "single", "ranks": ranks_of(own)}
    return encode_adapter(AdapterManifest.model_validate(manifest), tensors | golden.tensors(logits))


def _fused(source: Source, tower: FusedTower, begun: Adapter, overlays: list[OverlayRows], notes: Notes) -> bytes:
    """Of kind `fused`: the tensors that it began with, byte for byte, and the overlays; golden rows over all pins."""
    own = {name: value for name, value in begun.tensors.items() if not name.startswith((GOLDEN, OVERLAY))}
    tensors = _checked(own, overlays)
    auxiliary = source.divisions[1:]
    pinned = [[at for at, name in enumerate(one.domains) if name in begun.manifest.fuses] for one in auxiliary]
    rows = over_combinations(source.inside(0, 0), 0, pinned, times=2)
    # each combination with ids of the overlays, then without
    given = np.flatnonzero(np.arange(len(rows.positions)) // math.prod(len(one) + 1 for one in pinned) % 2 == 0)
    golden = overlaid_golden(source, 0, overlays, rows.positions, given)
    exact, domains = copy.deepcopy(tower).double(), torch.from_numpy(rows.domains)
    with torch.no_grad():
        logits = exact.score_looked_up(source.backbone, golden.looked_up(source.backbone), domains)
    columns = {
        f"{GOLDEN}division.{one.name}": rows.domains[:, place].astype(np.int32)
        for place, one in enumerate(auxiliary, start=1)
    }
    manifest = begun.manifest.model_dump() | source.common(0, 0, notes)
    manifest |= {
        "strength": begun.manifest.strength,
        "golden_divisions": {one.name: list(one.domains) for one in auxiliary},
    }
    return encode_adapter(AdapterManifest.model_validate(manifest), tensors | columns | golden.tensors(logits))


def _checked(own: dict[str, NDArray[Any]], overlays: list[OverlayRows]) -> dict[str, NDArray[Any]]:
    """All tensors but golden ones, looked at before golden logits, which would be no numbers either, and no cause."""
    tensors = dict(own)
    for overlay in overlays:
        tensors |= overlay.tensors()
    check_values(tensors)
    return tensors
