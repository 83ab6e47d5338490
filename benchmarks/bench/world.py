"""A backbone of some shape, its domains' artifacts with random tensors, and requests.

Speed depends on shapes, not on what weights learned. Artifacts are those of the store, and `adapters_store.folding`
folds them as it does for the service. Weights are drawn so that activations stay near 1 through the tower.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapters_store.artifact import Adapter, Fusion
from adapters_store.backbone import Backbone
from adapters_store.folding import Folded, fold_adapter, fold_backbone
from adapters_store.manifest import AdapterManifest, BackboneManifest, FusionManifest
from adapters_store.tensors import write_tensors
from benchmarks.bench.shapes import WIDTH, Shape
from features.fields import Field
from features.lookup import EmbeddingLookup
from features.rows import EncodedRows

Array = NDArray[Any]
NONE = "0" * 64
AUXILIARIES = ("aux-0", "aux-1")


@dataclass(frozen=True)
class World:
    """One shape's backbone, artifacts and requests.

    Args:
        shape: of it.
        backbone: as the service reads it, without a graph.
        requests: encoded rows; request i is of domain i.
        naturals: one fused adapter a request; domain i is fused with auxiliary domain i % 2.
        plain: the same LoRAs and the domain's own norms without fusion, one a request.
        auxiliaries: by domain.
        fusion: of all.
    """

    shape: Shape
    backbone: Backbone
    requests: tuple[EncodedRows, ...]
    naturals: tuple[Adapter, ...]
    plain: tuple[Adapter, ...]
    auxiliaries: Mapping[str, Adapter]
    fusion: Fusion

    @property
    def rows(self) -> int:
        """Of all requests."""
        return sum(rows.n for rows in self.requests)

    @cached_property
    def lookup(self) -> EmbeddingLookup:
        """The step from rows to vectors."""
        return EmbeddingLookup(self.backbone.manifest.fields, self.backbone.weights)

    def vectors(self) -> dict[str, NDArray[np.float32]]:
        """Of all requests' rows, by graph input; gathered anew at each call, as everyone's time includes it."""
        return self.lookup.vectors(EncodedRows.concatenate(self.requests))

    @cached_property
    def multi(self) -> tuple[Folded, ...]:
        """Each request's fold: two divisions fused by attention."""
        return tuple(
            fold_adapter(self.backbone, adapter, self.auxiliaries, self.fusion, (auxiliary_of(i),))
            for i, adapter in enumerate(self.naturals)
        )

    @cached_property
    def single(self) -> tuple[Folded, ...]:
        """Each request's fold: one division."""
        return tuple(fold_adapter(self.backbone, adapter, {}, None, ()) for adapter in self.plain)

    @cached_property
    def alone(self) -> tuple[Folded, ...]:
        """The backbone's own fold for each request."""
        return (fold_backbone(self.backbone),) * len(self.requests)

    @cached_property
    def with_graph(self) -> Backbone:
        """The backbone with the graph that the `onnx` engine runs."""
        from benchmarks.bench.exported import graph_of  # torch takes seconds to import, and few need it

        manifest = self.backbone.manifest
        graph = graph_of(self.shape, manifest.fields, self.backbone.weights)
        return Backbone(self.backbone.revision, manifest, {**self.backbone.files, "scoring.onnx": graph})


def auxiliary_of(domain: int) -> str:
    """Whom natural domain i is fused with."""
    return AUXILIARIES[domain % 2]


def make_world(shape: Shape, requests: int, items: int, seed: int = 0) -> World:
    """Draw a world."""
    rng = np.random.default_rng(seed)
    fields = shape.fields()
    weights = draw_weights(rng, shape, fields)
    manifest = BackboneManifest(fields=fields, tower=list(shape.tower), fingerprint=NONE)
    backbone = Backbone(NONE, manifest, {"weights.safetensors": write_tensors(weights, {"content": "weights"})})
    naturals, plain = [], []
    for i in range(requests):
        loras = draw_loras(rng, shape)
        pair = {f"pair.0.{name}": value for name, value in draw_norms(rng, shape).items()}
        naturals.append(_adapter(shape, f"natural-{i}", {**loras, **pair}, auxiliary_of(i)))
        plain.append(_adapter(shape, f"natural-{i}", loras))
    return World(
        shape=shape,
        backbone=backbone,
        requests=tuple(draw_request(rng, fields, items) for _ in range(requests)),
        naturals=tuple(naturals),
        plain=tuple(plain),
        auxiliaries={name: _adapter(shape, name, draw_loras(rng, shape)) for name in AUXILIARIES},
        fusion=Fusion(NONE, FusionManifest(fingerprint=NONE, ranks=ranks_of(shape)), draw_fusion(rng, shape), 0),
    )


