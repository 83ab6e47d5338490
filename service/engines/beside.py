"""What stands beside the tower of a backbone, as the extension `espalier-kernels` takes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapters_store.backbone import Backbone
from features.first_order import trained

PLAIN = "mlp"
KINDS = (PLAIN, "wide_deep", "deepfm", "dcn")
"""Of backbones that the extension has: no adapter changes what stands beside their towers."""


def beside_of(backbone: Backbone, weights: Mapping[str, NDArray[np.float32]]) -> dict[str, Any] | None:
    """What stands beside the tower, as the extension takes it; None for kind mlp. Source: docs/backbones.md."""
    kind, fields = backbone.manifest.kind, backbone.manifest.fields
    if kind == PLAIN:
        return None
    if kind == "dcn":
        layers = range(backbone.manifest.cross_layers or 0)
        return {
            "cross": [(weights[f"cross.{level}.weight"], weights[f"cross.{level}.bias"]) for level in layers],
            "crossed": np.ascontiguousarray(weights["output.weight"][0, : -backbone.manifest.tower[-1]]),
        }
    found: dict[str, Any] = {
        "first_order": [
            (weights[f"first_order.{field.name}"], trained(field)) if f"first_order.{field.name}" in weights else None
            for field in fields
        ]
    }
    if kind == "deepfm":
        factors = [weights.get(f"factor.{field.name}") for field in fields]
        widths = [field.width for field in fields if trained(field)]
        found |= {"factors": factors, "pair_width": next(iter(widths), 0)}
    return found
