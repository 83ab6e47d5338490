"""Small random networks and batches."""

from __future__ import annotations

import torch
from torch import Tensor

from network.backbone import Backbone
from network.fused import FusedTower
from network.fusion import Fusion, Mode
from network.inputs import Batch, FieldShape, NetworkShape
from network.lora import DomainAdapter, domain_generator

SHAPE = NetworkShape(
    fields=(
        FieldShape("user", "sparse", 9),
        FieldShape("tags", "multi_hot", 6),
        FieldShape("age", "dense"),
        FieldShape("item", "sparse", 7),
        FieldShape("genre", "sparse", 4),
        FieldShape("price", "dense"),
    ),
    width=3,
    tower=(20, 12),
    embedding_std=1.0,
)
RANKS = (4, 3)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch_of(n: int, seed: int = 0) -> Batch:
    """Random rows, among them out-of-vocabulary values, short lists and empty lists."""
    g = generator(seed)
    sparse = torch.stack([torch.randint(0, rows, (n,), generator=g, dtype=torch.int32) for rows in (9, 7, 4)], dim=1)
    lists = torch.randint(-1, 6, (n, 4), generator=g, dtype=torch.int32)
    return Batch(sparse, torch.rand((n, 2), generator=g), {"tags": lists})


@torch.no_grad()
def backbone_of(seed: int = 0, shape: NetworkShape = SHAPE) -> Backbone:
    """A frozen backbone whose every tensor is drawn."""
    g = generator(seed)
    backbone = Backbone(shape).freeze()
    drawn = {}
    for name, value in backbone.weights().items():
        noise = torch.randn(value.shape, generator=g)
        drawn[name] = noise.abs() + 0.5 if name.endswith("norm.var") else noise / value.shape[-1] ** 0.5
        if name.endswith("norm.weight"):
            drawn[name] = 1 + 0.2 * noise
    backbone.load_weights(drawn)
    return backbone


@torch.no_grad()
def adapter_of(backbone: Backbone, division: str, domain: str, ranks: tuple[int, ...] = RANKS) -> DomainAdapter:
    """An adapter in eval mode with nothing left at its start."""
    g = domain_generator(1, division, domain)
    adapter = DomainAdapter.untrained(backbone, ranks, g)
    for lora in adapter.lora_modules():
        lora.up.normal_(0.0, 0.5, generator=g)
        lora.shift.normal_(0.0, 0.3, generator=g)
    for norm in adapter.dom_norms():
        for value in (norm.weight, norm.bias, norm.mean, norm.var):
            value.add_(0.1 * torch.rand(value.shape, generator=g))
    return adapter.requires_grad_(False).eval()


def tower_of(
    backbone: Backbone, mode: Mode = "attention", sizes: tuple[int, ...] = (3, 2), **fusion: object
) -> FusedTower:
    """Divisions of these many domains, adapters of different ranks, norms for every pair with natural domain 0."""
    adapters = [
        {i: adapter_of(backbone, f"division-{j}", str(i), (RANKS[0] - j % 2, RANKS[1] + i % 2)) for i in range(size)}
        for j, size in enumerate(sizes)
    ]
    shared = Fusion(backbone.shape, (3, 2), generator=generator(5), **fusion) if mode == "attention" else None  # type: ignore[arg-type]
    tower = FusedTower(backbone, adapters, mode, shared)
    for auxiliary in range(sizes[1]):
        tower.add_norms((0, auxiliary, *[-1] * (len(sizes) - 2)))
    return tower.eval()


def domains_of(n: int, sizes: tuple[int, ...] = (3, 2), seed: int = 3) -> Tensor:
    """Random tuples of domains, missing ones among them; the natural one is always there."""
    g = generator(seed)
    columns = [torch.randint(-1 if j else 0, size, (n,), generator=g) for j, size in enumerate(sizes)]
    return torch.stack(columns, dim=1)
