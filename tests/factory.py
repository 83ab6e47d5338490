"""Random but valid artifacts for tests: a folder like a finished training run, in a second instead of minutes.

Golden logits come from the float64 oracle, the graph from `network`, the bytes from `adapters_store`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from adapters_store.artifact import encode_adapter, encode_fusion
from adapters_store.backbone import write_bundle
from adapters_store.manifest import AdapterManifest, BackboneManifest, FusionManifest
from adapters_store.tensors import write_tensors
from benchmarks.forge import Run, digest
from benchmarks.oracle import Oracle
from benchmarks.oracle_files import AdapterFile, Array
from features.fields import Division, Field, Normalization
from features.index import RawIndex
from features.rows import EncodedRows
from features.tables import FeatureTable
from features.vocabulary import Vocabulary
from network.backbone import Backbone
from network.inputs import FieldShape, Kind, NetworkShape
from network.onnx_export import export_scoring
from network.onnx_export_dense import export_dense
from training.export import form_of

THEMES = ("theme-1", "theme-2", "theme-3", "theme-4")
SEGMENTS = ("segment-a", "segment-b", "segment-c")
SHELVES = ("shelf-x", "shelf-y")


@dataclass(frozen=True)
class Sizes:
    """How large the random world is.

    Args:
        by_item: add a second auxiliary division, `shelf`, of items (m = 3).
        dense: add the graph by which deltas are scored to the bundle.
        kind: of the backbone.
        norm: whether a norm follows each hidden layer.
        interaction_rank: LoRA rank of each linear map of the interaction.
        picture: add an item field with given vectors of another width.
        hashed: hash the vocabularies of `hour` and `tags` instead of listing them.
    """

    users: int = 40
    items: int = 120
    width: int = 4
    tower: tuple[int, ...] = (24, 16)
    ranks: tuple[int, ...] = (4, 3)
    fusion_rank: int = 3
    by_item: bool = False
    kind: Kind = "mlp"
    norm: bool = True
    interaction_rank: int = 2
    picture: bool = False
    hashed: bool = False
    dense: bool = False

    def shape(self, fields: Sequence[Field]) -> NetworkShape:
        """The backbone's shape; small widths, so that a graph is exported fast."""
        return NetworkShape(
            fields=tuple(FieldShape(f.name, f.kind, f.vocabulary_size, f.width if f.frozen else 0) for f in fields),
            width=self.width,
            tower=self.tower,
            kind=self.kind,
            norm=self.norm,
            cross_layers=2,
            attention_layers=2,
            heads=2,
            head_width=3,
        )


def make_run(folder: Path, seed: int = 0, sizes: Sizes | None = None) -> Run:
    """A run folder: bundle, fusion, adapters of every natural and auxiliary domain, ablations of every mode."""
    sizes = sizes or Sizes()
    rng = np.random.default_rng(seed)
    make_bundle(folder / "bundle", rng, sizes)
    oracle = Oracle(folder / "bundle")
    divisions = oracle.manifest["divisions"]
    (folder / "adapters").mkdir()
    auxiliaries = {}
    for division in [d for d in divisions if not d["natural"]]:
        for domain in division["domains"]:
            body = make_lora(oracle, rng, sizes, domain, division["name"])
            (folder / "adapters" / f"{domain}.safetensors").write_bytes(body)
            auxiliaries[domain] = AdapterFile(body)
    fusion = make_fusion(oracle, rng, sizes)
    (folder / "fusion.safetensors").write_bytes(fusion)
    run = Run(folder)
    for mode in ("attention", "add", "avg", "single"):
        (folder / "ablations" / mode).mkdir(parents=True)
        for domain in THEMES:
            body = make_natural(run, rng, sizes, domain, mode)
            (folder / "ablations" / mode / f"{domain}.safetensors").write_bytes(body)
            if mode == "attention":
                (folder / "adapters" / f"{domain}.safetensors").write_bytes(body)
    return run


def make_fields(sizes: Sizes) -> list[Field]:
    """Every kind of field and every origin."""
    e = sizes.width
    picture = Field(name="picture", kind="sparse", of="item", vocabulary_size=sizes.items - 9, width=5, frozen=True)
    return [
        *[picture] * sizes.picture,
        Field(name="user_id", kind="sparse", of="user", id=True, vocabulary_size=sizes.users - 4, width=e),
        Field(name="segment", kind="sparse", of="user", vocabulary_size=4, width=e),
        Field(name="item_id", kind="sparse", of="item", id=True, vocabulary_size=sizes.items - 9, width=e),
        Field(name="tags", kind="multi_hot", of="item", vocabulary_size=8, width=e),
        Field(
            name="price",
            kind="dense",
            of="item",
            normalization=Normalization(method="min_max", shift=1.0, scale=9.0),
            missing=0.4,
        ),
        Field(name="hour", kind="sparse", of="context", vocabulary_size=25, width=e),
        Field(
            name="age_days",
            kind="dense",
            of="context",
            normalization=Normalization(method="standard", shift=30.0, scale=12.0),
            missing=0.0,
        ),
        Field(name="theme", kind="sparse", of="domain", vocabulary_size=len(THEMES) + 1, width=e),
    ]


