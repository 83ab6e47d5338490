"""Laws of prepared blobs: used only where they are whole and of exactly this, and then bit for bit."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from adapters_store.backbone import Backbone
from adapters_store.backend import Versioned
from adapters_store.canonical import digest
from adapters_store.disk import DiskCache
from adapters_store.errors import WrongDomain
from adapters_store.folding import Folded
from adapters_store.tensors import TensorLimits
from benchmarks.forge import Run
from service.engine import Engine, EngineForm
from service.engines.native import EngineAbsent, NativeEngine
from service.prepared.contents import Accepted
from tests.deltas import make_delta, make_overlaid_lora, random_deltas, random_overlay
from tests.service.prepared.rig import DOMAIN, OTHER, CountingEngine, MakeEngine, files, rigged

ROOT = Path(__file__).resolve().parents[3]


def native(precision: Any) -> MakeEngine:
    """A maker of native engines; the test is skipped where they cannot run."""

    def make(backbone: Backbone) -> Engine:
        try:
            return NativeEngine(backbone, precision=precision)
        except EngineAbsent as absent:
            pytest.skip(str(absent))

    return make


@pytest.mark.parametrize("mode", ["attention", "single"])
@pytest.mark.parametrize("make", [CountingEngine, native("fp32"), native("bf16")], ids=["onnx", "fp32", "bf16"])
async def test_scores_by_a_kept_blob_are_bit_equal_to_those_by_a_fresh_preparation(
    three_way_run: Run, tmp_path: Path, make: MakeEngine, mode: str
) -> None:
    """Law: whichever way an adapter came, each of its combinations gives the same bits."""
    async with rigged(three_way_run, tmp_path / "cache", make=make) as first:
        slot = await first.load(first.body(mode=mode))
        fresh = first.bits(slot)
        assert first.outcomes == {"absent": 1, "kept": 1}
    async with rigged(three_way_run, tmp_path / "cache", make=make) as second:
        kept = await second.load(second.body(mode=mode))
        assert second.outcomes == {"used": 1}
        assert list(kept.combinations) == list(slot.combinations)
        assert second.bits(kept) == fresh
        assert (kept.divisions, kept.fuses, kept.made_s) == (slot.divisions, slot.fuses, slot.made_s)


async def test_an_id_overlay_comes_back_with_the_folds(dense_run: Run, tmp_path: Path) -> None:
    """Law: a kept adapter finds the ids of its overlay, and scores them by its own rows."""
    rng = np.random.default_rng(5)
    body = make_overlaid_lora(dense_run, rng, DOMAIN, random_overlay(dense_run.oracle, rng))
    found = []
    for _ in range(2):
        async with rigged(dense_run, tmp_path / "cache") as rig:
            slot = await rig.load(body)
            assert slot.overlay is not None
            places = {
                side: own.index.find([3, "item-2", "brand new", "no"]) for side, own in slot.overlay.sides.items()
            }
            rows = rig.serving.backbone.golden()[0]
            overlaid = {side: np.arange(rows.n) % len(own.index) for side, own in slot.overlay.sides.items()}
            found.append((rig.bits(slot, replace(rows, overlaid=overlaid)), {k: v.tolist() for k, v in places.items()}))
    assert found[0] == found[1]
    assert rig.outcomes == {"used": 1}


async def test_a_kept_adapter_is_neither_read_from_the_store_nor_verified_again(
    random_run: Run, tmp_path: Path
) -> None:
    """Law: a restart reads no artifact and scores no golden row for what was kept."""
    async with rigged(random_run, tmp_path / "cache") as first:
        await first.load(first.body())
    async with rigged(random_run, tmp_path / "cache") as second:
        engine = second.serving.engine
        assert isinstance(engine, CountingEngine)
        before = engine.checked
        await second.load(second.body())
        assert second.backend.reads[digest(second.body())] == 0
        assert engine.checked == before


async def test_a_published_adapter_is_kept_for_the_other_workers(random_run: Run, tmp_path: Path) -> None:
    """Law: who verified an upload leaves what it folded; another worker that loads it uses that."""
    async with rigged(random_run, tmp_path / "cache") as first, rigged(random_run, tmp_path / "cache") as second:
        assert first.blobs is not None
        await first.preparer.slot(await first.preparer.verified(DOMAIN, first.body()))
        await first.blobs.settle()
        await second.load(second.body())
        assert second.outcomes == {"used": 1}


def flip(content: bytes) -> bytes:
    """One bit of the last array."""
    return content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]


@pytest.mark.parametrize("damage", [flip, lambda content: content[:-64], lambda content: b""])
async def test_a_damaged_blob_is_not_used_but_made_anew(
    random_run: Run, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    """Law: a flipped bit and a torn file are found, counted and told; the adapter is verified and kept again."""
    async with rigged(random_run, tmp_path / "cache") as first:
        fresh = first.bits(await first.load(first.body()))
    (path,) = files(tmp_path / "cache")
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(damage(content))
    async with rigged(random_run, tmp_path / "cache") as second:
        assert second.bits(await second.load(second.body())) == fresh
        assert second.outcomes == {"gone": 1, "kept": 1}
        assert len(second.faults) == 1
    assert [each.read_bytes() for each in files(tmp_path / "cache")] == [content]
    async with rigged(random_run, tmp_path / "cache") as third:
        assert third.bits(await third.load(third.body())) == fresh
        assert third.outcomes == {"used": 1}


def formed(**changes: Any) -> MakeEngine:
    """A maker of engines of another form."""

    class Other(CountingEngine):
        @property
        def form(self) -> EngineForm:
            return replace(super().form, **changes)

    return Other


@pytest.mark.parametrize("changes", [{"engine": "native"}, {"precision": "bf16"}, {"isa": "amx"}, {"build": "1"}])
async def test_what_another_engine_accepted_is_not_used(
    random_run: Run, tmp_path: Path, changes: dict[str, str]
) -> None:
    """Law: another engine, precision, instruction set or build of the extension verifies for itself."""
    async with rigged(random_run, tmp_path / "cache", make=formed(**changes)) as first:
        await first.load(first.body())
    async with rigged(random_run, tmp_path / "cache") as second:
        await second.load(second.body())
        assert second.outcomes == {"absent": 1, "kept": 1}


async def test_what_was_accepted_under_other_limits_is_not_used(random_run: Run, tmp_path: Path) -> None:
    """Law: who tightens a limit has every adapter looked at again."""
    async with rigged(random_run, tmp_path / "cache") as first:
        await first.load(first.body())
    async with rigged(random_run, tmp_path / "cache", limits=TensorLimits(combinations=200)) as second:
        await second.load(second.body())
        assert second.outcomes == {"absent": 1, "kept": 1}


async def test_what_is_kept_of_one_domain_serves_no_other(random_run: Run, tmp_path: Path) -> None:
    """Law: a revision that is asked for under another domain is refused as ever."""
    async with rigged(random_run, tmp_path / "cache") as rig:
        await rig.load(rig.body())
        with pytest.raises(WrongDomain):
            await rig.load(rig.body(), OTHER)


@pytest.mark.parametrize("forged", ["another", "noise", "no digest"])
async def test_a_blob_that_is_not_what_its_record_says_is_not_used(
    random_run: Run, tmp_path: Path, forged: str
) -> None:
    """Law: a record that leads to another adapter's blob, to no blob, or nowhere is counted, and made right."""
    async with rigged(random_run, tmp_path / "cache") as first:
        await first.load(first.body(OTHER), OTHER)
        (path,) = files(tmp_path / "cache")
        assert first.blobs is not None
        serving = first.serving
        identity = first.blobs.identity(serving, serving.revision, DOMAIN, digest(first.body()))
        assert identity is not None
        cache, noise = DiskCache(tmp_path / "cache", 1 << 30), b"noise" * 100
        await cache.put(digest(noise), noise)
        named = {"another": path.name, "noise": digest(noise), "no digest": "../../etc"}[forged]
        await cache.write_record(identity.key, Versioned({"blob": named}, ""))
    async with rigged(random_run, tmp_path / "cache") as second:
        fresh = second.bits(await second.load(second.body()))
        assert second.outcomes == {"foreign": 1, "kept": 1}
        assert second.bits(await second.load(second.body())) == fresh
        assert second.outcomes["used"] == 1


