"""The float64 oracle: what Espalier must answer, written apart from it.

It reads artifact files by itself (`oracle_files`), computes the literal equations of the MultiLoRA paper (Eq. 7 to 11)
and MAMDR's theta_S + theta_i without folding anything (`oracle_network`), and imports nothing of ours. A disagreement
is a fault on one side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.oracle_files import AdapterFile, Array
from benchmarks.oracle_inputs import OracleInputs
from benchmarks.oracle_network import OracleNetwork, sigmoid

Combination = tuple[str | None, ...]


class Oracle(OracleInputs, OracleNetwork):
    """Scores like the service, from a bundle folder and adapter files, in float64.

    Args:
        bundle: the folder.
    """

    def golden_logits(
        self,
        adapter: AdapterFile,
        auxiliaries: Mapping[str, AdapterFile] | None = None,
        fusion: AdapterFile | None = None,
    ) -> Array:
        """Logits (32,) of the adapter's own golden rows."""
        inputs = {k.removeprefix("golden."): v for k, v in adapter.tensors.items() if k.startswith("golden.inputs.")}
        whole = self.under(adapter)
        x = whole.golden_vectors(inputs)
        for side, known in adapter.overlay.items():
            embeddings, field = list(known.values()), self.id_field(side)
            stood = whole.table(field)[inputs[f"inputs.{field['name']}"]]
            for row, position in enumerate(adapter.tensors[f"golden.overlay.{side}"].tolist()):
                if position >= 0:
                    self.replace(x, row, side, embeddings[position], stood[row])
        names = adapter.manifest.get("auxiliary") or []
        domains = adapter.manifest.get("golden_divisions") or {}
        columns = [
            [domains[n][i] if i >= 0 else None for i in adapter.tensors[f"golden.division.{n}"].tolist()] for n in names
        ]
        combinations = [tuple(column[i] for column in columns) for i in range(len(x))]
        out = np.empty(len(x))
        for combination in dict.fromkeys(combinations):
            rows = [i for i, c in enumerate(combinations) if c == combination]
            present = [(auxiliaries or {})[d] for d in combination if d is not None]
            out[rows] = self.logits(x[rows], adapter, present, fusion, self.norm_of(adapter, combination))
        return out

    @staticmethod
    def norm_of(adapter: AdapterFile, present: Combination) -> str:
        """Prefix of the norm that serves this combination: its pair, or with the last divisions dropped."""
        pairs = {tuple(p["domains"]): i for i, p in enumerate(adapter.manifest.get("pairs") or [])}
        left = list(present)
        while any(left):
            if tuple(left) in pairs:
                return f"pair.{pairs[tuple(left)]}."
            last = max(i for i, domain in enumerate(left) if domain is not None)
            left[last] = None
        return ""

    def score(
        self,
        user: str,
        domain: str,
        items: Sequence[str],
        adapter: AdapterFile | None = None,
        auxiliaries: Mapping[str, AdapterFile] | None = None,
        fusion: AdapterFile | None = None,
        context: Mapping[str, Any] | None = None,
    ) -> Array:
        """Probabilities (n,) for one request; `auxiliaries` by domain: those that the adapter pins."""
        whole = self.under(adapter)
        x = whole.overlaid(whole.vectors(user, items, domain, context), adapter, user, items)
        if adapter is None:
            calibration = self.manifest.get("calibration") or {"slope": 1.0, "intercept": 0.0}
            return sigmoid(calibration["slope"] * self.logits(x) + calibration["intercept"])
        names = adapter.manifest.get("auxiliary") or []
        out = np.empty(len(items))
        combinations = [
            tuple(d if d in (auxiliaries or {}) else None for d in (self.auxiliary_domain(n, user, i) for n in names))
            for i in items
        ]
        for combination in dict.fromkeys(combinations):
            rows = [i for i, c in enumerate(combinations) if c == combination]
            present = [(auxiliaries or {})[d] for d in combination if d is not None]
            logits = self.logits(x[rows], adapter, present, fusion, self.norm_of(adapter, combination))
            calibration = adapter.manifest.get("calibration") or {"slope": 1.0, "intercept": 0.0}
            out[rows] = sigmoid(calibration["slope"] * logits + calibration["intercept"])
        return out