def make_vocabulary(sizes: Sizes) -> Vocabulary:
    """Integer and text vocabularies; a few of the tables' ids are left out of them."""
    items = RawIndex.from_values([f"item-{i}" for i in range(1, sizes.items - 9)])
    return Vocabulary(
        ({"picture": items} if sizes.picture else {})
        | {
            "user_id": RawIndex.from_values(range(1, sizes.users - 4)),
            "segment": RawIndex.from_values(["a", "b", "c"]),
            "item_id": items,
            "tags": RawIndex.of_buckets(7) if sizes.hashed else RawIndex.from_values([f"tag {i}" for i in range(7)]),
            "hour": RawIndex.of_buckets(24) if sizes.hashed else RawIndex.from_values(range(24)),
            "theme": RawIndex.from_values(THEMES),
        }
    )


def make_divisions(sizes: Sizes) -> list[Division]:
    """The natural division by theme, an auxiliary one by user segment, and perhaps one by item."""
    divisions = [
        Division(name="theme", natural=True, of="domain", field=None, rule=None, domains=list(THEMES)),
        Division(name="segment", natural=False, of="user", field="segment", rule=None, domains=list(SEGMENTS)),
    ]
    if sizes.by_item:
        divisions.append(
            Division(name="shelf", natural=False, of="item", field=None, rule="by hand", domains=list(SHELVES))
        )
    return divisions


def make_tables(rng: np.random.Generator, sizes: Sizes, vocabulary: Vocabulary) -> tuple[FeatureTable, FeatureTable]:
    """Users 1.. and items item-1..; one user in ten has no segment."""
    fields = make_fields(sizes)
    users = RawIndex.from_values(range(1, sizes.users + 1))
    segment = rng.integers(-1, 3, sizes.users).astype(np.int32)
    user_rows = {
        "user_id": vocabulary.rows("user_id", [users.raw(i) for i in range(len(users))]),
        "segment": (segment + 1).astype(np.int32),
    }
    items = RawIndex.from_values([f"item-{i}" for i in range(1, sizes.items + 1)])
    lengths = rng.integers(0, 4, sizes.items)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    item_rows = {
        "item_id": vocabulary.rows("item_id", [items.raw(i) for i in range(len(items))]),
        "tags.values": rng.integers(0, 8, offsets[-1]).astype(np.int32),
        "tags.offsets": offsets,
        "price": rng.random(sizes.items).astype(np.float32),
    }
    if sizes.picture:
        item_rows["picture"] = item_rows["item_id"]
    shelves = {"shelf": rng.integers(-1, 2, sizes.items).astype(np.int32)} if sizes.by_item else {}
    return (
        FeatureTable(
            users, [f for f in fields if f.of == "user"], EncodedRows(len(users), user_rows), {"segment": segment}
        ),
        FeatureTable(items, [f for f in fields if f.of == "item"], EncodedRows(len(items), item_rows), shelves),
    )


def make_bundle(folder: Path, rng: np.random.Generator, sizes: Sizes) -> str:
    """A bundle with random weights whose logits spread over a few units; its revision."""
    fields, vocabulary = make_fields(sizes), make_vocabulary(sizes)
    users, items = make_tables(rng, sizes, vocabulary)
    network = random_backbone(rng, sizes, fields)
    weights = {name: tensor.numpy() for name, tensor in network.weights().items()}
    rows = random_rows(rng, fields, 64)
    files = {
        "weights.safetensors": write_tensors(weights, {"content": "weights"}),
        "vocabulary.safetensors": write_tensors(vocabulary.to_tensors(), {"content": "vocabulary"}),
        "users.safetensors": write_tensors(users.tensors(), {"content": "users"}),
        "items.safetensors": write_tensors(items.tensors(), {"content": "items"}),
        "scoring.onnx": export_scoring(network),
    }
    if sizes.dense:
        files["scoring_dense.onnx"] = export_dense(network)
    manifest = BackboneManifest(**form_of(network.shape), fields=fields, divisions=make_divisions(sizes))
    draft = folder.with_name("draft")
    golden = {f"inputs.{name}": array for name, array in rows.items()}
    blank = write_tensors({**golden, "logits": np.zeros(64)}, {"content": "golden"})
    write_bundle(draft, manifest, {**files, "golden.safetensors": blank})
    oracle = Oracle(draft)
    logits = oracle.logits(oracle.golden_vectors(golden))
    filled = write_tensors({**golden, "logits": logits}, {"content": "golden"})
    return write_bundle(folder, manifest, {**files, "golden.safetensors": filled})


