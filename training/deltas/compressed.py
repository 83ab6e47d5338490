"""A compressed delta as an artifact: an ordinary adapter of kind `lora`, its loss in the manifest."""

from __future__ import annotations

import torch

from adapters_store.artifact import encode_adapter
from adapters_store.manifest import AdapterManifest
from adapters_store.structure import check_values
from network.lora import DomainAdapter, domain_generator
from training.artifacts_of import Notes, Source, arrays
from training.deltas.compression import Compressed
from training.deltas.golden import overlaid_golden


def compressed_artifact(source: Source, domain: int, compressed: Compressed, notes: Notes) -> bytes:
    """Return the file of one natural domain's compressed delta.

    Args:
        source: of every artifact of the run; its backbone is theta_S.
        domain: position in the natural division.
        compressed: what `training.deltas.compression.compress` returned.
        notes: what the manifest records besides; `metrics.compression` is the record of the gate.

    Raises:
        ArtifactError: a value is not finite, or overflows the dtype; the tensor is named.
    """
    golden = overlaid_golden(source, domain, compressed.overlays)
    tensors = arrays(compressed.tensors)
    for overlay in compressed.overlays:
        tensors |= overlay.tensors()
    check_values(tensors)
    logits = golden.logits(source.backbone, _exact(source, compressed))
    common = source.common(0, domain, notes)
    manifest = common | {
        "kind": "lora",
        "mode": "single",
        "ranks": dict(compressed.ranks),
        "calibration": {"slope": 1.0, "intercept": compressed.intercept},
        "metrics": {**common["metrics"], "compression": dict(compressed.record)},
    }
    return encode_adapter(AdapterManifest.model_validate(manifest), tensors | golden.tensors(logits))


@torch.no_grad()
def _exact(source: Source, compressed: Compressed) -> DomainAdapter:
    """The adapter in float64, as stored."""
    ranks = [compressed.ranks.get(module.name, 0) for module in source.backbone.shape.modules]
    exact = DomainAdapter.untrained(source.backbone, ranks, domain_generator(0, "", "")).double().eval()
    exact.load_tensors(compressed.tensors)
    return exact
