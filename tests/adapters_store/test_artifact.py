"""Adapters and fusions: the form is checked before anything is made of it."""

from __future__ import annotations

import pickle
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapters_store.artifact import decode_adapter, decode_fusion, encode_adapter
from adapters_store.canonical import digest
from adapters_store.errors import ArtifactError, BadValue, LimitExceeded, MalformedArtifact
from adapters_store.manifest import AdapterManifest
from adapters_store.tensors import Bfloat16, TensorLimits
from tests.adapters_store.world import World, encoded, raw

Parts = tuple[dict[str, Any], dict[str, Any]]
Spoil = Callable[[dict[str, Any], dict[str, Any]], None]


def put(name: str, value: Any) -> Spoil:
    return lambda manifest, tensors: tensors.update({name: value})


def drop(name: str) -> Spoil:
    def spoil(manifest: dict[str, Any], tensors: dict[str, Any]) -> None:
        del tensors[name]

    return spoil


def at(name: str, index: Any, value: float) -> Spoil:
    def spoil(manifest: dict[str, Any], tensors: dict[str, Any]) -> None:
        tensors[name] = tensors[name].copy()
        tensors[name][index] = value

    return spoil


def say(**changes: Any) -> Spoil:
    return lambda manifest, tensors: manifest.update(changes)


F32 = np.float32
SPOILT: list[tuple[str, Spoil, type[ArtifactError], str]] = [
    ("missing up", drop("tower.0.up"), MalformedArtifact, r"tensor 'tower\.0\.up' is missing"),
    ("missing norm", drop("tower.1.norm.var"), MalformedArtifact, r"tensor 'tower\.1\.norm\.var' is missing"),
    ("missing golden", drop("golden.logits"), MalformedArtifact, r"tensor 'golden\.logits' is missing"),
    ("unknown", put("tower.7.up", np.zeros((2, 2), F32)), MalformedArtifact, r"'tower\.7\.up' has no place"),
    ("pair of a lora", put("pair.0.tower.0.norm.var", np.ones(6, F32)), MalformedArtifact, "has no place"),
    ("overlay", put("overlay.user.ids", np.zeros(2, np.int64)), MalformedArtifact, r"overlay\.user\.rows' is m"),
    ("delta", put("delta.output.bias", np.zeros(1, F32)), MalformedArtifact, "only kind 'delta' has deltas"),
    ("dtype F64", put("tower.0.down", np.zeros((3, 8))), MalformedArtifact, r"'tower\.0\.down' has dtype F64; it"),
    ("scale F16", put("tower.0.scale", np.zeros(6, np.float16)), MalformedArtifact, r"has dtype F16; it must be F32"),
    ("norm I32", put("tower.0.norm.var", np.ones(6, np.int32)), MalformedArtifact, r"norm\.var' has dtype I32"),
    ("golden F32", put("golden.logits", np.zeros(12, F32)), MalformedArtifact, "dtype F32; it must be F64"),
    ("shape up", put("tower.0.up", np.zeros((6, 4), F32)), MalformedArtifact, r"up' has shape \(6, 4\).* \(6, 3\)"),
    ("shape scale", put("tower.0.scale", np.zeros(7, F32)), MalformedArtifact, r"scale' has shape \(7,\).* \(6,\)"),
    ("3 dimensions", put("tower.0.down", np.zeros((3, 8, 1), F32)), MalformedArtifact, r"must have 2 dimension"),
    ("rank said", say(ranks={"tower.0": 4, "tower.1": 2}), MalformedArtifact, r"down' has shape \(3, 8\).*\(4, 8\)"),
    ("rank bomb", say(ranks={"tower.0": 10**9, "tower.1": 2}), LimitExceeded, "rank 1000000000, more than the limit"),
    ("module said", say(ranks={"tower.0": 3}), MalformedArtifact, "has no place in this artifact's manifest"),
    ("NaN", at("tower.0.down", (2, 5), np.nan), BadValue, r"'tower\.0\.down': the value at \[2, 5\] is not finite"),
    ("infinity", at("tower.1.shift", 3, -np.inf), BadValue, r"'tower\.1\.shift': the value at \[3\] is not finite"),
    ("golden NaN", at("golden.logits", 4, np.nan), BadValue, r"'golden\.logits': the value at \[4\]"),
    ("negative", at("tower.1.norm.var", 2, -1e-30), BadValue, r"norm\.var': the variance at \[2\] is negative"),
    (
        "long golden lists",
        put("golden.inputs.price", np.zeros(70_000, F32)),
        LimitExceeded,
        r"'golden\.inputs\.price' has 70000 values",
    ),
    ("no rows", put("golden.logits", np.zeros(0)), LimitExceeded, "0 golden rows"),
    ("many rows", put("golden.logits", np.zeros(9999)), LimitExceeded, "9999 golden rows"),
    ("kind", say(kind="delta"), MalformedArtifact, "kind 'delta' has none"),
    ("kind and ranks", say(kind="delta", ranks={}), MalformedArtifact, "there are no delta tensors"),
]  # fmt: skip


