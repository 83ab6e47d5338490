"""A small random world of valid artifacts in plain numpy, and two ways to score in it.

`literal_logits` computes MultiLoRA's equations 7 to 11 in float64 as they are printed; `folded_logits` runs a fold as
docs/architecture.md states it. Neither shares a line with `adapters_store.folding`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from adapters_store.artifact import Adapter, Fusion, decode_adapter, decode_fusion, encode_adapter, encode_fusion
from adapters_store.backbone import Backbone, read_bundle, write_bundle
from adapters_store.folding import Folded
from adapters_store.manifest import AdapterManifest, BackboneManifest, FusionManifest
from adapters_store.tensors import Array, write_tensors
from features.fields import Division, Field
from features.lookup import EmbeddingLookup
from features.rows import EncodedRows

EPS = 1e-3
DIVISIONS = {"theme": ("theme-1", "theme-2"), "gender": ("gender-f", "gender-m"), "shelf": ("shelf-x", "shelf-y")}
FIELDS = [
    Field(name="user_id", kind="sparse", of="user", id=True, vocabulary_size=11, width=4),
    Field(name="tags", kind="multi_hot", of="item", vocabulary_size=7, width=3),
    Field(name="price", kind="dense", of="context"),
]
RANKS = {"theme": (3, 2), "gender": (2, 4), "shelf": (1, 3)}  # mixed on purpose


@dataclass
class World:
    """Builds artifacts of one backbone, reproducibly."""

    folder: Path
    tower: tuple[int, ...] = (6, 5)
    seed: int = 0
    rng: np.random.Generator = field(init=False)
    backbone: Backbone = field(init=False)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        write_bundle(self.folder / "bundle", self.bundle_manifest(), self.bundle_files())
        self.backbone = read_bundle(self.folder / "bundle")

    def normal(self, *shape: int) -> Array:
        return self.rng.normal(0, 1, shape).astype(np.float32)

    def norm(self, prefix: str, d: int) -> dict[str, Array]:
        parts = {"weight": 1 + 0.3 * self.normal(d), "bias": self.normal(d), "mean": self.normal(d)}
        return {f"{prefix}.norm.{p}": v.astype(np.float32) for p, v in parts.items()} | {
            f"{prefix}.norm.var": (0.2 + self.rng.random(d)).astype(np.float32)
        }

    def bundle_manifest(self) -> BackboneManifest:
        divisions = [
            Division(name=name, natural=name == "theme", of="domain" if name == "theme" else "user", domains=domains)
            for name, domains in DIVISIONS.items()
        ]
        return BackboneManifest(fields=FIELDS, tower=list(self.tower), norm_eps=EPS, divisions=divisions)

    def bundle_files(self) -> dict[str, bytes]:
        weights = {"embedding.user_id": self.normal(11, 4), "embedding.tags": self.normal(7, 3)}
        k = 8
        for i, d in enumerate(self.tower):
            weights |= {f"tower.{i}.weight": self.normal(d, k) / np.float32(k**0.5), f"tower.{i}.bias": self.normal(d)}
            weights |= self.norm(f"tower.{i}", d)
            k = d
        weights |= {"output.weight": self.normal(1, k), "output.bias": self.normal(1)}
        rows = self.rows(16)
        golden = {f"inputs.{name}": array for name, array in rows.arrays.items()}
        # the literal form needs no bundle object: only weights
        logits = literal_logits(weights, rows)
        vocabulary = {
            "user_id.values": np.arange(10),
            "tags.bytes": np.frombuffer(b"abcdef", np.uint8),
            "tags.offsets": np.arange(7),
        }
        return {
            "weights.safetensors": write_tensors(weights, {}),
            "vocabulary.safetensors": write_tensors(vocabulary, {}),
            "users.safetensors": write_tensors({"index.values": np.arange(3)}, {}),
            "items.safetensors": write_tensors({"index.values": np.arange(3)}, {}),
            "golden.safetensors": write_tensors({**golden, "logits": logits}, {}),
            "scoring.onnx": b"no graph is run in these tests",
        }

    def rows(self, n: int) -> EncodedRows:
        offsets = np.concatenate([[0], np.cumsum(self.rng.integers(0, 4, n))])
        return EncodedRows(
            n,
            {
                "user_id": self.rng.integers(0, 11, n).astype(np.int32),
                "tags.values": self.rng.integers(0, 7, offsets[-1]).astype(np.int32),
                "tags.offsets": offsets.astype(np.int64),
                "price": self.normal(n),
            },
        )

    def lora_tensors(self, division: str, ranks: Sequence[int] | None = None) -> dict[str, Array]:
        tensors: dict[str, Array] = {}
        for rank, (module, (d, k)) in zip(ranks or RANKS[division], self.backbone.modules.items(), strict=True):
            tensors[f"{module}.down"] = (self.normal(rank, k) / k**0.5).astype(np.float16)
            tensors[f"{module}.up"] = self.normal(d, rank)
            tensors[f"{module}.scale"], tensors[f"{module}.shift"] = self.normal(d), self.normal(d)
            tensors |= self.norm(module, d)
        return tensors

    def manifest(self, domain: str, division: str, ranks: Sequence[int] | None = None, **more: Any) -> dict[str, Any]:
        named = dict(zip(self.backbone.modules, ranks or RANKS[division], strict=True))
        common = {"domain": domain, "division": division, "fingerprint": self.backbone.fingerprint, "ranks": named}
        return {"kind": "lora", "mode": "single", **common, **more}

    def golden(self, n: int = 12) -> dict[str, Array]:
        return {f"golden.inputs.{name}": array for name, array in self.rows(n).arrays.items()}

    def lora_parts(self, domain: str, division: str) -> tuple[dict[str, Any], dict[str, Array]]:
        """Manifest and tensors of a valid lora adapter, to be spoilt by a test or encoded as they are."""
        tensors = self.lora_tensors(division) | self.golden()
        rows = EncodedRows.from_tensors(tensors, "golden.inputs", FIELDS)
        tensors["golden.logits"] = literal_logits(self.backbone.weights, rows, [tensors])
        return self.manifest(domain, division), tensors

    def lora(self, domain: str, division: str) -> bytes:
        return encoded(*self.lora_parts(domain, division))

    def fusion(self, divisor: str = "r", rank: int = 3) -> bytes:
        tensors = {}
        for module, (d, _) in self.backbone.modules.items():
            tensors |= {f"fusion.{module}.{part}": self.normal(rank, d) for part in ("query", "key")}
        manifest = {
            "fingerprint": self.backbone.fingerprint,
            "divisor": divisor,
            "ranks": dict.fromkeys(self.backbone.modules, rank),
            "divisions": list(DIVISIONS),
        }
        return encode_fusion(FusionManifest.model_validate(manifest), tensors)

    def auxiliaries(self, *divisions: str) -> dict[str, Adapter]:
        return {
            domain: decode_adapter(self.lora(domain, division))
            for division in divisions
            for domain in DIVISIONS[division]
        }

    def fused_parts(
        self,
        domain: str,
        mode: str,
        auxiliaries: Mapping[str, Adapter],
        fusion: Fusion | None,
        pairs: Sequence[Sequence[str | None]] = (),
    ) -> tuple[dict[str, Any], dict[str, Array]]:
        """Manifest and tensors of a valid fused adapter."""
        divisions = list(dict.fromkeys(adapter.manifest.division for adapter in auxiliaries.values()))
        domains = {name: [d for d, a in auxiliaries.items() if a.manifest.division == name] for name in divisions}
        manifest = self.manifest(
            domain,
            "theme",
            kind="fused",
            mode=mode,
            auxiliary=divisions,
            pairs=[{"domains": list(pair), "rows": 500} for pair in pairs],
            fuses={d: adapter.revision for d, adapter in auxiliaries.items()},
            fusion=fusion.revision if fusion else None,
            golden_divisions=domains,
            calibration={"slope": 1.25, "intercept": -0.5},
        )
        tensors = self.lora_tensors("theme") | self.golden(24)
        for i in range(len(pairs)):
            for module, (d, _) in self.backbone.modules.items():
                tensors |= self.norm(f"pair.{i}.{module}", d)
        for name in divisions:
            tensors[f"golden.division.{name}"] = self.rng.integers(-1, len(domains[name]), 24).astype(np.int32)
        tensors["golden.logits"] = self.golden_logits(manifest, tensors, auxiliaries, fusion)
        return manifest, tensors

    def golden_logits(
        self,
        manifest: Mapping[str, Any],
        tensors: Mapping[str, Array],
        auxiliaries: Mapping[str, Adapter],
        fusion: Fusion | None,
    ) -> Array:
        rows = EncodedRows.from_tensors(tensors, "golden.inputs", FIELDS)
        columns = [
            [([*manifest["golden_divisions"][name], None])[i] for i in tensors[f"golden.division.{name}"]]
            for name in manifest["auxiliary"]
        ]
        out = np.empty(rows.n)
        for row, combination in enumerate(zip(*columns, strict=True)):
            out[row : row + 1] = self.literal(
                manifest, tensors, auxiliaries, fusion, combination, rows.take(np.array([row]))
            )
        return out

    def literal(
        self,
        manifest: Mapping[str, Any],
        tensors: Mapping[str, Array],
        auxiliaries: Mapping[str, Adapter],
        fusion: Fusion | None,
        combination: Sequence[str | None],
        rows: EncodedRows,
    ) -> Array:
        """One combination, with its norm looked up as docs/architecture.md says."""
        loras = [tensors, *(auxiliaries[domain].tensors for domain in combination if domain)]
        pairs = [tuple(pair["domains"]) for pair in manifest["pairs"]]
        wanted, prefix = list(combination), ""
        while any(wanted) and not prefix:
            if tuple(wanted) in pairs:
                prefix = f"pair.{pairs.index(tuple(wanted))}."
            wanted[max(i for i, domain in enumerate(wanted) if domain)] = None
        return literal_logits(self.backbone.weights, rows, loras, manifest["mode"], fusion, prefix)


def encoded(manifest: Mapping[str, Any], tensors: Mapping[str, Array]) -> bytes:
    """An adapter file through the writer's own checks."""
    return encode_adapter(AdapterManifest.model_validate(manifest), tensors)


