"""Laws of adopted memory: a kept adapter is scored where it lies in the blob, bit for bit; all else is refused."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from adapters_store.backbone import Backbone, read_bundle
from adapters_store.backend import Versioned
from adapters_store.canonical import digest
from adapters_store.disk import DiskCache
from adapters_store.tensors import TensorLimits, read_tensors, write_tensors
from benchmarks.forge import Run
from service.engine import Packed, Segment
from service.engines.native import NativeEngine, NativePrepared
from service.errors import EngineFailed
from service.prepared.checksum import checksum
from service.slots import Slot
from tests.deltas import make_delta, make_overlaid_lora, random_deltas, random_overlay
from tests.service.dense_folds import dense_fold
from tests.service.engine_contract import World
from tests.service.engines.test_native_dense import takes_dense
from tests.service.prepared.rig import DOMAIN, OTHER, MakeEngine, Rig, files, rigged

kernels = pytest.importorskip("espalier_kernels", reason="the extension espalier-kernels is not installed")
pytestmark = pytest.mark.skipif(not hasattr(kernels.Network, "adopt"), reason="an extension of before adopts nothing")
HERE = kernels.instruction_sets()
FORMS = [
    pytest.param({"isa": isa, "precision": precision}, id=isa, marks=pytest.mark.skipif(isa not in HERE, reason=isa))
    for isa, precision in (("avx512", "fp32"), ("avx2", "fp32"), ("avx512_bf16", "bf16"), ("amx_bf16", "bf16"))
]


def maker(options: dict[str, Any]) -> MakeEngine:
    """Of native engines."""

    def make(backbone: Backbone) -> NativeEngine:
        return NativeEngine(backbone, **options)

    return make


def aligned(memory: NDArray[np.float32], off: int = 0) -> NDArray[np.float32]:
    """A copy that begins so many floats behind a cache line."""
    room = np.zeros(len(memory) + 32, np.float32)
    start = -room.ctypes.data % 64 // 4 + off
    room[start : start + len(memory)] = memory
    return room[start : start + len(memory)]


def memories(slot: Slot) -> list[NDArray[np.float32]]:
    """What each combination is scored by."""
    return [cast(NativePrepared, own).adapter.memory for own in slot.combinations.values()]


def place(array: NDArray[Any]) -> tuple[int, int]:
    """Where an array begins and ends in this process."""
    return array.ctypes.data, array.ctypes.data + array.nbytes


def lines_of(path: Path) -> list[tuple[int, int]]:
    """Where a file is mapped into this process."""
    found = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        if line.endswith(str(path)):
            first, last = line.split()[0].split("-")
            found.append((int(first, 16), int(last, 16)))
    return found


@pytest.mark.parametrize("options", FORMS)
async def test_a_kept_adapter_is_scored_where_it_lies(
    three_way_run: Run, tmp_path: Path, options: dict[str, Any]
) -> None:
    """Law: every combination's memory is the mapped file itself, gives a fresh one's bits, and goes with the slot."""
    async with rigged(three_way_run, tmp_path / "cache", make=maker(options)) as first:
        slot = await first.load(first.body())
        fresh, packed = first.bits(slot), [memory.tobytes() for memory in memories(slot)]
    async with rigged(three_way_run, tmp_path / "cache", make=maker(options)) as second:
        kept = await second.load(second.body())
        assert second.outcomes == {"used": 1}
        assert second.bits(kept) == fresh
        assert [memory.tobytes() for memory in memories(kept)] == packed
        (path,) = files(tmp_path / "cache")
        ((first_byte, last_byte),) = lines_of(path)
        for begin, end in map(place, memories(kept)):
            assert begin % 64 == 0
            assert first_byte <= begin < end <= last_byte
        assert (len(second.mappings), kept.nbytes) == (1, slot.nbytes)
        path.unlink()
        assert second.bits(kept) == fresh
        kept.empty()
        gc.collect()
        assert len(second.mappings) == 0


async def test_past_the_bound_of_mappings_memory_of_our_own_is_adopted(random_run: Run, tmp_path: Path) -> None:
    """Law: what is read instead of mapped begins at a cache line too."""
    async with rigged(random_run, tmp_path / "cache", make=maker({})) as first:
        fresh = [first.bits(await first.load(first.body(domain), domain)) for domain in (DOMAIN, OTHER)]
    async with rigged(random_run, tmp_path / "cache", make=maker({}), mappings=1) as second:
        slots = [await second.load(second.body(domain), domain) for domain in (DOMAIN, OTHER)]
        assert [second.bits(slot) for slot in slots] == fresh
        assert (second.outcomes, len(second.mappings)) == ({"used": 2}, 1)


async def test_an_id_overlay_comes_back_beside_adopted_memory(dense_run: Run, tmp_path: Path) -> None:
    """Law: overlay and packed memory lie in one file, the latter at a cache line whatever the ids are."""
    rng = np.random.default_rng(5)
    body = make_overlaid_lora(dense_run, rng, DOMAIN, random_overlay(dense_run.oracle, rng))
    found = []
    for _ in range(2):
        async with rigged(dense_run, tmp_path / "cache", make=maker({})) as rig:
            slot = await rig.load(body)
            assert slot.overlay is not None
            rows = rig.serving.backbone.golden()[0]
            overlaid = {side: np.arange(rows.n) % len(own.index) for side, own in slot.overlay.sides.items()}
            found.append(rig.bits(slot, replace(rows, overlaid=overlaid)))
    assert found[0] == found[1]
    assert rig.outcomes == {"used": 1}


@takes_dense
@pytest.mark.parametrize("options", FORMS)
async def test_a_kept_delta_is_scored_where_it_lies(dense_run: Run, tmp_path: Path, options: dict[str, Any]) -> None:
    """Law: a dense adapter's layers are the mapped file itself, its overlay is beside them; bits and bytes alike."""
    rng = np.random.default_rng(6)
    tensors = random_deltas(dense_run.oracle, rng, spread=0.1) | random_overlay(dense_run.oracle, rng)
    body = make_delta(dense_run, rng, DOMAIN, tensors)
    found = []
    for outcomes in ({"absent": 1, "kept": 1}, {"used": 1}):
        async with rigged(dense_run, tmp_path / "cache", make=maker(options)) as rig:
            slot = await rig.load(body)
            assert rig.outcomes == outcomes
            assert slot.overlay is not None
            rows = rig.serving.backbone.golden()[0]
            overlaid = {side: np.arange(rows.n) % len(own.index) for side, own in slot.overlay.sides.items()}
            (memory,) = memories(slot)
            found.append((rig.bits(slot, replace(rows, overlaid=overlaid)), memory.tobytes(), slot.nbytes))
    assert found[0] == found[1]
    (path,) = files(tmp_path / "cache")
    ((first_byte, last_byte),) = lines_of(path)
    begin, end = place(memory)
    assert first_byte <= begin < end <= last_byte
    weights = rig.serving.backbone.weights
    own_bytes = sum(weights[f"tower.{level}.weight"].nbytes for level in range(2))
    assert memory.nbytes >= own_bytes // (2 if options["precision"] == "bf16" else 1)