async def test_a_mapped_blob_outlives_its_eviction(random_run: Run, tmp_path: Path) -> None:
    """Law: who scores by a blob keeps its bytes while the evictor removes the file, and frees them with the slot."""
    async with rigged(random_run, tmp_path / "cache") as first:
        fresh = first.bits(await first.load(first.body()))
    async with rigged(random_run, tmp_path / "cache", limit_bytes=1 << 20) as second:
        slot = await second.load(second.body())
        assert len(second.mappings) == 1
        (path,) = files(tmp_path / "cache")
        small = DiskCache(tmp_path / "cache", 1 << 20)
        for byte in range(8):
            other = bytes([byte]) * 200_000
            await small.put(digest(other), other)
        assert not path.exists()
        assert second.bits(slot) == fresh
        slot.empty()
        gc.collect()
        assert len(second.mappings) == 0


async def test_past_the_bound_of_mappings_blobs_are_read(random_run: Run, tmp_path: Path) -> None:
    """Law: mappings, each of which holds a descriptor, stay within their bound; the rest is in memory of its own."""
    async with rigged(random_run, tmp_path / "cache") as first:
        fresh = [first.bits(await first.load(first.body(domain), domain)) for domain in (DOMAIN, OTHER)]
    async with rigged(random_run, tmp_path / "cache", mappings=1) as second:
        slots = [await second.load(second.body(domain), domain) for domain in (DOMAIN, OTHER)]
        assert [second.bits(slot) for slot in slots] == fresh
        assert second.outcomes == {"used": 2}
        assert len(second.mappings) == 1


