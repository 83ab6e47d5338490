"""A fold as the pool keeps it: low-rank parts in blocks of 16 components, all that is constant in scale and offset.

A component is one rank of one LoRA: a row of `down` and a column of `up`. With x the input, z = x downᵀ and the weights
w of the divisions (see `adapters_store.folding`):

    y = (W0 x + Σ_c z_c w_(division of c) up_c + w shift) * scale + offset, then ReLU

Where the weights are constant (modes avg, add, single; the backbone) they are inside `up` and `offset`, and components
that add nothing are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapters_store.folding import FoldedModule

BLOCK = 16
"""Components of a block: the least that a tensor core multiplies."""

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class PackedLayer:
    """One layer of one combination, B blocks of components, Q of queries (none where the weights are constant).

    Args:
        down: (B, 16, k).
        up: (B, 16, d).
        key: (B, 16, 16 Q): each component's column of the key.
        division: (B, 16) int32: of each component.
        query: (Q, 16, k).
        query_shift: (16 Q,).
        key_shift: (m, 16 Q).
        shift: (m, d).
        scale: (d,).
        offset: (d,).
    """

    down: Floats
    up: Floats
    key: Floats
    division: NDArray[np.int32]
    query: Floats
    query_shift: Floats
    key_shift: Floats
    shift: Floats
    scale: Floats
    offset: Floats


def pack(modules: Mapping[str, FoldedModule], biases: Mapping[str, NDArray[Any]]) -> list[PackedLayer]:
    """Pack every layer of a fold.

    Args:
        modules: of the fold.
        biases: b0 (d,) of the tower's modules, in the tower's order.

    Raises:
        KeyError: the fold lacks a module.
        ValueError: a shape is not the module's.
    """
    return [pack_layer(modules[name], bias) for name, bias in biases.items()]


def pack_layer(module: FoldedModule, bias: NDArray[Any]) -> PackedLayer:
    """Pack one layer; constants are computed in float64."""
    m, (d, _) = len(module.group), module.up.shape
    up, scale = module.up.astype(np.float64), module.norm_scale.astype(np.float64)
    attended = m > 1 and bool(module.key.any() or module.key_shift.any())
    constant = bias.astype(np.float64)
    if not attended:  # a softmax over equal scores
        up, constant = up / m, constant + module.shift.astype(np.float64).mean(0)
    kept = module.down.any(1) & (attended | up.any(0))
    rf = len(module.query) if attended else 0
    parts: dict[str, NDArray[Any]] = {
        "down": _blocks(module.down[kept]),
        "up": _blocks(up.T[kept]),
        "key": _widened(_blocks(module.key[:rf].T[kept])),
        "query": _blocks(module.query[:rf]),
        "query_shift": _widened(module.query_shift[:rf]),
        "key_shift": _widened(module.key_shift[:, :rf]),
        "shift": module.shift if attended else np.zeros((0, d)),
        "scale": scale,
        "offset": constant * scale + module.norm_shift,
    }
    division = _blocks(module.group.argmax(0)[kept, None])[:, :, 0].astype(np.int32)
    whole = {name: np.ascontiguousarray(part, np.float32) for name, part in parts.items()}
    return PackedLayer(division=division, **whole)


def pack_dense(weights: Mapping[str, NDArray[Any]], modules: Sequence[str]) -> list[PackedLayer]:
    """Scales and offsets of a whole network, whose weights lie elsewhere: no components.

    Args:
        weights: `<module>.{weight,bias}`, and `<module>.norm_{scale,shift}` where there is a norm.
        modules: of the tower, in its order.

    Raises:
        KeyError: a module's weights are missing.
    """
    return [_bare(module, weights) for module in modules]


def _bare(module: str, weights: Mapping[str, NDArray[Any]]) -> PackedLayer:
    (d, k), bias = weights[f"{module}.weight"].shape, weights[f"{module}.bias"].astype(np.float64)
    scale = weights.get(f"{module}.norm_scale", np.ones(d)).astype(np.float64)
    offset = bias * scale + weights.get(f"{module}.norm_shift", np.zeros(d))

    def none(*shape: int) -> Floats:
        return np.zeros(shape, np.float32)

    return PackedLayer(
        down=none(0, BLOCK, k),
        up=none(0, BLOCK, d),
        key=none(0, BLOCK, 0),
        division=np.zeros((0, BLOCK), np.int32),
        query=none(0, BLOCK, k),
        query_shift=none(0),
        key_shift=none(1, 0),
        shift=none(0, d),
        scale=scale.astype(np.float32),
        offset=offset.astype(np.float32),
    )


def query_bytes(layers: Sequence[PackedLayer]) -> bytes:
    """What tells the queries of one fusion from those of another; empty where no layer has any."""
    if not any(len(layer.query) for layer in layers):
        return b""
    return bytes(len(layer.query) for layer in layers) + b"".join(layer.query.tobytes() for layer in layers)


def _blocks(rows: NDArray[Any]) -> NDArray[Any]:
    """(n, width) as (ceil(n / 16), 16, width), zeros at the end."""
    n, width = rows.shape
    blocks = -(-n // BLOCK)
    padded = np.zeros((blocks * BLOCK, width), rows.dtype)
    padded[:n] = rows
    return padded.reshape(blocks, BLOCK, width)


def _widened(rows: NDArray[Any]) -> NDArray[Any]:
    """The last axis filled with zeros to a multiple of 16."""
    n = rows.shape[-1]
    return np.pad(rows, [(0, 0)] * (rows.ndim - 1) + [(0, -n % BLOCK)])