@pytest.mark.parametrize(("spoil", "error", "message"), [s[1:] for s in SPOILT], ids=[s[0] for s in SPOILT])
def test_malformed_adapter_is_refused_by_name(
    world: World, spoil: Spoil, error: type[ArtifactError], message: str
) -> None:
    """Law: each fault is refused with a message that names the tensor, the place or the key."""
    manifest, tensors = world.lora_parts("theme-1", "theme")
    spoil(manifest, tensors)
    with pytest.raises(error, match=message):
        decode_adapter(raw(manifest, tensors))


def test_valid_adapter_reads_back(world: World) -> None:
    """Law: an adapter is named by its bytes and holds what was written."""
    manifest, tensors = world.lora_parts("theme-1", "theme")
    content = encoded(manifest, tensors)
    adapter = decode_adapter(content)
    assert adapter.revision == digest(content)
    assert adapter.size_bytes == len(content)
    assert adapter.manifest.ranks == {"tower.0": 3, "tower.1": 2}
    assert {name: array.tobytes() for name, array in adapter.tensors.items()} == {
        name: array.tobytes() for name, array in tensors.items()
    }


def test_bfloat16_is_for_low_rank_tensors_only(world: World) -> None:
    """Law: BF16 is decoded for down and up; scale, shift and norms stay F32."""
    manifest, tensors = world.lora_parts("theme-1", "theme")
    small = tensors | {"tower.0.up": Bfloat16.of(tensors["tower.0.up"])}
    assert decode_adapter(raw(manifest, small)).tensors["tower.0.up"].dtype == F32
    with pytest.raises(MalformedArtifact, match="BF16"):
        decode_adapter(raw(manifest, tensors | {"tower.0.scale": Bfloat16.of(tensors["tower.0.scale"])}))


def test_writer_refuses_what_a_reader_would(world: World) -> None:
    """Law: a trainer's mistake is found where it is made."""
    manifest, tensors = world.lora_parts("theme-1", "theme")
    tensors["tower.0.norm.var"] = -tensors["tower.0.norm.var"]
    with pytest.raises(BadValue, match="variance"):
        encode_adapter(AdapterManifest.model_validate(manifest), tensors)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (drop("golden.division.gender"), "'golden.division.gender' is missing"),
        (put("golden.division.gender", np.full(24, 2, np.int32)), "names a position outside its 2 golden_divisions"),
        (put("golden.division.gender", np.full(24, -2, np.int32)), "names a position outside its 2 golden_divisions"),
        (put("golden.division.gender", np.zeros(23, np.int32)), r"shape \(23,\)"),
        (put("golden.division.shelf", np.zeros(24, np.int32)), "'golden.division.shelf' has no place"),
        (drop("pair.0.tower.1.norm.mean"), r"'pair\.0\.tower\.1\.norm\.mean' is missing"),
        (put("pair.1.tower.1.norm.mean", np.zeros(5, F32)), r"'pair\.1\.tower\.1\.norm\.mean' has no place"),
    ],
)
def test_malformed_fused_adapter_is_refused_by_name(world: World, spoil: Spoil, message: str) -> None:
    """Law: pair norms and golden divisions are what the manifest says."""
    manifest, tensors = world.fused_parts("theme-1", "avg", world.auxiliaries("gender"), None, [("gender-f",)])
    spoil(manifest, tensors)
    with pytest.raises(MalformedArtifact, match=message):
        decode_adapter(raw(manifest, tensors))


