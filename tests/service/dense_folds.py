"""Folds that are whole networks, for tests of engines."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapters_store.backbone import Backbone
from adapters_store.dense import FoldedDelta
from adapters_store.folding import Folded, fold_backbone


def weights_of(backbone: Backbone) -> dict[str, NDArray[Any]]:
    """The backbone as a dense fold says it."""
    plain = fold_backbone(backbone).modules
    norms = {
        f"{module}.{part}": getattr(plain[module], part)
        for module in backbone.modules
        for part in ("norm_scale", "norm_shift")
    }
    linear = [f"{module}.{part}" for module in (*backbone.modules, "output") for part in ("weight", "bias")]
    return {name: backbone.weights[name] for name in linear} | norms


def folded_of(weights: dict[str, NDArray[Any]], slope: float = 1.0, intercept: float = 0.0) -> Folded:
    """A fold of a whole network."""
    return Folded({}, slope, intercept, FoldedDelta(weights, {}, sum(own.nbytes for own in weights.values())))


def dense_fold(backbone: Backbone, rng: np.random.Generator, spread: float = 0.1) -> Folded:
    """A whole network near the backbone's, calibrated."""
    weights = weights_of(backbone)
    for name, own in weights.items():
        weights[name] = (own + spread * max(float(np.std(own)), 0.1) * rng.normal(0, 1, own.shape)).astype(np.float32)
    return folded_of(weights, 0.9, 0.3)
