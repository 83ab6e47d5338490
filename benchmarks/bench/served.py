"""A run folder of some shape as `espalier publish` takes it: bundle, tables, fusion, adapters with golden rows.

Tensors are random; the golden logits are those of the float64 oracle, so that every replica's verification holds.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapters_store.artifact import encode_adapter, encode_fusion
from adapters_store.backbone import read_bundle, write_bundle
from adapters_store.folding import fold_backbone
from adapters_store.manifest import AdapterManifest, BackboneManifest, FusionManifest
from adapters_store.tensors import write_tensors
from benchmarks.bench.exported import graph_of
from benchmarks.bench.graphs import plain_graph
from benchmarks.bench.shapes import Shape
from benchmarks.bench.world import (
    AUXILIARIES,
    draw_fusion,
    draw_loras,
    draw_norms,
    draw_weights,
    ranks_of,
)
from benchmarks.forge import Run, digest
from benchmarks.oracle import Oracle
from benchmarks.oracle_files import AdapterFile
from features.fields import Division, Field
from features.index import RawIndex
from features.rows import EncodedRows
from features.tables import FeatureTable
from features.vocabulary import Vocabulary

Array = NDArray[Any]
USERS, ITEMS = 500, 20_000
GOLDEN_BACKBONE, GOLDEN_ADAPTER = 64, 32
CREATED = "2026-01-01T00:00:00Z"
HALF = ("down", "up", "query", "key")


def domain(number: int) -> str:
    """A natural domain."""
    return f"domain-{number:05d}"


def make_run(folder: Path, shape: Shape, domains: int, seed: int = 0) -> Run:
    """Write a run folder; one that is there already is taken as it is."""
    if not (folder / "complete").exists():
        shutil.rmtree(folder, ignore_errors=True)
        rng = np.random.default_rng(seed)
        _write_bundle(folder, rng, shape, domains)
        oracle = Oracle(folder / "bundle")
        (folder / "adapters").mkdir()
        fusion = _fusion(rng, shape, oracle)
        (folder / "fusion.safetensors").write_bytes(fusion)
        auxiliaries = {name: _auxiliary(rng, shape, oracle, name) for name in AUXILIARIES}
        for name, body in auxiliaries.items():
            (folder / "adapters" / f"{name}.safetensors").write_bytes(body)
        for number in range(domains):
            body = _natural(rng, shape, oracle, domain(number), auxiliaries, fusion)
            (folder / "adapters" / f"{domain(number)}.safetensors").write_bytes(body)
        (folder / "complete").touch()
    return Run(folder)


def make_plain_bundle(run: Run, folder: Path) -> Path:
    """The run's bundle with the plain backbone for its graph, which takes an adapter's inputs and passes them over.

    So the same service answers with the plain backbone in ONNX Runtime: norms in its weights, no low-rank columns.
    """
    backbone = read_bundle(run.folder / "bundle")
    names = ("weights", "vocabulary", "users", "items", "golden")
    files = {f"{name}.safetensors": backbone.file(f"{name}.safetensors") for name in names}
    modules = fold_backbone(backbone).modules
    passed_over = {
        f"{module}.{name}": tuple(f"{module}.{name}.{axis}" for axis in range(array.ndim))
        for module, parts in modules.items()
        for name, array in parts.arrays().items()
    }
    write_bundle(folder, backbone.manifest, files | {"scoring.onnx": plain_graph(backbone, passed_over)})
    return folder


def _write_bundle(folder: Path, rng: np.random.Generator, shape: Shape, domains: int) -> None:
    fields = shape.fields()
    weights = draw_weights(rng, shape, fields)
    words = {f.name: RawIndex.from_values(range(1, f.vocabulary_size)) for f in fields if f.kind == "sparse"}
    users = _table(rng, [f for f in fields if f.of == "user"], USERS, {"aux": np.arange(USERS, dtype=np.int32) % 2})
    items = _table(rng, [f for f in fields if f.of == "item"], ITEMS, {})
    natural = {"name": "theme", "natural": True, "of": "domain", "domains": [domain(i) for i in range(domains)]}
    auxiliary = {"name": "aux", "natural": False, "of": "user", "rule": "by hand", "domains": AUXILIARIES}
    divisions = [Division.model_validate(each) for each in (natural, auxiliary)]
    manifest = BackboneManifest(fields=fields, tower=list(shape.tower), divisions=divisions)
    tensors: dict[str, Mapping[str, Array]] = {"weights": weights, "vocabulary": Vocabulary(words).to_tensors()}
    tensors |= {"users": users.tensors(), "items": items.tensors()}
    files = {f"{name}.safetensors": write_tensors(found, {"content": name}) for name, found in tensors.items()}
    files["scoring.onnx"] = graph_of(shape, fields, weights)
    golden = _rows(rng, fields, GOLDEN_BACKBONE).to_tensors("inputs")

    def with_logits(logits: Array) -> dict[str, bytes]:
        return files | {"golden.safetensors": write_tensors({**golden, "logits": logits}, {"content": "golden"})}

    write_bundle(folder / "draft", manifest, with_logits(np.zeros(GOLDEN_BACKBONE)))
    oracle = Oracle(folder / "draft")
    write_bundle(folder / "bundle", manifest, with_logits(oracle.logits(oracle.golden_vectors(golden))))
    shutil.rmtree(folder / "draft")


def _table(rng: np.random.Generator, fields: list[Field], n: int, divisions: Mapping[str, Array]) -> FeatureTable:
    return FeatureTable(RawIndex.from_values(range(1, n + 1)), fields, _rows(rng, fields, n), divisions)


def _rows(rng: np.random.Generator, fields: list[Field], n: int) -> EncodedRows:
    drawn: dict[str, Array] = {
        f.name: rng.random(n).astype(np.float32)
        if f.kind == "dense"
        else rng.integers(0, f.vocabulary_size, n).astype(np.int32)
        for f in fields
    }
    return EncodedRows(n, drawn)


def _stored(tensors: Mapping[str, Array]) -> dict[str, Array]:
    """As they are published: the low-rank matrices in float16."""
    return {n: v.astype(np.float16) if n.rsplit(".", 1)[-1] in HALF else v for n, v in tensors.items()}


def _common(shape: Shape, oracle: Oracle, name: str, division: str) -> dict[str, Any]:
    fingerprint = oracle.manifest["fingerprint"]
    named = {"domain": name, "division": division, "fingerprint": fingerprint, "created_at": CREATED}
    return {**named, "ranks": ranks_of(shape)}


def _fusion(rng: np.random.Generator, shape: Shape, oracle: Oracle) -> bytes:
    manifest = FusionManifest(
        fingerprint=oracle.manifest["fingerprint"],
        ranks=ranks_of(shape),
        divisions=["theme", "aux"],
        created_at=CREATED,
    )
    return encode_fusion(manifest, _stored(draw_fusion(rng, shape)))


def _auxiliary(rng: np.random.Generator, shape: Shape, oracle: Oracle, name: str) -> bytes:
    content = {**_common(shape, oracle, name, "aux"), "kind": "lora", "mode": "single"}
    return _with_golden(rng, shape, oracle, content, _stored(draw_loras(rng, shape)), {}, None)


def _natural(
    rng: np.random.Generator,
    shape: Shape,
    oracle: Oracle,
    name: str,
    auxiliaries: Mapping[str, bytes],
    fusion: bytes,
) -> bytes:
    content = {
        **_common(shape, oracle, name, "theme"),
        "kind": "fused",
        "mode": "attention",
        "auxiliary": ["aux"],
        "pairs": [{"domains": [auxiliary], "rows": 1000} for auxiliary in auxiliaries],
        "fuses": {auxiliary: digest(body) for auxiliary, body in auxiliaries.items()},
        "fusion": digest(fusion),
        "golden_divisions": {"aux": list(auxiliaries)},
    }
    tensors = _stored(draw_loras(rng, shape))
    for pair in range(len(auxiliaries)):
        tensors |= {f"pair.{pair}.{part}": value for part, value in draw_norms(rng, shape).items()}
    files = {auxiliary: AdapterFile(body) for auxiliary, body in auxiliaries.items()}
    return _with_golden(rng, shape, oracle, content, tensors, files, AdapterFile(fusion))


def _with_golden(
    rng: np.random.Generator,
    shape: Shape,
    oracle: Oracle,
    content: Mapping[str, Any],
    tensors: dict[str, Array],
    auxiliaries: Mapping[str, AdapterFile],
    fusion: AdapterFile | None,
) -> bytes:
    """The artifact with golden rows over all combinations."""
    n = GOLDEN_ADAPTER
    tensors = tensors | _rows(rng, shape.fields(), n).to_tensors("golden.inputs")
    for division, domains in content.get("golden_divisions", {}).items():
        tensors[f"golden.division.{division}"] = (np.arange(n) % (len(domains) + 1) - 1).astype(np.int32)
    tensors["golden.logits"] = np.zeros(n)
    manifest = AdapterManifest.model_validate(content)
    draft = AdapterFile(encode_adapter(manifest, tensors))
    tensors["golden.logits"] = oracle.golden_logits(draft, auxiliaries, fusion)
    return encode_adapter(manifest, tensors)