def random_backbone(rng: np.random.Generator, sizes: Sizes, fields: Sequence[Field]) -> Backbone:
    """A network whose every tensor is drawn."""
    network = Backbone(sizes.shape(fields)).eval()
    drawn = {}
    for name, tensor in network.weights().items():
        noise = rng.normal(0, 1, tuple(tensor.shape))
        if name.endswith("norm.var"):
            value = 0.5 + np.abs(noise)
        elif name.endswith("norm.weight"):
            value = 1 + 0.2 * noise
        elif name.startswith(("cross.", "attention.")):
            value = 0.5 * noise / np.sqrt(tensor.shape[-1])
        elif name.endswith("weight"):
            value = noise * 1.5 / np.sqrt(tensor.shape[-1])
        else:
            value = 0.5 * noise
        drawn[name] = torch.tensor(value, dtype=torch.float32)
    network.load_weights(drawn)
    return network


def random_rows(rng: np.random.Generator, fields: Sequence[Field], n: int) -> dict[str, Array]:
    """Encoded rows without a table behind them."""
    rows: dict[str, Array] = {}
    for field in fields:
        if field.kind == "dense":
            rows[field.name] = rng.random(n).astype(np.float32)
        elif field.kind == "sparse":
            rows[field.name] = rng.integers(0, field.vocabulary_size, n).astype(np.int32)
        else:
            offsets = np.concatenate([[0], np.cumsum(rng.integers(0, 4, n))]).astype(np.int64)
            rows[f"{field.name}.offsets"] = offsets
            rows[f"{field.name}.values"] = rng.integers(0, field.vocabulary_size, offsets[-1]).astype(np.int32)
    return rows


def module_ranks(oracle: Oracle, sizes: Sizes) -> dict[str, int]:
    """Every adaptable module with its LoRA rank."""
    tower = {f"tower.{layer}": rank for layer, rank in enumerate(sizes.ranks)}
    weights = {name.removesuffix(".weight"): tensor for name, tensor in oracle.weights.items()}
    return tower | {
        name: sizes.interaction_rank
        for name, tensor in weights.items()
        if name.startswith(("cross.", "attention.")) and tensor.ndim == 2
    }


def random_lora(
    oracle: Oracle, rng: np.random.Generator, ranks: Mapping[str, int] | Sequence[int], spread: float
) -> dict[str, Array]:
    """Tensors of one adapter without golden rows; ranks by module, or one for each hidden layer."""
    named = ranks if isinstance(ranks, Mapping) else {f"tower.{i}": rank for i, rank in enumerate(ranks)}
    tensors: dict[str, Array] = {}
    for module, rank in named.items():
        d, k = oracle.weights[f"{module}.weight"].shape
        own = spread if module.startswith("tower.") else 0.5 * spread
        tensors[f"{module}.down"] = rng.normal(0, 1 / np.sqrt(k), (rank, k)).astype(np.float16)
        tensors[f"{module}.up"] = rng.normal(0, own, (d, rank)).astype(np.float16)
        tensors[f"{module}.scale"] = rng.normal(0, 1, d).astype(np.float32)
        tensors[f"{module}.shift"] = rng.normal(0, 0.2 * own, d).astype(np.float32)
        tensors |= random_norm(oracle, rng, module, "")
    return tensors


def random_norm(oracle: Oracle, rng: np.random.Generator, module: str, prefix: str) -> dict[str, Array]:
    """The backbone's norm, moved a little."""
    out: dict[str, Array] = {}
    for key in ("weight", "bias", "mean", "var"):
        if f"{module}.norm.{key}" not in oracle.weights:
            continue
        own = oracle.weights[f"{module}.norm.{key}"]
        out[f"{prefix}{module}.norm.{key}"] = (own * (1 + 0.05 * rng.random(own.shape))).astype(np.float32)
    return out