def raw(manifest: Mapping[str, Any], tensors: Mapping[str, Any]) -> bytes:
    """A file with this content, right or wrong."""
    return write_tensors(tensors, manifest)


def literal_logits(
    weights: Mapping[str, Array],
    rows: EncodedRows,
    loras: Sequence[Mapping[str, Array]] = (),
    mode: str = "single",
    fusion: Fusion | None = None,
    norm_prefix: str = "",
) -> Array:
    """Logits (n,) by equations 7 to 11 in float64; no LoRA gives the backbone."""
    x = np.concatenate(list(EmbeddingLookup(FIELDS, weights).vectors(rows).values()), axis=1).astype(np.float64)
    layers = sum(name.endswith(".norm.mean") and name.startswith("tower.") for name in weights)
    for i in range(layers):
        module = f"tower.{i}"
        h0 = x @ f64(weights, f"{module}.weight").T + f64(weights, f"{module}.bias")
        h, source, prefix = h0, weights, module
        if loras:
            outputs = [
                f64(lora, f"{module}.scale") * ((x @ f64(lora, f"{module}.down").T) @ f64(lora, f"{module}.up").T)
                + f64(lora, f"{module}.shift")
                for lora in loras
            ]
            h = h0 + sum(w * out for w, out in zip(attention(mode, fusion, module, h0, outputs), outputs, strict=True))
            source, prefix = loras[0], f"{norm_prefix}{module}"
        mean, var, weight, bias = (f64(source, f"{prefix}.norm.{p}") for p in ("mean", "var", "weight", "bias"))
        x = np.maximum((h - mean) / np.sqrt(var + EPS) * weight + bias, 0)
    return (x @ f64(weights, "output.weight").T + f64(weights, "output.bias"))[:, 0]


