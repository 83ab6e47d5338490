"""The adapter store over its backends: revisions, conditions, races, history."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from adapters_store.backend import Backend
from adapters_store.bounds import ANY_BLOB, Bound
from adapters_store.canonical import digest
from adapters_store.errors import (
    BadId,
    BlobMissing,
    DigestMismatch,
    DomainUnknown,
    MalformedRecord,
    RecordConflict,
    StoreUnavailable,
    WrongDomain,
)
from adapters_store.file import FileBackend
from adapters_store.memory import MemoryBackend
from adapters_store.store import AdapterStore
from tests.adapters_store.world import World


@pytest.fixture(params=["memory", "file"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    """Each backend in turn."""
    return MemoryBackend() if request.param == "memory" else FileBackend(tmp_path / "store", create=True)


@pytest.fixture
def store(backend: Backend) -> AdapterStore:
    """A store whose clock ticks a second a change."""
    ticks = itertools.count(1_700_000_000)
    return AdapterStore(backend, lambda: float(next(ticks)))


async def put(store: AdapterStore, count: int) -> list[str]:
    return [await store.put(f"artifact {i}".encode()) for i in range(count)]


async def test_revision_is_the_digest_of_the_bytes(store: AdapterStore) -> None:
    """Law: bytes are named by their sha256 and come back by it."""
    revision = await store.put(b"bytes")
    assert revision == digest(b"bytes")
    assert await store.has(revision)
    assert await store.get(revision) == b"bytes"
    assert not await store.has(digest(b"other"))
    with pytest.raises(BlobMissing):
        await store.get(digest(b"other"))


class Bending(MemoryBackend):
    """A store behind a line that bends the first answers."""

    def __init__(self, bent: int) -> None:
        super().__init__()
        self.bent = bent

    async def get_blob(self, digest: str, bound: Bound = ANY_BLOB) -> bytes:
        """Bytes that are damaged so often."""
        content = await super().get_blob(digest, bound)
        self.bent -= 1
        return content if self.bent < 0 else content[:-1] + b"?"


async def test_bytes_damaged_on_their_way_are_asked_for_again() -> None:
    """Law: only what stays damaged is refused, so a line that bends an answer now and then costs no revision."""
    backend = Bending(2)
    store = AdapterStore(backend, lambda: 0.0)
    revision = await store.put(b"bytes")
    assert await store.get(revision) == b"bytes"
    backend.bent = 3
    with pytest.raises(DigestMismatch):
        await store.get(revision)


async def test_damaged_bytes_are_never_handed_out(backend: Backend, store: AdapterStore) -> None:
    """Law: everything read is checked against its digest."""
    await backend.put_blob(digest(b"right"), b"wrong")
    with pytest.raises(DigestMismatch, match="publish it again"):
        await store.get(digest(b"right"))


async def test_ids_are_checked_at_every_entry(store: AdapterStore) -> None:
    """Law: what is no id reaches no backend."""
    (revision,) = await put(store, 1)
    for call in (
        store.get("../x"),
        store.has("x"),
        store.domain("a/b"),
        store.set_live("a/b", "theme", revision, "me"),
        store.set_live("a", "the me", revision, "me"),
        store.set_live("a", "theme", "x", "me"),
        store.rollback("a/b", revision, "me"),
        store.rollback("a", "x", "me"),
        store.delete("a/b", "me"),
        store.set_default_backbone("x"),
        store.bundle("x"),
    ):
        with pytest.raises(BadId):
            await call


async def test_publish_swap_rollback_delete_and_back(store: AdapterStore) -> None:
    """Law: the whole life of a domain, with its generation counting every change."""
    a, b, c = await put(store, 3)
    assert await store.domain("t") is None
    for generation, revision in enumerate([a, b, c], start=1):
        record = await store.set_live("t", "theme", revision, "me")
        assert record == await store.domain("t")
        assert record.generation == generation
    assert [entry.revision for entry in record.previous] == [b, a]
    record = await store.rollback("t", c, "you")
    assert record.live is not None
    assert (record.live.revision, record.by, record.updated_at) == (b, "you", "2023-11-14T22:13:23.000Z")
    record = await store.delete("t", "me")
    assert (record.deleted, record.live, record.generation) == (True, None, 5)
    with pytest.raises(RecordConflict, match="the live revision is none"):
        await store.rollback("t", b, "me")
    record = await store.set_live("t", "theme", c, "me", create_only=True)
    assert (record.deleted, record.generation) == (False, 6)
    assert [entry.revision for entry in record.previous] == [b, a]


async def test_what_is_live_already_is_unchanged_before_conditions(store: AdapterStore) -> None:
    """Law: repeating a publish succeeds and changes nothing, whatever condition comes with it."""
    (revision,) = await put(store, 1)
    first = await store.set_live("t", "theme", revision, "me")
    assert await store.set_live("t", "theme", revision, "you", if_generation=77, create_only=True) == first


async def test_conditions_are_kept(store: AdapterStore) -> None:
    """Law: a change under a condition happens at that generation or not at all."""
    a, b = await put(store, 2)
    with pytest.raises(RecordConflict, match="has generation 0, not 1"):
        await store.set_live("t", "theme", a, "me", if_generation=1)
    assert await store.domain("t") is None
    await store.set_live("t", "theme", a, "me", if_generation=0)
    for lost in (
        store.set_live("t", "theme", b, "me", if_generation=0),
        store.set_live("t", "theme", b, "me", create_only=True),
        store.rollback("t", b, "me"),
        store.delete("t", "me", if_generation=2),
    ):
        with pytest.raises(RecordConflict):
            await lost
    assert (await store.set_live("t", "theme", b, "me", if_generation=1)).generation == 2
    with pytest.raises(RecordConflict):
        await store.rollback("t", b, "me", if_generation=1)
    assert (await store.rollback("t", b, "me", if_generation=2)).generation == 3


async def test_only_stored_revisions_become_live(store: AdapterStore) -> None:
    """Law: a record never names bytes that are not there."""
    with pytest.raises(BlobMissing, match="put it there before it becomes live"):
        await store.set_live("t", "theme", "0" * 64, "me")
    with pytest.raises(BlobMissing, match="publish it first"):
        await store.set_default_backbone("0" * 64)
    assert await store.domain("t") is None


async def test_domain_of_another_division_is_refused(store: AdapterStore) -> None:
    """Law: a domain id belongs to one division."""
    a, b = await put(store, 2)
    await store.set_live("t", "theme", a, "me")
    with pytest.raises(WrongDomain):
        await store.set_live("t", "gender", b, "me")


async def test_unknown_domain_is_named(store: AdapterStore) -> None:
    """Law: there is nothing to roll back or delete in a domain that nobody published."""
    with pytest.raises(DomainUnknown, match="no domain 't'"):
        await store.rollback("t", "0" * 64, "me")
    with pytest.raises(DomainUnknown, match="no domain 't'"):
        await store.delete("t", "me")


async def test_writers_of_one_domain_lose_nothing(store: AdapterStore) -> None:
    """Law: of unconditional writers each one's change happens: a lost race is tried again."""
    revisions = await put(store, 12)
    await asyncio.gather(*(store.set_live("t", "theme", revision, "me") for revision in revisions))
    record = await store.domain("t")
    assert record is not None
    assert record.generation == 12
    assert record.live is not None
    assert {record.live.revision, *(entry.revision for entry in record.previous)} == set(revisions)


