"""Copying a store: everything, generations included, resumable, and never a destination that names what it lacks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from adapters_store.backend import Change
from adapters_store.checking import check_store
from adapters_store.copying import copy_store
from adapters_store.errors import DigestMismatch, RecordConflict, StoreUnavailable
from adapters_store.file import FileBackend
from adapters_store.memory import MemoryBackend
from adapters_store.store import AdapterStore
from tests.adapters_store.fleets import Filled, artifact, fill
from tests.adapters_store.world import World


class Watched(MemoryBackend):
    """A destination that is checked at every change of a record, and fails when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.calls_left = 10**9
        self.written: list[str] = []

    async def put_blob(self, digest: str, content: bytes) -> None:
        """See Backend."""
        self._call()
        await super().put_blob(digest, content)

    async def compare_and_set(self, key: str, expected: int, record: Mapping[str, Any]) -> bool:
        """See Backend."""
        self._call()
        done = await super().compare_and_set(key, expected, record)
        report = await check_store(AdapterStore(self, lambda: 0.0))
        assert report.faults == []
        self.written.append(key)
        return done

    async def compare_and_set_many(self, changes: list[Change]) -> list[bool]:  # type: ignore[override]
        """See Backend; one after the other, so that each is checked."""
        return [await self.compare_and_set(one.key, one.expected, one.record) for one in changes]

    def _call(self) -> None:
        self.calls_left -= 1
        if self.calls_left < 0:
            raise StoreUnavailable("cut off")


@pytest.fixture
async def source(world: World) -> tuple[AdapterStore, Filled]:
    """A store with a bit of everything."""
    store = AdapterStore(MemoryBackend(), lambda: 0.0)
    return store, await fill(store, world)


async def contents(store: AdapterStore) -> tuple[dict[str, Any], dict[str, bytes]]:
    backend = store.backend
    keys = await backend.list_records("")
    return (
        {key: held.record for key, held in (await backend.read_records(keys)).items()},
        {revision: await backend.get_blob(revision) for revision in await backend.list_blobs()},
    )


async def test_copy_is_the_same_store_on_another_backend(source: tuple[AdapterStore, Filled], tmp_path: Path) -> None:
    """Law: records with their generations and blobs are copied; a second copy finds all of it there."""
    store, _ = source
    destination = AdapterStore(FileBackend(tmp_path, create=True), lambda: 0.0)
    steps: list[str] = []
    first = await copy_store(store, destination, lambda what, done, of: steps.append(what))
    assert await contents(destination) == await contents(store)
    assert (first.blobs_there, first.records_there) == (0, 0)
    again = await copy_store(store, destination)
    assert (again.blobs, again.records) == (0, 0)
    assert (again.blobs_there, again.records_there) == (first.blobs, first.records)
    assert set(steps) == {"blobs", "records"}


async def test_copy_goes_on_where_it_was_cut_off_and_is_sound_at_every_moment(
    source: tuple[AdapterStore, Filled],
) -> None:
    """Law: cut off at any call, the destination names nothing that it lacks, and the next copy sends only the rest."""
    store, _ = source
    whole = Watched()
    await copy_store(store, AdapterStore(whole, lambda: 0.0))
    assert whole.written[-1] == "release"
    calls = 10**9 - whole.calls_left
    for cut in range(0, calls, 3):
        backend = Watched()
        destination = AdapterStore(backend, lambda: 0.0)
        backend.calls_left = cut
        with pytest.raises(StoreUnavailable, match="cut off"):
            await copy_store(store, destination)
        backend.calls_left = 10**9
        rest = await copy_store(store, destination)
        assert rest.blobs + rest.records <= calls - cut + 8  # what was in flight may be sent twice
        assert await contents(destination) == await contents(store)


async def test_what_changed_is_copied_by_the_next_copy(source: tuple[AdapterStore, Filled]) -> None:
    """Law: a record that went on in the source replaces the destination's."""
    store, _ = source
    destination = AdapterStore(Watched(), lambda: 0.0)
    await copy_store(store, destination)
    await store.set_live("t", "theme", await store.put(artifact("t", 9)), "me")
    again = await copy_store(store, destination)
    assert (again.blobs, again.records) == (1, 1)
    assert await contents(destination) == await contents(store)


async def test_blob_that_comes_while_records_are_copied_goes_before_its_record(
    source: tuple[AdapterStore, Filled],
) -> None:
    """Law: the source may be in use: what a record names is copied with its pins before the record."""
    store, _ = source
    destination = AdapterStore(Watched(), lambda: 0.0)
    novel = await store.put(artifact("g", 5))

    def publish(what: str, done: int, of: int) -> None:
        if what == "blobs" and done == of:
            backend = store.backend
            assert isinstance(backend, MemoryBackend)
            backend._blobs[late] = body  # as another process would: no call of ours to await here
            held = backend._records["domain/t"]
            held.record["live"]["revision"] = late
            held.record["generation"] += 1

    body = artifact("t", 8, {"g": novel})
    late = await AdapterStore(MemoryBackend(), lambda: 0.0).put(body)
    await copy_store(store, destination, publish)
    assert await contents(destination) == await contents(store)


async def test_newer_destination_is_refused(source: tuple[AdapterStore, Filled]) -> None:
    """Law: a copy never takes a record back, nor sideways; what is equal is no conflict."""
    store, _ = source
    destination = AdapterStore(MemoryBackend(), lambda: 0.0)
    await copy_store(store, destination)
    await destination.delete("t", "other")
    with pytest.raises(RecordConflict, match=r"'domain/t' of the destination is newer \(4, the source has 3\)"):
        await copy_store(store, destination)
    await store.set_live("t", "theme", await store.put(artifact("t", 9)), "me")
    with pytest.raises(RecordConflict, match="is another one of the same generation"):
        await copy_store(store, destination)
    record = await destination.domain("t")
    assert record is not None
    assert record.deleted


async def test_damaged_blob_is_not_copied(source: tuple[AdapterStore, Filled]) -> None:
    """Law: bytes are verified on the way: a damaged blob is left out, and stops the copy if a record names it."""
    store, filled = source
    destination = AdapterStore(MemoryBackend(), lambda: 0.0)
    loose = await store.put(b"another loose one")
    for revision in (loose, filled.live):
        await store.backend.delete_blob(revision)
        await store.backend.put_blob(revision, b"rotten")
    with pytest.raises(DigestMismatch, match=f"blob {filled.live} is damaged"):
        await copy_store(store, destination)
    await store.backend.delete_blob(filled.live)
    await store.put(artifact("t", 2, {"g": filled.pin}, filled.fusion))
    assert (await copy_store(store, destination)).damaged == [loose]
    assert not await destination.has(loose)