def attention(mode: str, fusion: Fusion | None, module: str, h0: Array, outputs: Sequence[Array]) -> Sequence[Any]:
    """What each division's output is multiplied with: (n, 1) each."""
    if mode != "attention":
        return [1.0 if mode in ("add", "single") else 1.0 / len(outputs)] * len(outputs)
    assert fusion is not None
    query, key = f64(fusion.tensors, f"fusion.{module}.query"), f64(fusion.tensors, f"fusion.{module}.key")
    divisor = len(query) if fusion.manifest.divisor == "r" else len(query) ** 0.5
    energies = [np.sum((h0 @ query.T) * (out @ key.T), axis=1, keepdims=True) / divisor for out in outputs]
    powers = [np.exp(energy - np.max(energies, axis=0)) for energy in energies]
    return [power / np.sum(powers, axis=0) for power in powers]


def f64(tensors: Mapping[str, Array], name: str) -> Array:
    return tensors[name].astype(np.float64)


@dataclass
class FoldEngine:
    """Runs folds in float64 arithmetic; what an engine does, in eight lines."""

    backbone: Backbone

    def logits(self, rows: EncodedRows, folded: Folded) -> Array:
        weights = self.backbone.weights
        x = np.concatenate(list(EmbeddingLookup(FIELDS, weights).vectors(rows).values()), axis=1).astype(np.float64)
        for module, f in folded.modules.items():
            q, z = x @ f.query.T + f.query_shift, x @ f.down.T
            energy = (z * (q @ f.key)) @ f.group.T + q @ f.key_shift.T
            w = np.exp(energy - energy.max(1, keepdims=True))
            w /= w.sum(1, keepdims=True)
            h = x @ weights[f"{module}.weight"].T + weights[f"{module}.bias"] + (z * (w @ f.group)) @ f.up.T
            x = np.maximum((h + w @ f.shift) * f.norm_scale + f.norm_shift, 0)
        return (x @ weights["output.weight"].T + weights["output.bias"])[:, 0]


def write_run(world: World, folder: Path) -> Path:
    """A finished run around the world's bundle: fusion, auxiliary adapters of gender, fused ones of every theme."""
    (folder / "adapters").mkdir(parents=True)
    (world.folder / "bundle").rename(folder / "bundle")
    fusion = world.fusion()
    (folder / "fusion.safetensors").write_bytes(fusion)
    auxiliaries = {}
    for domain in DIVISIONS["gender"]:
        content = world.lora(domain, "gender")
        (folder / "adapters" / f"{domain}.safetensors").write_bytes(content)
        auxiliaries[domain] = decode_adapter(content)
    for domain in DIVISIONS["theme"]:
        parts = world.fused_parts(domain, "attention", auxiliaries, decode_fusion(fusion), [("gender-m",)])
        (folder / "adapters" / f"{domain}.safetensors").write_bytes(encoded(*parts))
    return folder
