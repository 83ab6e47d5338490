"""Garbage collection deletes what nobody needs, after a grace period, and never what somebody does."""

from __future__ import annotations

import asyncio
import os
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters_store.canonical import digest
from adapters_store.errors import BlobMissing, DigestMismatch, MalformedRecord, RecordConflict, StoreError
from adapters_store.file import FileBackend
from adapters_store.garbage import MIN_GRACE_S, Collected, collect
from adapters_store.memory import MemoryBackend
from adapters_store.records import ReplicaReport
from adapters_store.references import held_by_records
from adapters_store.releases import Release
from adapters_store.store import AdapterStore
from adapters_store.tensors import write_tensors
from benchmarks.turns import TurnBackend, Turns
from tests.adapters_store.fleets import artifact, fill
from tests.adapters_store.world import World


class Clock:
    """Time that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    """A clock."""
    return Clock()


@pytest.fixture
def store(clock: Clock) -> AdapterStore:
    """An empty store."""
    return AdapterStore(MemoryBackend(), clock)


async def passes(store: AdapterStore, clock: Clock) -> tuple[Collected, Collected]:
    """Both visits."""
    first = await collect(store, MIN_GRACE_S, dry_run=False)
    clock.now += MIN_GRACE_S
    return first, await collect(store, MIN_GRACE_S, dry_run=False)


async def test_what_nobody_names_goes_after_the_grace_period(store: AdapterStore, clock: Clock) -> None:
    """Law: condemned first, deleted only once the grace period is over, and only then."""
    live, orphan = artifact("t", 0), artifact("t", 1)
    await store.set_live("t", "theme", await store.put(live), "me")
    await store.put(orphan)
    await store.put(b"not even an artifact")
    dry = await collect(store, MIN_GRACE_S)
    assert (dry.dry_run, dry.condemned, dry.kept, dry.blobs) == (True, 2, 1, 3)
    assert (await store.domain("t")).condemned == {}  # type: ignore[union-attr]
    first = await collect(store, MIN_GRACE_S, dry_run=False)
    assert (first.condemned, first.deleted) == (2, 0)
    assert set((await store.domain("t")).condemned) == {digest(orphan)}  # type: ignore[union-attr]
    clock.now += MIN_GRACE_S - 1
    early = await collect(store, MIN_GRACE_S, dry_run=False)
    assert (early.condemned, early.waiting, early.deleted) == (0, 2, 0)
    clock.now += 1
    assert (await collect(store, MIN_GRACE_S)).deleted == 2
    late = await collect(store, MIN_GRACE_S, dry_run=False)
    assert (late.deleted, late.deleted_bytes) == (2, len(orphan) + 20)
    assert await store.backend.list_blobs() == [digest(live)]
    assert (await held_by_records(store)).marks in ({}, {"garbage": {}})
    after = await collect(store, MIN_GRACE_S, dry_run=False)
    assert (after.blobs, after.kept, after.condemned, after.deleted, after.spared) == (1, 1, 0, 0, 0)


async def test_everything_that_is_named_stays(store: AdapterStore, clock: Clock, world: World) -> None:
    """Law: roots are aliases, history, pins, the fusion, releases, bundles and feature layers with their parents."""
    put = store.put
    gender = await put(artifact("g", 0))
    fusion = await put(write_tensors({}, {"kind": "fusion"}))
    fused = await put(artifact("t", 0, {"g": gender}, fusion))
    await store.set_live("t", "theme", fused, "me", pins={"g": gender}, fusion=fusion)
    weigher = await put(write_tensors({}, {"kind": "fusion", "divisor": "r"}))
    await store.set_live("h", "gender", await put(artifact("h", 0, {}, weigher)), "me", fusion=weigher)
    history = [await put(artifact("t", number)) for number in range(1, 5)]
    for revision in history:
        await store.set_live("t", "theme", revision, "me")
    await store.set_canary("t", await put(artifact("t", 10)), 5.0, "me")
    await store.set_shadow("t", await put(artifact("t", 11)), 5.0, "me")
    releases = []
    for number in (20, 21, 22):
        release = Release(divisions={"theme": {"t": await put(artifact("t", number))}})
        releases.append(await store.put_release(release))
        if number < 22:
            await store.flip(releases[-1], "me", min_staged=0)
    await store.stage(releases[-1], "me")
    await store.publish_backbone(world.folder / "bundle")
    full = await put(write_tensors({}, {"kind": "features", "parent": None}))
    delta = await put(write_tensors({}, {"kind": "features", "parent": full}))
    await store.set_features("0" * 64, "users", delta, None, "me")
    before = await store.backend.list_blobs()
    garbage = await put(b"garbage")
    first, second = await passes(store, clock)
    assert (first.condemned, first.kept) == (1, len(before))
    assert second.deleted == 1
    assert await store.backend.list_blobs() == before
    assert not await store.has(garbage)


async def test_naming_a_condemned_revision_saves_it(store: AdapterStore, clock: Clock) -> None:
    """Law: publishing what was condemned, or what pins it, takes the mark away; putting it alone does not."""
    await store.set_live("g", "gender", await store.put(artifact("g", 0)), "me")
    pin = await store.put(artifact("g", 1))
    fusion = await store.put(write_tensors({}, {"kind": "fusion"}))
    novel = artifact("t", 0, {"g": pin}, fusion)
    other = artifact("t", 7)
    await store.put(novel)
    await store.put(other)
    assert (await collect(store, MIN_GRACE_S, dry_run=False)).condemned == 4
    await store.put(other)
    await store.set_live("t", "theme", digest(novel), "me", pins={"g": pin}, fusion=fusion)
    marks = (await held_by_records(store)).marks
    assert {revision for found in marks.values() for revision in found} == {digest(other)}
    clock.now += MIN_GRACE_S
    assert (await collect(store, MIN_GRACE_S, dry_run=False)).deleted == 1
    assert await store.has_many([digest(novel), pin, fusion]) == {digest(novel), pin, fusion}


async def test_revision_that_is_being_deleted_cannot_be_named(store: AdapterStore, clock: Clock) -> None:
    """Law: between the last look and the deletion naming is refused with advice, for the revision and as a pin."""

    class Cut(MemoryBackend):
        """Fails to delete."""

        async def delete_blob(self, digest: str) -> None:
            """See Backend."""
            raise StoreError("cut off")

    store = AdapterStore(Cut(), clock)
    await store.set_live("t", "theme", await store.put(artifact("t", 0)), "me")
    doomed, loose = await store.put(artifact("t", 1)), await store.put(b"loose")
    await collect(store, MIN_GRACE_S, dry_run=False)
    clock.now += MIN_GRACE_S
    with pytest.raises(StoreError, match="cut off"):
        await collect(store, MIN_GRACE_S, dry_run=False)
    for naming in (
        store.set_live("t", "theme", doomed, "me"),
        store.set_canary("t", doomed, 5.0, "me"),
        store.set_shadow("t", doomed, 5.0, "me"),
        store.set_live("u", "theme", loose, "me"),
        store.set_live("u", "theme", await store.put(artifact("u", 0)), "me", pins={"t": doomed}),
        store.set_live("u", "theme", await store.put(artifact("u", 0)), "me", fusion=loose),
        store.set_default_backbone(loose),
        store.set_default_backbone(await store.put(b'{"files":[{"sha256":"%s"}]}' % loose.encode())),
        store.set_features("f" * 64, "users", loose, None, "me"),
    ):
        with pytest.raises(BlobMissing, match="is being deleted as garbage: publish it again"):
            await naming
    release = await store.put_release(Release(divisions={"theme": {"t": doomed}}))
    with pytest.raises(RecordConflict, match="garbage is being deleted just now"):
        await store.stage(release, "me")
    with pytest.raises(RecordConflict, match="another collection deletes"):
        await collect(store, MIN_GRACE_S, dry_run=False)


async def test_collection_that_was_cut_off_is_finished(clock: Clock) -> None:
    """Law: after a failure at any call a later collection brings the store to the same state."""

    class Failing(MemoryBackend):
        """Fails at one call."""

        left = 10**9

        async def _count(self) -> None:
            self.left -= 1
            if self.left == 0:
                raise StoreError("cut off")

        async def delete_blob(self, digest: str) -> None:
            """See Backend."""
            await self._count()
            await super().delete_blob(digest)

        async def compare_and_set(self, key: str, expected: int, record: object) -> bool:
            """See Backend."""
            await self._count()
            return await super().compare_and_set(key, expected, record)  # type: ignore[arg-type]

    async def run(cut: int) -> tuple[bool, list[str], object]:
        backend = Failing()
        store = AdapterStore(backend, clock)
        await store.set_live("t", "theme", await store.put(artifact("t", 0)), "me")
        for number in range(1, 4):
            await store.put(artifact("t", number))
        await store.put(b"loose")
        backend.left = cut
        was_cut = False
        for _ in range(4):
            try:
                await collect(store, MIN_GRACE_S, dry_run=False)
            except StoreError:
                was_cut = True
            clock.now += 4 * 3600.0
        marks = {key: dict(found) for key, found in (await held_by_records(store)).marks.items() if found}
        return was_cut, await backend.list_blobs(), marks

    for cut in range(1, 40):
        was_cut, blobs, marks = await run(cut)
        assert (blobs, marks) == ([digest(artifact("t", 0))], {}), cut
        if not was_cut:
            break
    else:
        raise AssertionError("a collection never came to its end")


async def test_release_that_was_collected_when_fewer_were_kept_is_not_missed(store: AdapterStore, clock: Clock) -> None:
    """Law: only the last so many releases are kept, and keeping more again later is no fault."""
    revisions = [await store.put(artifact("t", number)) for number in range(3)]
    releases = [await store.put_release(Release(divisions={"theme": {"t": revision}})) for revision in revisions]
    for release in releases:
        await store.flip(release, "me", min_staged=0)
    for _ in range(2):
        await collect(store, MIN_GRACE_S, dry_run=False, releases=1)
        clock.now += MIN_GRACE_S
    assert await store.has_many([*revisions, *releases]) == {*revisions[1:], *releases[1:]}
    assert (await collect(store, MIN_GRACE_S, dry_run=False)).condemned == 0


async def test_unreadable_record_stops_the_collection(store: AdapterStore, clock: Clock) -> None:
    """Law: where nobody knows what a record names, nothing is condemned."""
    await store.put(b"orphan")
    await store.backend.compare_and_set("domain/t", 0, {"generation": 1, "domain": "t"})
    with pytest.raises(MalformedRecord, match="domain/t"):
        await collect(store, MIN_GRACE_S, dry_run=False)
    assert await store.backend.list_records("") == ["domain/t"]


async def test_damaged_blob_stops_the_collection(store: AdapterStore, clock: Clock, world: World) -> None:
    """Law: where what is kept cannot be read whole, nobody knows what it needs, and nothing is condemned for it."""
    filled = await fill(store, world)
    for damaged in (filled.live, filled.bundle, filled.layers[1], filled.release):
        content = await store.get(damaged)
        await store.backend.delete_blob(damaged)
        await store.backend.put_blob(damaged, content[:-1])
        with pytest.raises(DigestMismatch, match=damaged):
            await collect(AdapterStore(store.backend, clock), MIN_GRACE_S, dry_run=False)
        await store.backend.delete_blob(damaged)
        await store.put(content)
    assert (await held_by_records(store)).marks == {}


async def test_what_only_a_newer_build_understands_stays(store: AdapterStore, clock: Clock) -> None:
    """Law: a revision in a key or a kind of record that this build does not know is named, and so is what it pins."""
    pin = await store.put(artifact("g", 0))
    champion, trial = await store.put(artifact("t", 1, {"g": pin})), await store.put(artifact("t", 2))
    await store.set_live("t", "theme", await store.put(artifact("t", 0)), "me")
    held = await store.backend.read_record("domain/t")
    assert held is not None
    newer = held.record | {"generation": 2, "champion": {"revision": champion, "hours": [1]}}
    assert await store.backend.compare_and_set("domain/t", 1, newer)
    assert await store.backend.compare_and_set("trial/a", 0, {"generation": 1, "arms": {trial: 0.5}})
    before = await store.backend.list_blobs()
    await store.put(b"loose")
    assert [report.deleted for report in await passes(store, clock)] == [0, 1]
    assert await store.backend.list_blobs() == before


@pytest.mark.parametrize(
    "strange",
    [b'{"kind":"release","divisions":[1]}', b'{"files":3}', b'{"files":[{"sha256":[1]}]}', b'{"fuses":[1]}', b"[1]"],
)
async def test_strange_blob_is_collected_like_any_other(store: AdapterStore, clock: Clock, strange: bytes) -> None:
    """Law: whatever lies in a store, looking for what it names fails at nothing."""
    await store.put(strange)
    assert [report.deleted for report in await passes(store, clock)] == [0, 1]


async def test_too_short_a_grace_period_is_refused(store: AdapterStore) -> None:
    """Law: no mistake in a command line makes collection unsafe."""
    with pytest.raises(ValueError, match="shorter than 600 s"):
        await collect(store, 1.0)


async def test_leftovers_of_killed_writers_and_replicas_go(tmp_path: Path, clock: Clock) -> None:
    """Law: temporary files and replicas' reports go once they are older than the grace period."""
    store = AdapterStore(FileBackend(tmp_path, create=True), clock)
    revision = await store.put(b"x")
    old, fresh = (tmp_path / "blobs" / revision[:2] / f".tmp-{name}" for name in ("old", "fresh"))
    for path, age_s in ((old, 2 * MIN_GRACE_S), (fresh, 1.0)):
        path.write_bytes(b"half")
        os.utime(path, (clock.now - age_s, clock.now - age_s))
    await store.report_replica(ReplicaReport(replica="gone"))
    clock.now += MIN_GRACE_S
    await store.report_replica(ReplicaReport(replica="here"))
    os.utime(fresh, (clock.now - 1, clock.now - 1))
    report = await collect(store, MIN_GRACE_S, dry_run=False)
    assert (report.temporary_files, report.replicas) == (1, 1)
    assert (old.exists(), fresh.exists()) == (False, True)
    assert await store.backend.list_records("replica/") == ["replica/here"]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.integers(0, 3), max_size=150), min_size=2, max_size=3), st.data())
