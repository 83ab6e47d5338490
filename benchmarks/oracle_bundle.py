"""A bundle folder in float64, and what a delta makes of its weights."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any, Self

import numpy as np

from benchmarks.oracle_files import AdapterFile, raw_values, read_safetensors


class OracleBundle:
    """Manifest, weights, vocabulary and feature tables of a bundle.

    Args:
        bundle: its folder.
    """

    def __init__(self, bundle: Path) -> None:
        self.manifest = json.loads((bundle / "manifest.json").read_text())
        self.fields = self.manifest["fields"]
        weights, _ = read_safetensors(bundle / "weights.safetensors")
        self.weights = {name: tensor.astype(np.float64) for name, tensor in weights.items()}
        self.vocabulary, _ = read_safetensors(bundle / "vocabulary.safetensors")
        self.sides = {side: read_safetensors(bundle / f"{side}s.safetensors")[0] for side in ("user", "item")}
        self.index = {side: raw_values(tensors, "index") for side, tensors in self.sides.items()}
        self.kind = str(self.manifest["kind"])
        self.layers = len([n for n in weights if n.startswith("tower.") and n.count(".") == 2 and n.endswith("bias")])
        self.first_order = any(name.startswith("first_order.") for name in weights)
        eps = self.manifest.get("norm_eps", 1e-5)
        self.eps = float(eps)

    def under(self, adapter: AdapterFile | None) -> Self:
        """This one with theta_S + theta_i for its weights; itself where the adapter has no deltas."""
        deltas = {
            k.removeprefix("delta."): v for k, v in (adapter.tensors if adapter else {}).items() if k[:5] == "delta"
        }
        if not deltas:
            return self
        whole = copy.copy(self)
        whole.weights = {name: weight + deltas.pop(name, 0.0) for name, weight in self.weights.items()}
        assert not deltas, f"deltas of nothing: {sorted(deltas)}"
        return whole

    def id_field(self, side: str) -> dict[str, Any]:
        """The id field of a side."""
        return next(field for field in self.fields if field.get("id") and field["of"] == side)
