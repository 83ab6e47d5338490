"""The oracle of a domain without an adapter: auxiliary adapters alone, the natural division masked out of Eq. 10.

Written like `benchmarks.oracle`, apart from the service and without folding anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.oracle import Oracle
from benchmarks.oracle_files import AdapterFile, Array
from benchmarks.oracle_network import sigmoid


def masked_logits(
    oracle: Oracle, x: Array, auxiliaries: Sequence[AdapterFile], fusions: Mapping[str, AdapterFile]
) -> Array:
    """Logits (n,) of rows for which these auxiliary adapters are present; the backbone's where there are none.

    The one fusion that all of them pin, out of `fusions` by revision, weighs them; without one they count alike. What
    their norms make of the sum is averaged.
    """
    pinned = {one.manifest.get("fusion") for one in auxiliaries}
    shared = next(iter(pinned)) if len(pinned) == 1 else None
    fusion = None if shared is None else fusions[shared]
    mode = "avg" if fusion is None else "attention"

    def present(module: str) -> list[AdapterFile]:
        return [one for one in auxiliaries if module in one.manifest["ranks"]]

    def mapped(module: str, v: Array) -> Array:
        h0 = np.asarray(v @ oracle.weights[f"{module}.weight"].T + oracle.weights.get(f"{module}.bias", 0.0))
        loras = present(module)
        return h0 + oracle.fused(module, v, h0, loras, mode, fusion) if loras else h0

    def normed(module: str, h: Array) -> Array:
        norms = [one.tensors for one in present(module)] or [oracle.weights]
        return np.asarray(np.mean([oracle.norm(tensors, module, h) for tensors in norms], axis=0))

    return oracle.through(x, mapped, normed)


def masked_score(
    oracle: Oracle,
    user: str,
    domain: str,
    items: Sequence[str],
    live: Mapping[str, AdapterFile],
    fusions: Mapping[str, AdapterFile] | None = None,
    context: Mapping[str, Any] | None = None,
) -> Array:
    """Probabilities (n,) for one request, item by item; `live`: auxiliary domain to its adapter. None is calibrated."""
    x = oracle.vectors(user, items, domain, context)
    names = [division["name"] for division in oracle.manifest["divisions"] if not division["natural"]]
    out = np.empty(len(items))
    for row, item in enumerate(items):
        domains = [oracle.auxiliary_domain(name, user, item) for name in names]
        here = [live[one] for one in domains if one is not None and one in live]
        out[row] = masked_logits(oracle, x[row : row + 1], here, fusions or {})[0]
    return sigmoid(out)
