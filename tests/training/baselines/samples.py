"""A small shape, rows of three domains, and baselines whose every tensor is random."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from network.inputs import Batch, FieldShape, NetworkShape
from network.norm import DomNorm
from training.baselines.baseline import Baseline
from training.baselines.table import build_baseline

DOMAINS = 3
FIELDS = (
    FieldShape("user", "sparse", 9),
    FieldShape("age", "dense"),
    FieldShape("item", "sparse", 7),
    FieldShape("tags", "multi_hot", 6),
)
SETTINGS: dict[str, dict[str, Any]] = {
    "shared_bottom": {},
    "mmoe": {"experts": 3},
    "cgc": {"own_experts": 2, "shared_experts": 1},
    "ple": {"own_experts": 2, "shared_experts": 1, "levels": 3},
    "star": {"norm_at": "both", "auxiliary": [5]},
    "hamur": {"cells": [0, -1], "bottleneck": 5, "rank": 3, "hyper": [6, 4]},
    "plate": {"prompt": 3, "user_fields": ["user", "age"], "generator": [6]},
}
"""Every baseline with settings that leave no part of it out."""


def shape(norm: bool = True, tower: tuple[int, ...] = (8, 6), dropout: float = 0.0) -> NetworkShape:
    """The small shape."""
    return NetworkShape(FIELDS, width=4, tower=tower, dropout=dropout, norm=norm)


def rows(n: int, seed: int = 0) -> tuple[Batch, Tensor]:
    """Random rows and their domains, every domain among the first three."""
    draw = torch.Generator().manual_seed(seed)
    sparse = torch.stack([torch.randint(0, size, (n,), generator=draw) for size in (9, 7)], dim=1)
    tags = torch.randint(-1, 6, (n, 3), generator=draw)
    domain = torch.randint(0, DOMAINS, (n,), generator=draw)
    domain[:DOMAINS] = torch.arange(DOMAINS)[:n]
    return Batch(sparse, torch.randn(n, 1, generator=draw), {"tags": tags}), domain


def drawn(name: str, seed: int = 0, **changes: Any) -> Baseline:
    """A baseline in float64 and eval mode with random weights and moments."""
    baseline = build_baseline(name, shape(**changes), DOMAINS, SETTINGS[name]).double().eval()
    randomise(baseline, seed)
    return baseline


@torch.no_grad()
def randomise(network: nn.Module, seed: int = 0) -> None:
    """Draw every parameter and every running moment anew."""
    draw = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        width = parameter.shape[-1] if parameter.ndim > 1 else 1
        parameter.normal_(0.0, 0.8 / width**0.25, generator=draw)
    for module in network.modules():
        if isinstance(module, DomNorm):
            module.mean.normal_(0.0, 0.5, generator=draw)
            module.var.uniform_(0.5, 2.0, generator=draw)
