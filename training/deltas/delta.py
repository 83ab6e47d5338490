"""A full delta as an artifact: kind `delta`, dense, with the id embeddings' rows in an overlay where that is asked."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from adapters_store.artifact import encode_adapter
from adapters_store.manifest import AdapterManifest
from adapters_store.structure import check_values
from training.artifacts_of import Notes, Source, arrays
from training.deltas.golden import overlaid_golden
from training.deltas.overlay import TORCH, OverlayRows
from training.golden import Dtype


def delta_artifact(
    source: Source,
    domain: int,
    theta_i: Mapping[str, Tensor],
    notes: Notes,
    overlays: Sequence[OverlayRows] = (),
) -> bytes:
    """Return the file of one natural domain's delta.

    Args:
        source: of every artifact of the run; its backbone is theta_S, its dtype that of deltas and overlay rows.
        domain: position in the natural division.
        theta_i: the delta by a bundle's names; one that is not there, or all zero, is left out of the file.
        notes: what the manifest records.
        overlays: the domain's own id embeddings, at most one a side (`training.deltas.overlay.row_sparse`).

    Raises:
        ArtifactError: a value is not finite, or overflows the dtype; the tensor is named.
    """
    deltas = stored_delta(theta_i, source.dtype)
    overlays = [overlay.stored(source.dtype) for overlay in overlays]
    if not deltas and not overlays:  # a domain that stayed at theta_S; a file of no tensors is refused as a mistake
        deltas = {"output.bias": torch.zeros(1)}
    golden = overlaid_golden(source, domain, overlays)
    exact = copy.deepcopy(source.backbone)
    own = exact.weights()
    exact.load_weights(
        {name: value + deltas[name].double() if name in deltas else value for name, value in own.items()}
    )
    tensors = arrays({f"delta.{name}": value for name, value in deltas.items()})
    for overlay in overlays:
        tensors |= overlay.tensors()
    check_values(tensors)  # before golden logits, which would be no numbers either, and no cause
    manifest = {**source.common(0, domain, notes), "kind": "delta", "mode": "single"}
    return encode_adapter(AdapterManifest.model_validate(manifest), tensors | golden.tensors(golden.logits(exact)))


def stored_delta(theta_i: Mapping[str, Tensor], dtype: Dtype) -> dict[str, Tensor]:
    """Return a delta as an artifact holds it: norms in float32, the rest in `dtype`, without what is all zero."""
    rounded = {
        name: value.detach().to(torch.float32 if ".norm." in name else TORCH[dtype]).contiguous()
        for name, value in theta_i.items()
    }
    return {name: value for name, value in rounded.items() if bool((value != 0).any())}
