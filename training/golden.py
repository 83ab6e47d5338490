"""Golden rows: inputs and the logits that the network gives for them in float64, from the tensors as stored.

They come from the network's literal form, never from folding, so that a reader's fold is held to something else.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from network.backbone import Backbone
from network.fused import FusedTower
from network.lora import DomainAdapter

BACKBONE_ROWS = 64
ADAPTER_ROWS = 32
MAX_ROWS = 256

Dtype = Literal["float16", "float32"]
_ROUNDED = ("down", "up", "query", "key")


@dataclass(frozen=True)
class GoldenRows:
    """Rows of one artifact.

    Args:
        positions: (n,) int64, rows of the data set whose inputs they take.
        domains: (n, divisions) int64, the domains that they are scored in, natural first; -1 is none.
    """

    positions: NDArray[np.int64]
    domains: NDArray[np.int64]


def stored(tensors: Mapping[str, Tensor], dtype: Dtype) -> dict[str, Tensor]:
    """Return tensors as an artifact holds them: down, up, query and key in `dtype`, the rest float32."""
    low = torch.float16 if dtype == "float16" else torch.float32
    return {
        name: value.to(low if name.rsplit(".", 1)[-1] in _ROUNDED else torch.float32) for name, value in tensors.items()
    }


def exact_backbone(backbone: Backbone) -> Backbone:
    """Return a float64 copy."""
    return copy.deepcopy(backbone).double().freeze()


def exact_adapter(adapter: DomainAdapter, dtype: Dtype) -> DomainAdapter:
    """Return a float64 copy of an adapter as its artifact holds it."""
    exact = copy.deepcopy(adapter).double().eval()
    exact.load_tensors(stored(adapter.tensors(), dtype))
    return exact


def exact_tower(tower: FusedTower, dtype: Dtype) -> FusedTower:
    """Return a float64 copy of a mode's tower as its artifacts hold it."""
    exact = copy.deepcopy(tower).double().eval()
    for adapter in exact.adapters():
        adapter.load_tensors(stored(adapter.tensors(), dtype))
    if exact.fusion is not None:
        exact.fusion.load_tensors(stored(exact.fusion.tensors(), dtype))
    return exact


def spread(positions: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Return n of these positions, evenly apart; repeated where there are fewer than n."""
    return positions[np.linspace(0, len(positions) - 1, n).round().astype(np.int64)]


def over_combinations(
    positions: NDArray[np.int64],
    natural: int,
    auxiliary: Sequence[Sequence[int]],
    rows: int = ADAPTER_ROWS,
    times: int = 1,
) -> GoldenRows:
    """Spread golden rows over all combinations of auxiliary domains, the masked ones included.

    A row's auxiliary domains are assigned, not its own: all combinations are to be held, also those without rows.

    Args:
        positions: rows of the data set to choose from, at least one.
        natural: position of the natural domain.
        auxiliary: for each auxiliary division the positions of its pinned domains.
        rows: how many, at least; more where there are more combinations, up to `MAX_ROWS`.
        times: how often each combination is to stand there, as far as `MAX_ROWS` allows.
    """
    combinations = np.array(list(itertools.product([natural], *([*found, -1] for found in auxiliary))), np.int64)
    n = min(max(rows, times * len(combinations)), MAX_ROWS)
    return GoldenRows(spread(positions, n), combinations[np.arange(n) % len(combinations)])


def as_float64(logits: Tensor) -> NDArray[np.float64]:
    """Return logits as an artifact holds them."""
    return logits.detach().double().numpy()