def test_publishing_beside_collection_loses_nothing(choices: list[list[int]], data: st.DataObject) -> None:
    """Law: however calls of publishers and a collector interleave, what was acknowledged as live is there, with pins.

    Time moves between visits only: no change takes as long as the grace period.
    """
    asyncio.run(_race(choices, data))


async def _race(choices: list[list[int]], data: st.DataObject) -> None:
    clock = Clock()
    turns = Turns(iter([]))
    backend = TurnBackend(turns)
    setup = AdapterStore(backend, clock)
    pins = [await setup.put(artifact("g", number)) for number in range(2)]
    bodies = [artifact("t", number, {"g": pins[number % 2]}) for number in range(3)]
    await setup.set_live("g", "gender", await setup.put(artifact("g", 9)), "me")
    if data.draw(st.booleans()):
        await setup.set_live("t", "theme", await setup.put(artifact("t", 9)), "me")

    async def publish(numbers: list[int]) -> None:
        store = AdapterStore(backend, clock)
        for number in numbers:
            try:
                await store.put(artifact("g", number % 2))
                await store.put(bodies[number])
                await store.set_live("t", "theme", digest(bodies[number]), "me", pins={"g": pins[number % 2]})
            except BlobMissing:
                continue  # being deleted: told, and to be published again

    async def gather_garbage() -> None:
        await collect(AdapterStore(backend, clock), MIN_GRACE_S, dry_run=False)

    plan = st.lists(st.integers(0, 2), max_size=2)
    for picks in choices:
        numbers = [data.draw(plan) for _ in range(2)]
        turns = Turns(iter(picks))
        backend.take(turns)
        await turns.race([*(partial(publish, picked) for picked in numbers), gather_garbage])
        record = await setup.domain("t")
        if record is not None and record.live is not None:
            number = next((n for n, body in enumerate(bodies) if digest(body) == record.live.revision), None)
            assert await setup.has(record.live.revision)
            assert number is None or await setup.has(pins[number % 2])
        clock.now += MIN_GRACE_S
