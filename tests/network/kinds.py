"""Small backbones of every kind, with every sort of field."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from network.backbone import Backbone
from network.fused import FusedTower
from network.fusion import Fusion, Mode
from network.inputs import Batch, FieldShape, Kind, NetworkShape
from network.kinds.table import KINDS
from network.lora import DomainAdapter, domain_generator
from tests.network.samples import SHAPE, backbone_of, batch_of, generator

ALL: tuple[Kind, ...] = tuple(KINDS)
CASES = [(kind, norm) for kind in ALL for norm in (True, False)]
PICTURE = FieldShape("picture", "sparse", 11, given_width=5)


def shape_of(kind: Kind, norm: bool = True) -> NetworkShape:
    """A small shape; one field brings its own vectors."""
    return replace(
        SHAPE,
        fields=(*SHAPE.fields[:3], PICTURE, *SHAPE.fields[3:]),
        kind=kind,
        norm=norm,
        cross_layers=2,
        attention_layers=2,
        heads=2,
        head_width=3,
    )


def rows_of(n: int, seed: int = 0) -> Batch:
    """Random rows of `shape_of`'s fields."""
    batch = batch_of(n, seed)
    picture = torch.randint(0, 11, (n, 1), generator=generator(seed + 1), dtype=torch.int32)
    return Batch(torch.cat([batch.sparse[:, :1], picture, batch.sparse[:, 1:]], dim=1), batch.dense, batch.multi_hot)


def drawn(kind: Kind, norm: bool = True, seed: int = 0) -> Backbone:
    """A frozen backbone whose every tensor is drawn, given vectors included."""
    return backbone_of(seed, shape_of(kind, norm))


def ranks_of(shape: NetworkShape, rank: int = 2) -> tuple[int, ...]:
    """One rank for each adaptable module."""
    return tuple(rank + i % 2 for i in range(len(shape.modules)))


@torch.no_grad()
def adapter_of(backbone: Backbone, division: str, domain: str, ranks: tuple[int, ...] | None = None) -> DomainAdapter:
    """An adapter in eval mode with nothing left at its start."""
    g = domain_generator(1, division, domain)
    adapter = DomainAdapter.untrained(backbone, ranks or ranks_of(backbone.shape), g)
    for lora in adapter.lora_modules():
        lora.up.normal_(0.0, 0.4, generator=g)
        lora.shift.normal_(0.0, 0.3, generator=g)
    for norm in adapter.dom_norms():
        for value in (norm.weight, norm.bias, norm.mean, norm.var):
            value.add_(0.1 * torch.rand(value.shape, generator=g))
    return adapter.requires_grad_(False).eval()


def tower_of(backbone: Backbone, mode: Mode, ranks: tuple[int, ...] | None = None) -> FusedTower:
    """Two divisions of two domains, norms for the pair (0, 0) where the backbone has norms."""
    ranks = ranks or ranks_of(backbone.shape)
    adapters = [{i: adapter_of(backbone, f"division-{j}", str(i), ranks) for i in range(2)} for j in range(2)]
    fusion = Fusion(backbone.shape, ranks, generator=generator(5)) if mode == "attention" else None
    tower = FusedTower(backbone, adapters, mode, fusion)
    tower.add_frequent_norms(torch.zeros((300, 2), dtype=torch.int64))
    return tower.eval()


def domains_of(n: int) -> Tensor:
    """Random pairs of domains, missing ones among them."""
    g = generator(7)
    return torch.stack([torch.randint(0, 2, (n,), generator=g), torch.randint(-1, 2, (n,), generator=g)], dim=1)