async def test_the_disk_stays_within_its_bound(random_run: Run, tmp_path: Path) -> None:
    """Law: prepared blobs count among the cache's bytes, and the least recently used make room."""
    async with rigged(random_run, tmp_path / "whole") as rig:
        for mode in ("attention", "add", "avg", "single"):
            await rig.load(rig.body(mode=mode))
    sizes = [path.stat().st_size for path in files(tmp_path / "whole")]
    limit = sum(sizes) - min(sizes)
    async with rigged(random_run, tmp_path / "cache", limit_bytes=limit) as rig:
        for mode in ("attention", "add", "avg", "single"):
            await rig.load(rig.body(mode=mode))
            assert sum(path.stat().st_size for path in files(tmp_path / "cache")) <= limit
        assert len(files(tmp_path / "cache")) < 4


async def test_a_delta_is_not_kept(dense_run: Run, tmp_path: Path) -> None:
    """Law: what is as large as a backbone is verified each time, and counted."""
    rng = np.random.default_rng(6)
    body = make_delta(dense_run, rng, DOMAIN, random_deltas(dense_run.oracle, rng))
    async with rigged(dense_run, tmp_path / "cache") as rig:
        await rig.load(body)
        assert rig.outcomes == {"absent": 1, "skipped": 1}
        assert files(tmp_path / "cache") == []


async def test_a_kept_adapter_asks_for_its_backbone(random_run: Run, tmp_path: Path) -> None:
    """Law: who finds a blob has its backbone stay until there is a slot of it; one that finds nothing asks for none,
    and a blob of a backbone that was let go meanwhile is not used."""
    async with rigged(random_run, tmp_path / "cache") as rig:
        assert rig.blobs is not None
        serving, revision = rig.serving, digest(rig.body())
        serving.wanted = False
        assert await rig.blobs.find(DOMAIN, revision, [serving], lambda accepted, own, name: name) is None
        assert not serving.wanted
        await rig.load(rig.body())
        serving.wanted = False
        kept = await rig.blobs.find(DOMAIN, revision, [serving], lambda accepted, own, name: (own.wanted, name))
        assert kept == (True, files(tmp_path / "cache")[0].name)
        assert (await rig.load(rig.body())).kept_as == files(tmp_path / "cache")[0].name
        serving.wanted, held = False, [serving]
        finding = asyncio.create_task(rig.blobs.find(DOMAIN, revision, held, lambda accepted, own, name: name))
        await asyncio.sleep(0)
        held.clear()
        assert await finding is None
        assert not serving.wanted