def with_golden(
    oracle: Oracle,
    rng: np.random.Generator,
    manifest: Mapping[str, Any],
    tensors: dict[str, Array],
    auxiliaries: Mapping[str, AdapterFile],
    fusion: AdapterFile | None,
) -> bytes:
    """The artifact with 32 golden rows over all combinations."""
    fields = [Field.model_validate(f) for f in oracle.fields]
    tensors = tensors | {f"golden.inputs.{name}": array for name, array in random_rows(rng, fields, 32).items()}
    for name, domains in manifest.get("golden_divisions", {}).items():
        tensors[f"golden.division.{name}"] = rng.integers(-1, len(domains), 32).astype(np.int32)
    tensors["golden.logits"] = np.zeros(32)
    checked = AdapterManifest.model_validate(manifest)
    draft = AdapterFile(encode_adapter(checked, tensors))
    tensors["golden.logits"] = oracle.golden_logits(draft, auxiliaries, fusion)
    return encode_adapter(checked, tensors)


def common_manifest(oracle: Oracle, sizes: Sizes, domain: str, division: str) -> dict[str, Any]:
    """What every adapter manifest says."""
    return {
        "domain": domain,
        "division": division,
        "fingerprint": oracle.manifest["fingerprint"],
        "ranks": module_ranks(oracle, sizes),
        "created_at": "2026-01-01T00:00:00Z",
    }


def make_lora(
    oracle: Oracle, rng: np.random.Generator, sizes: Sizes, domain: str, division: str, spread: float = 0.5
) -> bytes:
    """A `lora` artifact of any division."""
    manifest = {**common_manifest(oracle, sizes, domain, division), "kind": "lora", "mode": "single"}
    return with_golden(oracle, rng, manifest, random_lora(oracle, rng, module_ranks(oracle, sizes), spread), {}, None)


def make_natural(
    run: Run, rng: np.random.Generator, sizes: Sizes, domain: str, mode: str, spread: float = 0.5
) -> bytes:
    """A natural domain's artifact in one mode, pinning the run's auxiliaries and fusion.

    The last combination of auxiliary domains has no norm of its own, so that one falls back.
    """
    oracle = run.oracle
    if mode == "single":
        return make_lora(oracle, rng, sizes, domain, run.natural_division, spread)
    auxiliary = {d["name"]: list(d["domains"]) for d in oracle.manifest["divisions"] if not d["natural"]}
    combinations: list[list[str | None]] = [[]]
    for domains in auxiliary.values():
        combinations = [[*c, d] for c in combinations for d in [*domains, None]]
    pairs = [c for c in combinations if any(c)][:-1]
    files = {d: run.folder / "adapters" / f"{d}.safetensors" for domains in auxiliary.values() for d in domains}
    fusion = (run.folder / "fusion.safetensors").read_bytes()
    manifest = {
        **common_manifest(oracle, sizes, domain, run.natural_division),
        "kind": "fused",
        "mode": mode,
        "auxiliary": list(auxiliary),
        "pairs": [{"domains": c, "rows": 1000} for c in pairs],
        "fuses": {d: digest(path.read_bytes()) for d, path in files.items()},
        "fusion": digest(fusion) if mode == "attention" else None,
        "golden_divisions": auxiliary,
        "calibration": {"slope": 1.1, "intercept": -0.2},
    }
    tensors = random_lora(oracle, rng, module_ranks(oracle, sizes), spread)
    for i in range(len(pairs)):
        for layer in range(len(sizes.tower)):
            tensors |= random_norm(oracle, rng, f"tower.{layer}", f"pair.{i}.")
    auxiliaries = {d: AdapterFile(path) for d, path in files.items()}
    return with_golden(
        oracle, rng, manifest, tensors, auxiliaries, AdapterFile(fusion) if mode == "attention" else None
    )


def make_fusion(oracle: Oracle, rng: np.random.Generator, sizes: Sizes) -> bytes:
    """A random fusion for all the bundle's divisions."""
    tensors, ranks = {}, {}
    for module in module_ranks(oracle, sizes):
        d = oracle.weights[f"{module}.weight"].shape[0]
        for name in ("query", "key"):
            value = rng.normal(0, 1 / np.sqrt(d), (sizes.fusion_rank, d))
            tensors[f"fusion.{module}.{name}"] = value.astype(np.float16)
        ranks[module] = sizes.fusion_rank
    manifest = FusionManifest(
        fingerprint=oracle.manifest["fingerprint"],
        ranks=ranks,
        divisions=[d["name"] for d in oracle.manifest["divisions"]],
        created_at="2026-01-01T00:00:00Z",
    )
    return encode_fusion(manifest, tensors)