async def test_two_who_roll_back_one_fault_roll_back_once(store: AdapterStore) -> None:
    """Law: `from` makes a rollback happen once however many ask for it."""
    a, b, c = await put(store, 3)
    for revision in (a, b, c):
        await store.set_live("t", "theme", revision, "me")
    results = await asyncio.gather(*(store.rollback("t", c, f"{i}") for i in range(4)), return_exceptions=True)
    assert sum(isinstance(result, RecordConflict) for result in results) == 3
    record = await store.domain("t")
    assert record is not None
    assert record.live is not None
    assert record.live.revision == b


async def test_domains_are_listed_in_pages_and_polled(store: AdapterStore) -> None:
    """Law: listing goes in order of id, tombstones included; polling gives each domain's generation."""
    a, b = await put(store, 2)
    for domain in ("c", "a", "b"):
        await store.set_live(domain, "theme", a, "me")
    await store.set_live("a", "theme", b, "me")
    await store.delete("b", "me")
    assert [record.domain for record in await store.domains()] == ["a", "b", "c"]
    assert [record.domain for record in await store.domains(after="a", limit=1)] == ["b"]
    assert await store.domains(after="c") == []
    assert {record.domain: record.generation for record in await store.domains()} == {"a": 2, "b": 2, "c": 1}
    assert set(await store.versions()) == {"domain/a", "domain/b", "domain/c"}


async def test_record_that_cannot_be_read_is_an_error(backend: Backend, store: AdapterStore) -> None:
    """Law: nonsense under a domain's key is never taken for a record."""
    await backend.compare_and_set("domain/t", 0, {"generation": 1, "domain": "t"})
    with pytest.raises(MalformedRecord, match="record 'domain/t': division is missing"):
        await store.domain("t")


async def test_default_backbone_moves_and_remembers(store: AdapterStore, world: World) -> None:
    """Law: publishing a bundle makes it the default; the one before stays in the history."""
    assert (await store.backbone_record()).default is None
    first = await store.publish_backbone(world.folder / "bundle", "me")
    assert first == world.backbone.revision
    again = await store.publish_backbone(world.folder / "bundle", "you")
    record = await store.backbone_record()
    assert (again, record.default, record.generation, record.by) == (first, first, 1, "me")
    second = await store.publish_backbone(World(world.folder / "second", seed=1).folder / "bundle")
    record = await store.backbone_record()
    assert (record.default, record.previous, record.generation) == (second, [first], 2)
    assert (await store.bundle(first)).fingerprint == world.backbone.fingerprint


class Contended(MemoryBackend):
    """Someone else is always first."""

    async def compare_and_set(self, key: str, expected: int, record: Mapping[str, Any]) -> bool:
        """Lost."""
        return False


async def test_races_lost_without_end_are_an_error() -> None:
    """Law: a store never spins for ever."""
    store = AdapterStore(Contended(), lambda: 0.0)
    revision = await store.put(b"x")
    with pytest.raises(StoreUnavailable, match="lost to other writers"):
        await store.set_live("t", "theme", revision, "me")
