"""Random but valid deltas and id overlays for tests; golden logits come from the float64 oracle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.forge import Run, pins_of
from benchmarks.oracle import Oracle
from benchmarks.oracle_files import AdapterFile, Array, read_safetensors
from features.index import RawIndex
from features.overlay import id_tensors
from tests.factory import Sizes, common_manifest, random_lora, with_golden

SIZES = Sizes(by_item=True, dense=True)
USERS: tuple[str | int, ...] = (3, 17, "nobody", 38, 4_000_000)
"""Of the table and the vocabulary, of the table alone (38), and of neither."""
ITEMS: tuple[str | int, ...] = ("item-2", "item-31", "item-115", "brand new", 12)


def random_deltas(
    oracle: Oracle, rng: np.random.Generator, dtype: Any = np.float32, spread: float = 0.3, tables: Sequence[str] = ()
) -> dict[str, Array]:
    """Deltas of every weight behind the lookup, and of these fields' whole tables."""
    deltas: dict[str, Array] = {}
    for name, own in oracle.weights.items():
        if name.startswith("embedding.") and name.removeprefix("embedding.") not in tables:
            continue
        noise = spread * rng.normal(0, 1, own.shape) * max(float(np.std(own)), 0.1)
        if name.endswith("norm.var"):
            noise = -0.5 * own * rng.random(own.shape)  # negative, the sum is not
        deltas[f"delta.{name}"] = noise.astype(np.float32 if ".norm." in name else dtype)
    return deltas


def random_overlay(
    oracle: Oracle,
    rng: np.random.Generator,
    dtype: Any = np.float16,
    sides: Mapping[str, Sequence[str | int]] | None = None,
) -> dict[str, Array]:
    """An overlay of these ids (by default some that the backbone knows and some that nobody does), with golden rows."""
    tensors: dict[str, Array] = {}
    for side, ids in (sides or {"user": USERS, "item": ITEMS}).items():
        width = next(f["width"] for f in oracle.fields if f.get("id") and f["of"] == side)
        tensors |= id_tensors(RawIndex.from_values(list(ids)), f"overlay.{side}")
        tensors[f"overlay.{side}.rows"] = rng.normal(0, 1, (len(ids), width)).astype(dtype)
        if oracle.first_order:
            tensors[f"overlay.{side}.first_order"] = rng.normal(0, 0.3, len(ids)).astype(dtype)
        positions = rng.integers(-1, len(ids), 32).astype(np.int32)
        positions[:2] = (0, -1)
        tensors[f"golden.overlay.{side}"] = positions
    return tensors


def make_delta(run: Run, rng: np.random.Generator, domain: str, tensors: dict[str, Array], **manifest: Any) -> bytes:
    """A `delta` artifact of a natural domain."""
    said = common_manifest(run.oracle, SIZES, domain, run.natural_division) | {"kind": "delta", "ranks": {}}
    return with_golden(run.oracle, rng, {**said, **manifest}, tensors, {}, None)


def make_overlaid_lora(run: Run, rng: np.random.Generator, domain: str, overlay: dict[str, Array]) -> bytes:
    """A `lora` artifact of a natural domain that carries an overlay."""
    manifest = {**common_manifest(run.oracle, SIZES, domain, run.natural_division), "kind": "lora", "mode": "single"}
    tensors = random_lora(run.oracle, rng, SIZES.ranks, 0.5) | overlay
    return with_golden(run.oracle, rng, manifest, tensors, {}, None)


def with_overlay(run: Run, rng: np.random.Generator, content: bytes, overlay: dict[str, Array]) -> bytes:
    """An artifact of the run, with an overlay added."""
    file = AdapterFile(content)
    own = read_safetensors(content)[0]
    fusion = run.fusion() if file.manifest.get("fusion") else None
    return with_golden(run.oracle, rng, file.manifest, own | overlay, pins_of(file, run.auxiliaries()), fusion)