async def test_a_fault_of_keeping_is_told_and_fails_nobody(random_run: Run, tmp_path: Path) -> None:
    """Law: what cannot be written is told once, when it fails; who waits for the rest hears nothing of it, and its turn
    is given back."""
    told: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context["message"]))
    async with rigged(random_run, tmp_path / "cache") as rig:
        assert rig.blobs is not None
        identity = rig.blobs.identity(rig.serving, rig.serving.revision, DOMAIN, digest(rig.body()))
        unwritable = Accepted((), {}, cast(str, object()), None, {(): Folded({})})
        async with rig.blobs.turn(digest(rig.body())) as turn:
            rig.blobs.keep(identity, unwritable, 0, turn)
        await rig.blobs.settle()
        assert told == ["keeping a prepared adapter failed"]
        await rig.load(rig.body())
        assert rig.outcomes == {"absent": 1, "kept": 1}


async def test_what_waits_for_the_disk_is_bounded_in_bytes(random_run: Run, tmp_path: Path) -> None:
    """Law: beside what is large nothing waits; alone it may, and once it is written there is room again."""
    async with rigged(random_run, tmp_path / "cache") as rig:
        assert rig.blobs is not None
        revisions = [digest(bytes([n])) for n in range(3)]
        identities = [rig.blobs.identity(rig.serving, rig.serving.revision, DOMAIN, each) for each in revisions]
        empty = Accepted((), {}, None, None, {(): Folded({})})
        for identity, revision, size in zip(identities, revisions, (1 << 30, 1 << 10, 1 << 10), strict=True):
            async with rig.blobs.turn(revision) as turn:
                rig.blobs.keep(identity, empty, size, turn)
            if revision == revisions[1]:
                assert rig.outcomes == {"skipped": 1}
                await rig.blobs.settle()
        await rig.blobs.settle()
        assert rig.outcomes == {"skipped": 1, "kept": 2}


async def test_what_the_disk_does_not_take_is_not_said_to_be_kept(random_run: Run, tmp_path: Path) -> None:
    """Law: a blob past the cache's bound leaves neither a record nor a count of it; the next load finds none."""
    async with rigged(random_run, tmp_path / "cache", limit_bytes=1000) as rig:
        await rig.load(rig.body())
        assert rig.outcomes == {"absent": 1, "skipped": 1}
        await rig.load(rig.body())
        assert rig.outcomes == {"absent": 2, "skipped": 2}
        assert files(tmp_path / "cache") == []


async def test_without_a_disk_cache_nothing_is_kept(random_run: Run, tmp_path: Path) -> None:
    """Law: off, an adapter is read and verified at each load, and no file appears."""
    async with rigged(random_run, None) as rig:
        await rig.load(rig.body())
        await rig.load(rig.body())
        assert rig.backend.reads[digest(rig.body())] == 2
    assert files(tmp_path) == []


async def started(run: Run, folder: Path) -> asyncio.subprocess.Process:
    """Another worker, which waits for a word."""
    command = (sys.executable, "-m", "tests.service.prepared.contender", str(run.folder), str(folder))
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdin=pipe, stdout=pipe)


async def test_two_processes_at_once_end_with_one_good_file(random_run: Run, tmp_path: Path) -> None:
    """Law: workers that load an adapter in one moment: one verifies it, and the other uses the blob that it leaves."""
    both = [await started(random_run, tmp_path / "cache") for _ in range(2)]
    assert [await worker.stdout.readline() for worker in both if worker.stdout] == [b"ready\n"] * 2
    said = await asyncio.gather(*(worker.communicate(b"go\n") for worker in both))
    assert [worker.returncode for worker in both] == [0, 0]
    assert len(files(tmp_path / "cache")) == 1
    async with rigged(random_run, tmp_path / "cache") as third:
        slot = await third.load(third.body())
        assert third.outcomes == {"used": 1}
        expected = digest(b"".join(third.bits(slot)))
        assert sorted(out.decode().split() for out, _ in said) == [["0", "1", expected], ["1", "0", expected]]