def draw_weights(rng: np.random.Generator, shape: Shape, fields: Sequence[Field]) -> dict[str, Array]:
    """Tensors of `weights.safetensors`."""
    weights = {
        f"embedding.{field.name}": _normal(rng, 1.0, field.vocabulary_size, WIDTH)
        for field in fields
        if field.kind == "sparse"
    }
    widths = (shape.inputs, *shape.tower)
    for level, (k, d) in enumerate(pairwise(widths)):
        module = f"tower.{level}"
        weights |= {f"{module}.weight": _normal(rng, k**-0.5, d, k), f"{module}.bias": _normal(rng, 0.1, d)}
    weights |= draw_norms(rng, shape)
    last = widths[-1]
    return weights | {"output.weight": _normal(rng, last**-0.5, 1, last), "output.bias": _normal(rng, 0.1, 1)}


def draw_norms(rng: np.random.Generator, shape: Shape) -> dict[str, Array]:
    """`<module>.norm.*` of every layer."""
    bases = {"weight": 1.2, "bias": 0.0, "mean": 0.0, "var": 0.8}
    return {
        f"tower.{level}.norm.{part}": (base + 0.2 * rng.random(d)).astype(np.float32)
        for level, d in enumerate(shape.tower)
        for part, base in bases.items()
    }


def draw_loras(rng: np.random.Generator, shape: Shape) -> dict[str, Array]:
    """Tensors of one adapter, its own norms included."""
    tensors: dict[str, Array] = {}
    for level, (k, d) in enumerate(pairwise((shape.inputs, *shape.tower))):
        r, module = shape.ranks[level], f"tower.{level}"
        tensors[f"{module}.down"] = _normal(rng, k**-0.5, r, k)
        tensors[f"{module}.up"] = _normal(rng, 0.3 * r**-0.5, d, r)
        tensors[f"{module}.scale"] = 1.0 + _normal(rng, 0.1, d)
        tensors[f"{module}.shift"] = _normal(rng, 0.1, d)
    return tensors | draw_norms(rng, shape)


def draw_fusion(rng: np.random.Generator, shape: Shape) -> dict[str, Array]:
    """`fusion.<module>.query` and `.key` (rf, d)."""
    return {
        f"fusion.tower.{level}.{name}": _normal(rng, spread * d**-0.5, shape.ranks[level], d)
        for level, d in enumerate(shape.tower)
        for name, spread in (("query", 1.0), ("key", 3.0))
    }


def draw_request(rng: np.random.Generator, fields: Sequence[Field], items: int) -> EncodedRows:
    """One user beside some items."""
    arrays: dict[str, Array] = {}
    for field in fields:
        n = items if field.of == "item" else 1
        drawn = (
            rng.random(n).astype(np.float32)
            if field.kind == "dense"
            else rng.integers(0, field.vocabulary_size, n).astype(np.int32)
        )
        arrays[field.name] = np.repeat(drawn, items // n)
    return EncodedRows(items, arrays)


def ranks_of(shape: Shape) -> dict[str, int]:
    """Rank by module."""
    return {f"tower.{level}": rank for level, rank in enumerate(shape.ranks)}


def _adapter(shape: Shape, domain: str, tensors: dict[str, Array], auxiliary: str | None = None) -> Adapter:
    content: dict[str, Any] = {"kind": "lora", "domain": domain, "division": domain.split("-")[0]}
    if auxiliary is not None:
        content |= {"kind": "fused", "mode": "attention", "auxiliary": ["aux"], "fuses": {auxiliary: NONE}}
        content |= {"fusion": NONE, "pairs": [{"domains": [auxiliary]}], "golden_divisions": {"aux": [*AUXILIARIES]}}
    manifest = AdapterManifest.model_validate({**content, "fingerprint": NONE, "ranks": ranks_of(shape)})
    return Adapter(NONE, manifest, tensors, 0)


def _normal(rng: np.random.Generator, spread: float, *shape: int) -> NDArray[np.float32]:
    return rng.normal(0.0, spread, shape).astype(np.float32)