def test_fusion_is_checked_alike(world: World) -> None:
    """Law: a fusion's tensors are its manifest's, of one shape a module, and finite."""
    content = world.fusion()
    fusion = decode_fusion(content)
    assert fusion.revision == digest(content)
    manifest, tensors = fusion.manifest.model_dump(mode="json", by_alias=True), dict(fusion.tensors)
    key = "fusion.tower.0.key"
    for spoilt, error, message in [
        (tensors | {key: np.zeros((3, 5), F32)}, MalformedArtifact, r"shape \(3, 5\)"),
        (tensors | {key: np.full((3, 6), np.nan, F32)}, BadValue, "not finite"),
        (tensors | {key: np.zeros((3, 6))}, MalformedArtifact, "dtype F64"),
        (tensors | {"tower.0.up": np.zeros((3, 6), F32)}, MalformedArtifact, "has no place"),
        ({name: t for name, t in tensors.items() if name != key}, MalformedArtifact, "is missing"),
    ]:
        with pytest.raises(error, match=message):
            decode_fusion(raw(manifest, spoilt))
    with pytest.raises(LimitExceeded, match="rank 3, more than the limit of 2"):
        decode_fusion(content, TensorLimits(rank=2))


def test_artifact_of_another_kind_is_refused(world: World) -> None:
    """Law: an adapter is no fusion, a fusion no adapter, a bundle file neither."""
    with pytest.raises(MalformedArtifact, match="kind"):
        decode_fusion(world.lora("theme-1", "theme"))
    with pytest.raises(MalformedArtifact, match="kind"):
        decode_adapter(world.fusion())
    with pytest.raises(MalformedArtifact, match="manifest"):
        decode_adapter(world.backbone.file("weights.safetensors"))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickle_is_refused_and_never_run(world: World, protocol: int) -> None:
    """Law: bytes that would run code when unpickled are only ever looked at."""

    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (pytest.fail, ("unpickled",))

    with pytest.raises(ArtifactError):
        decode_adapter(pickle.dumps({"weights": np.zeros(99), "bomb": Bomb()}, protocol))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(position=st.integers(0, 2**20), bit=st.integers(0, 7))
def test_flipped_bit_changes_the_revision_or_is_refused(world: World, position: int, bit: int) -> None:
    """Law: damaged bytes are never taken for the revision they once were, and never crash the reader."""
    content = world.lora("theme-1", "theme")
    damaged = bytearray(content)
    damaged[position % len(content)] ^= 1 << bit
    try:
        adapter = decode_adapter(bytes(damaged))
    except ArtifactError:
        return
    assert adapter.revision != digest(content)


def test_refusing_a_large_file_needs_no_second_copy(world: World) -> None:
    """Law: decoding a body of any content takes less than one more body of memory."""
    manifest, tensors = world.lora_parts("theme-1", "theme")
    wide = 2**20
    tensors |= {"tower.0.down": np.ones((3, wide), F32), "tower.0.norm.var": np.full(6, -1, F32)}
    content = raw(manifest, tensors)
    tracemalloc.start()
    try:
        with pytest.raises(BadValue, match="variance"):
            decode_adapter(content)
        assert tracemalloc.get_traced_memory()[1] < len(content)
    finally:
        tracemalloc.stop()
