"""Folding a delta: theta_S + theta_i as the weights that `scoring_dense.onnx` takes as inputs (methods.md 3).

Weights behind the lookup are summed in float64 and kept in float32; a norm becomes one scale and one shift. Deltas of
tables are not summed: a table may have millions of rows, so they stay as stored and are added where rows are looked up.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from adapters_store.artifact import Adapter
from adapters_store.backbone import Backbone
from adapters_store.errors import BadValue
from adapters_store.pausing import Pause
from adapters_store.structure import DELTA
from adapters_store.tensors import Array

DENSE_GRAPH = "scoring_dense.onnx"
TABLES = ("embedding.", "first_order.")
"""Weights that are looked up by row, before the graph begins."""
_NORM = ".norm."
_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True, eq=False)
class FoldedDelta:
    """One domain's whole network.

    Args:
        weights: graph input -> float32 array; those that the delta leaves alone are the backbone's own.
        tables: weight -> the delta of its table, float16 or float32, as stored.
        nbytes: of the arrays that are not the backbone's.
    """

    weights: dict[str, Array]
    tables: dict[str, Array]
    nbytes: int


def fold_delta(backbone: Backbone, adapter: Adapter, pause: Pause) -> FoldedDelta:
    """Fold the deltas of an adapter, whose names and shapes fit the backbone.

    Args:
        backbone: The adapter's, by fingerprint.
        adapter: Of kind delta.
        pause: Called between two tensors.

    Raises:
        BadValue: A sum is not finite in float32, or is a negative variance; tensor and place named.
    """
    deltas = {name.removeprefix(DELTA): tensor for name, tensor in adapter.tensors.items() if name.startswith(DELTA)}
    tables = {}
    for name in [name for name in deltas if name.startswith(TABLES)]:
        pause()
        _check_table(name, backbone.weights[name], deltas[name])
        tables[name] = np.array(deltas[name])  # a copy: a view would keep the whole file in memory
    weights, own_bytes = {}, 0
    for name, changed, array in _weights(backbone, deltas):
        weights[name] = array
        own_bytes += array.nbytes if changed else 0
        pause()
    return FoldedDelta(weights, tables, own_bytes + sum(table.nbytes for table in tables.values()))


def as_float32(name: str, array: Array) -> Array:
    """An array as engines take it, contiguous float32.

    Raises:
        BadValue: A value is not finite in it.
    """
    with np.errstate(over="ignore"):  # what overflows is refused by name below
        cast = np.ascontiguousarray(array, dtype=np.float32)
    if not np.isfinite(cast).all():
        raise BadValue(f"{name} is not finite in float32 after folding")
    return cast


def _weights(backbone: Backbone, deltas: Mapping[str, Array]) -> Iterator[tuple[str, bool, Array]]:
    """Each graph input, whether a delta changes it, and its value."""
    for name, own in backbone.weights.items():
        if name.startswith(TABLES):
            continue
        if _NORM not in name:
            changed = name in deltas
            yield name, changed, as_float32(DELTA + name, _sum(name, own, deltas)) if changed else own
        elif name.endswith(f"{_NORM}mean"):
            module = name.removesuffix(f"{_NORM}mean")
            for part, array in zip(("norm_scale", "norm_shift"), _norm(backbone, module, deltas), strict=True):
                yield f"{module}.{part}", True, as_float32(f"{DELTA}{module}.{part}", array)


def _norm(backbone: Backbone, module: str, deltas: Mapping[str, Array]) -> tuple[Array, Array]:
    """A norm in eval mode as h * scale + shift; each (d,), float64."""
    weight, bias, mean, var = (
        _sum(name, backbone.weights[name], deltas)
        for name in (f"{module}{_NORM}{part}" for part in ("weight", "bias", "mean", "var"))
    )
    if var.min() < 0:
        raise BadValue(
            f"tensor '{DELTA}{module}{_NORM}var': with the backbone's, the variance at [{int(np.argmin(var))}] "
            "is negative"
        )
    scale = weight / np.sqrt(var + backbone.manifest.norm_eps)
    return scale, bias - mean * scale


def _sum(name: str, own: Array, deltas: Mapping[str, Array]) -> Array:
    whole = own.astype(np.float64)
    return whole + deltas[name] if name in deltas else whole


def _check_table(name: str, own: Array, delta: Array) -> None:
    """Hold every row of a table to be finite with its delta; the extremes tell, so that no table is allocated."""
    lowest, highest = float(own.min()) + float(delta.min()), float(own.max()) + float(delta.max())
    if max(-lowest, highest) <= _LARGEST:
        return
    with np.errstate(over="ignore"):
        whole = own + delta
    if not np.isfinite(whole).all():
        raise BadValue(f"tensor '{DELTA}{name}': with the backbone's table a value is not finite in float32")