@takes_dense
async def test_a_delta_of_tables_is_not_kept(dense_run: Run, tmp_path: Path) -> None:
    """Law: a table's delta is as large as the artifact that has it: it is verified each time, and counted."""
    rng = np.random.default_rng(7)
    body = make_delta(dense_run, rng, DOMAIN, random_deltas(dense_run.oracle, rng, tables=("item_id",)))
    async with rigged(dense_run, tmp_path / "cache", make=maker({})) as rig:
        slot = await rig.load(body)
        assert rig.outcomes == {"absent": 1, "skipped": 1}
        assert isinstance(next(iter(slot.combinations.values())), NativePrepared)
        assert files(tmp_path / "cache") == []


@pytest.fixture(params=["low rank", pytest.param("dense", marks=takes_dense)])
def packed(random_run: Run, request: pytest.FixtureRequest) -> tuple[NativeEngine, Packed, World]:
    """An engine, and one combination of two divisions, or a dense one, as it packs it."""
    backbone = read_bundle(random_run.folder / "bundle")
    engine = NativeEngine(backbone)
    world = World(random_run, backbone, engine)
    if request.param == "dense":
        folded = dense_fold(backbone, np.random.default_rng(8))
    else:
        folded = max(world.folds("attention", DOMAIN).values(), key=lambda fold: fold.nbytes)
    own = engine.packed(engine.prepare(folded), folded)
    assert own is not None
    return engine, own, world


