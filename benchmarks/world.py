"""The benchmark's world: a MovieLens-shaped backbone with random weights, 32 fused domains, 32 requests of 100 items.

Speed depends on shapes, not on what the weights learned; every contender's logits are checked against the literal
network in float64 before anything is timed.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from adapters_store.artifact import Adapter, Fusion
from adapters_store.backbone import Backbone as Bundle
from adapters_store.backbone import read_bundle, write_bundle
from adapters_store.folding import Folded, fold_adapter
from adapters_store.manifest import AdapterManifest, BackboneManifest, FusionManifest
from adapters_store.tensors import write_tensors
from features.fields import Field
from features.index import RawIndex
from features.lookup import EmbeddingLookup
from features.rows import EncodedRows
from features.vocabulary import Vocabulary
from network.backbone import Backbone
from network.fused import FusedTower
from network.fusion import Fusion as FusionModule
from network.inputs import FieldShape, NetworkShape
from network.lora import DomainAdapter, domain_generator
from network.norm import DomNorm
from network.onnx_export import export_scoring

SPARSE = {"user_id": 6041, "movie_id": 3707, "gender": 3, "occupation": 22, "zip": 3440, "genre": 19, "age_domain": 33}
RANKS = (8, 8)
DOMAINS = 32
ITEMS = 100
REVISION = "0" * 64

ModuleT = TypeVar("ModuleT", bound=torch.nn.Module)


@dataclass(frozen=True)
class World:
    """What every contender is given.

    Args:
        network: the backbone in torch, frozen.
        tower: 32 natural and 2 auxiliary adapters, their fusion, one norm for each pair in use.
        bundle: the same backbone as the service reads it.
        requests: encoded rows of each request; request i is of natural domain i and auxiliary domain i % 2.
    """

    network: Backbone
    tower: FusedTower
    bundle: Bundle
    requests: tuple[EncodedRows, ...]

    @property
    def lookup(self) -> EmbeddingLookup:
        """The step from rows to vectors, which every contender's time includes."""
        return EmbeddingLookup(self.bundle.manifest.fields, self.bundle.weights)

    def rows(self) -> EncodedRows:
        """All requests' rows, one after the other."""
        return EncodedRows.concatenate(self.requests)

    def folded(self) -> list[Folded]:
        """Each request's fold, by the code that serves."""
        auxiliaries = {f"aux-{j}": self._artifact("aux", 1, j, {}, []) for j in range(2)}
        fusion = Fusion(REVISION, _fusion_manifest(self.bundle.fingerprint), _arrays(self._fusion().tensors()), 0)
        return [self._fold(i, auxiliaries, fusion) for i in range(DOMAINS)]

    def literal_logits(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Logits (3200,) in float64: fused, and of the backbone alone."""
        network, tower = _double(self.network), _double(self.tower)
        vectors = self.lookup.vectors(self.rows())
        x = torch.from_numpy(np.concatenate(list(vectors.values()), axis=1)).double()
        parts = []
        for i, rows in enumerate(x.view(DOMAINS, ITEMS, -1)):
            layer = tower.bound(torch.tensor([[i, i % 2]]).expand(len(rows), 2))
            parts.append(network.score(rows, layer))
        return torch.cat(parts).detach().numpy(), network.score(x).detach().numpy()

    def _fusion(self) -> FusionModule:
        assert self.tower.fusion is not None
        return self.tower.fusion

    def _fold(self, i: int, auxiliaries: dict[str, Adapter], fusion: Fusion) -> Folded:
        combination = (f"aux-{i % 2}",)
        pinned = {combination[0]: auxiliaries[combination[0]]}
        adapter = self._artifact("natural", 0, i, dict.fromkeys(pinned, REVISION), [combination])
        return fold_adapter(self.bundle, adapter, pinned, fusion, combination)

    def _artifact(
        self, prefix: str, division: int, domain: int, fuses: dict[str, str], pairs: Sequence[tuple[str]]
    ) -> Adapter:
        tensors = self.tower.adapter(division, domain).tensors()
        content: dict[str, Any] = {"kind": "lora", "domain": f"{prefix}-{domain}", "division": prefix}
        if pairs:
            for level, norm in enumerate(self.tower.norms_of((domain, domain % 2))):
                tensors |= {f"pair.0.tower.{level}.norm.{key}": value for key, value in norm.state_dict().items()}
            content |= {"kind": "fused", "mode": "attention", "auxiliary": ["aux"], "fuses": fuses, "fusion": REVISION}
            content |= {"pairs": [{"domains": list(p)} for p in pairs], "golden_divisions": {"aux": ["aux-0", "aux-1"]}}
        ranks = {f"tower.{level}": rank for level, rank in enumerate(RANKS)}
        manifest = AdapterManifest.model_validate({**content, "fingerprint": self.bundle.fingerprint, "ranks": ranks})
        return Adapter(REVISION, manifest, _arrays(tensors), 0)


def make_world(folder: Path, seed: int = 0) -> World:
    """Draw a world.

    Args:
        folder: where its bundle is written.
        seed: of all weights and rows.
    """
    torch.manual_seed(seed)
    fields = [
        Field(
            name=name,
            kind="sparse",
            of="item" if name in ("movie_id", "genre") else "user",
            vocabulary_size=n,
            width=16,
        )
        for name, n in SPARSE.items()
    ]
    fields.append(Field(name="age", kind="dense", of="user"))
    shape = NetworkShape(
        tuple(FieldShape(field.name, field.kind, field.vocabulary_size) for field in fields), embedding_std=1.0
    )
    network = Backbone(shape).freeze()
    _shake(network.plain.norms)
    tower = _tower(network)
    words = Vocabulary({name: RawIndex.from_values(range(1, n)) for name, n in SPARSE.items()})
    files = {
        "weights.safetensors": write_tensors(_arrays(network.weights()), {"content": "weights"}),
        "vocabulary.safetensors": write_tensors(words.to_tensors(), {"content": "vocabulary"}),
        "scoring.onnx": export_scoring(network),
    }
    write_bundle(folder, BackboneManifest(fields=fields, tower=list(shape.tower)), files)
    rng = np.random.default_rng(seed)
    return World(network, tower, read_bundle(folder), tuple(_request(rng) for _ in range(DOMAINS)))


@torch.no_grad()
def _tower(network: Backbone) -> FusedTower:
    adapters = []
    for division, size in (("natural", DOMAINS), ("aux", 2)):
        found = {}
        for i in range(size):
            source = domain_generator(0, division, str(i))
            adapter = DomainAdapter.untrained(network, RANKS, source).eval()
            for lora in adapter.lora_modules():
                lora.up.normal_(0.0, 0.3, generator=source)
                lora.shift.normal_(0.0, 0.1, generator=source)
            _shake(adapter.norms)
            found[i] = adapter
        adapters.append(found)
    tower = FusedTower(network, adapters, "attention", FusionModule(network.shape, RANKS))
    for i in range(DOMAINS):
        tower.add_norms((i, i % 2))
    return tower.requires_grad_(False).eval()


@torch.no_grad()
def _shake(norms: torch.nn.ModuleList) -> None:
    for norm in norms:
        assert isinstance(norm, DomNorm)
        for value in (norm.weight, norm.bias, norm.mean, norm.var):
            value.add_(0.2 * torch.rand_like(value))


def _request(rng: np.random.Generator) -> EncodedRows:
    """One user beside 100 items."""
    arrays: dict[str, NDArray[Any]] = {}
    for name, size in SPARSE.items():
        drawn = rng.integers(0, size, ITEMS if name in ("movie_id", "genre") else 1)
        arrays[name] = np.broadcast_to(drawn, ITEMS).astype(np.int32)
    arrays["age"] = np.full(ITEMS, rng.random(), np.float32)
    return EncodedRows(ITEMS, arrays)


def _fusion_manifest(fingerprint: str) -> FusionManifest:
    return FusionManifest(fingerprint=fingerprint, ranks={f"tower.{level}": rank for level, rank in enumerate(RANKS)})


def _arrays(tensors: dict[str, torch.Tensor]) -> dict[str, NDArray[Any]]:
    return {name: value.numpy() for name, value in tensors.items()}


def _double(module: ModuleT) -> ModuleT:
    return copy.deepcopy(module).double()