def test_every_size_counts(packed: tuple[NativeEngine, Packed, World]) -> None:
    """Law: layout, precision, network and sizes: one number that is off, one too few or too many, and it is refused."""
    engine, own, _ = packed
    for i, size in enumerate(own.sizes):
        for other in {size - 1, size + 1, -1, 0, 1 << 16, 2**31 - 1, -(2**31), 2**40} - {size}:
            sizes = [*own.sizes[:i], other, *own.sizes[i + 1 :]]
            with pytest.raises(EngineFailed, match="cannot adopt"):
                engine.adopt(replace(own, sizes=sizes))
    for sizes in ([], own.sizes[:-1], [*own.sizes, 1]):
        with pytest.raises(EngineFailed, match="another layout"):
            engine.adopt(replace(own, sizes=sizes))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda memory: aligned(memory[:-16]), "floats, its sizes say"),
        (lambda memory: aligned(np.concatenate([memory, memory[:16]])), "floats, its sizes say"),
        (lambda memory: memory[:0], "floats, its sizes say"),
        (lambda memory: aligned(memory, off=1), "does not begin at a cache line"),
        (lambda memory: memory.astype(np.float64), "cannot adopt"),
        (lambda memory: memory.view(np.int32), "cannot adopt"),
        (lambda memory: memory.reshape(-1, 16), "cannot adopt"),
        (lambda memory: np.repeat(memory, 2)[::2], "cannot adopt"),
    ],
)
def test_memory_of_another_length_place_or_type_is_refused(
    packed: tuple[NativeEngine, Packed, World], change: Callable[[Any], Any], why: str
) -> None:
    """Law: nothing is read outside the memory, and none is converted unseen."""
    engine, own, _ = packed
    with pytest.raises(EngineFailed, match=why):
        engine.adopt(replace(own, memory=change(own.memory)))


def test_memory_for_another_instruction_set_or_precision_is_refused(
    packed: tuple[NativeEngine, Packed, World],
) -> None:
    """Law: it is taken by the instruction set that it was packed for, and by no other."""
    engine, own, world = packed
    with pytest.raises(EngineFailed, match="packed memory is for avx1024"):
        engine.adopt(replace(own, isa="avx1024"))
    if "avx512_bf16" in HERE:
        half = NativeEngine(world.backbone, precision="bf16")
        with pytest.raises(EngineFailed, match=f"packed memory is for {engine.isa}"):
            half.adopt(own)
        with pytest.raises(EngineFailed, match="another layout, precision"):
            half.adopt(replace(own, isa=half.isa))


def test_packed_memory_is_a_view_that_keeps_what_it_is_of(packed: tuple[NativeEngine, Packed, World]) -> None:
    """Law: it is read-only, no copy, and outlives the adapter that it was taken from; an adopted one gives the same."""
    engine, own, world = packed
    gc.collect()
    assert not own.memory.flags.writeable
    assert own.memory.ctypes.data % 64 == 0
    copy = replace(own, memory=aligned(own.memory))
    adopted = engine.adopt(copy)
    assert place(adopted.adapter.memory) == place(copy.memory)
    assert (list(adopted.adapter.sizes), adopted.nbytes) == (list(own.sizes), own.memory.nbytes)
    rows = world.draw(np.random.default_rng(3), DOMAIN, 9)[2]
    del copy
    gc.collect()
    scored = [engine.run([Segment(rows, each, engine)])[0].tobytes() for each in (adopted, engine.adopt(own))]
    assert scored[0] == scored[1]


async def reforged(rig: Rig, folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Put a blob in the place of the kept one that differs in what it says of its packed memory."""
    assert rig.blobs is not None
    identity = rig.blobs.identity(rig.serving, rig.serving.revision, DOMAIN, digest(rig.body()))
    (path,) = files(folder)
    assert identity is not None
    file = read_tensors(path.read_bytes(), TensorLimits())
    said = cast(dict[str, Any], file.metadata)
    for *_, written in said["combinations"]:
        change(written["packed"])
    content, cache = write_tensors(file.tensors, said, 64), DiskCache(folder, 1 << 30)
    await cache.put(digest(content), content)
    checks = {"blob": digest(content), "bytes": len(content), "checksum": checksum(content)}
    await cache.write_record(identity.key, Versioned(checks, ""))


@pytest.mark.parametrize(
    "change",
    [
        lambda own: own["sizes"].__setitem__(0, own["sizes"][0] + 1),
        lambda own: own["sizes"].pop(),
        lambda own: own.update(sizes="many"),
        lambda own: own.update(isa="avx1024"),
        lambda own: own.update(memory=10**6),
        lambda own: own.pop("memory"),
    ],
    ids=["layout", "short", "words", "isa", "nowhere", "none"],
)
async def test_a_blob_that_cannot_be_adopted_is_foreign_and_made_anew(
    random_run: Run, tmp_path: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    """Law: whole, of this identity, yet of another layout: it is counted, verified again, and kept rightly."""
    folder = tmp_path / "cache"
    async with rigged(random_run, folder, make=maker({})) as first:
        fresh = first.bits(await first.load(first.body()))
        await reforged(first, folder, change)
    async with rigged(random_run, folder, make=maker({})) as second:
        assert second.bits(await second.load(second.body())) == fresh
        assert second.outcomes == {"foreign": 1, "kept": 1}
        assert second.bits(await second.load(second.body())) == fresh
        assert second.outcomes["used"] == 1
