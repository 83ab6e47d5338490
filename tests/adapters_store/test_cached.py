"""A truth behind a disk cache: still the contract, and an outage that nobody notices who read before."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from adapters_store.backend import Backend, Versioned
from adapters_store.bounds import ANY_BLOB, Bound
from adapters_store.cached import CachedBackend
from adapters_store.canonical import digest
from adapters_store.disk import DiskCache
from adapters_store.errors import BlobMissing, LimitExceeded, StoreUnavailable
from adapters_store.file import FileBackend
from adapters_store.memory import MemoryBackend
from adapters_store.store import AdapterStore
from tests.adapters_store.contract import BackendContract, Open, record

MIB = 2**20


class Distant(MemoryBackend):
    """A truth that counts what it was asked for, and that can be away."""

    def __init__(self) -> None:
        super().__init__()
        self.away = False
        self.fetched: list[str] = []

    def _reach(self) -> None:
        if self.away:
            raise StoreUnavailable("the store is away")

    async def get_blob(self, digest: str, bound: Bound = ANY_BLOB) -> bytes:
        self._reach()
        self.fetched.append(digest)
        return await super().get_blob(digest, bound)

    async def has_blob(self, digest: str) -> bool:
        self._reach()
        return await super().has_blob(digest)

    async def read_record(self, key: str) -> Versioned | None:
        self._reach()
        return await super().read_record(key)

    async def put_blobs(self, blobs: Mapping[str, bytes]) -> None:
        self._reach()
        await super().put_blobs(blobs)

    async def has_blobs(self, digests: Sequence[str]) -> set[str]:
        self._reach()
        return await super().has_blobs(digests)

    async def read_records(self, keys: Sequence[str]) -> dict[str, Versioned]:
        self._reach()
        return await super().read_records(keys)

    async def compare_and_set(self, key: str, expected: int, record: Mapping[str, Any]) -> bool:
        self._reach()
        return await super().compare_and_set(key, expected, record)


class CachedContract(BackendContract):
    """The contract, but for the one thing that a cache of immutable bytes does otherwise."""

    async def test_deleted_blob_is_gone(self, one: Backend, other: Backend) -> None:
        """Law: the truth's copy is gone for all who ask the truth; who has kept a copy may still read it."""
        await one.put_blobs({digest(content): content for content in (b"x", b"y")})
        await other.delete_blob(digest(b"x"))
        await other.delete_blob(digest(b"x"))
        assert not await one.has_blob(digest(b"x"))
        assert await one.list_blobs() == [digest(b"y")]
        assert await one.get_blob(digest(b"x")) == b"x"


class TestCachedFile(CachedContract):
    """Two replicas, each with its own cache, over one folder."""

    @pytest.fixture
    def open_backend(self, tmp_path: Path) -> Open:
        """A new client with a new cache."""
        numbers = iter(range(100))

        def open_one() -> CachedBackend:
            cache = DiskCache(tmp_path / f"cache-{next(numbers)}", 64 * MIB)
            return CachedBackend(FileBackend(tmp_path / "store", create=True, poll_s=0.02), cache)

        return open_one


class TestCachedMemory(CachedContract):
    """Two workers of one replica: one cache for both."""

    @pytest.fixture
    def open_backend(self, tmp_path: Path) -> Open:
        """A new client of one truth and one cache."""
        truth = MemoryBackend()
        return lambda: CachedBackend(truth, DiskCache(tmp_path / "cache", 64 * MIB))


@pytest.fixture
def truth() -> Distant:
    """Where everything is from."""
    return Distant()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The cache's."""
    return tmp_path / "cache"


@pytest.fixture
def cached(truth: Distant, folder: Path) -> CachedBackend:
    """The truth behind a cache."""
    return CachedBackend(truth, DiskCache(folder, MIB))


def restarted(truth: Distant, folder: Path) -> CachedBackend:
    return CachedBackend(truth, DiskCache(folder, MIB))


async def test_blob_is_fetched_once(truth: Distant, cached: CachedBackend, folder: Path) -> None:
    """Law: the truth is asked for a blob once, by whatever way it is read, also over a restart."""
    await truth.put_blob(digest(b"x"), b"x")
    assert await cached.get_blob(digest(b"x")) == b"x"
    path = await cached.blob_path(digest(b"x"))
    assert path is not None
    assert path.is_relative_to(folder)
    assert await restarted(truth, folder).get_blob(digest(b"x")) == b"x"
    assert truth.fetched == [digest(b"x")]
    await truth.put_blob(digest(b"y"), b"y")
    path = await cached.blob_path(digest(b"y"))
    assert path is not None
    assert path.read_bytes() == b"y"
    assert await cached.get_blob(digest(b"y")) == b"y"
    assert truth.fetched == [digest(b"x"), digest(b"y")]


async def test_damaged_copy_is_fetched_again(truth: Distant, cached: CachedBackend, folder: Path) -> None:
    """Law: a copy that rotted costs a fetch, never a wrong byte."""
    await cached.put_blob(digest(b"artifact"), b"artifact")
    for read in (cached.get_blob, cached.blob_path):
        path = await cached.blob_path(digest(b"artifact"))
        assert path is not None
        path.write_bytes(b"artifacT")
        found = await read(digest(b"artifact"))
        assert (found if isinstance(found, bytes) else found and found.read_bytes()) == b"artifact"
    assert truth.fetched == [digest(b"artifact")] * 2


async def test_a_large_copy_on_disk_is_not_read_for_who_may_read_less(truth: Distant, cached: CachedBackend) -> None:
    """Law: a blob that one reader's bound let onto the disk is held to the next one's, and the refusal is the truth's.

    A copy that grew by damage is no refusal: the truth has the blob as it was.
    """
    name = digest(b"table" * 100)
    await cached.put_blob(name, b"table" * 100)
    for read in (cached.get_blob, cached.blob_path):
        with pytest.raises(LimitExceeded, match=f"{name} is larger than the 499 bytes that setting largest allows"):
            await read(name, Bound(499, "setting largest"))
    path = await cached.blob_path(name, Bound(500, "setting largest"))
    assert path is not None
    path.write_bytes(b"table" * 200)
    assert await cached.get_blob(name, Bound(500, "setting largest")) == b"table" * 100


async def test_bytes_damaged_by_the_truth_are_not_kept(truth: Distant, cached: CachedBackend) -> None:
    """Law: what the truth gave damaged is handed on for its caller to refuse, and asked for again the next time."""
    await truth.put_blob(digest(b"x"), b"rotten")
    for _ in range(2):
        assert await cached.get_blob(digest(b"x")) == b"rotten"
    assert await cached.blob_path(digest(b"x")) is None
    assert len(truth.fetched) == 3


async def test_blob_that_the_truth_lost_is_served_from_disk(truth: Distant, cached: CachedBackend) -> None:
    """Law: a revision is immutable, so a copy outlives the truth's own; without a copy it is missing."""
    await cached.put_blob(digest(b"x"), b"x")
    await cached.delete_blob(digest(b"x"))
    assert await cached.get_blob(digest(b"x")) == b"x"
    with pytest.raises(BlobMissing):
        await cached.get_blob(digest(b"y"))
    with pytest.raises(BlobMissing):
        await cached.blob_path(digest(b"y"))


async def test_file_that_is_evicted_before_it_is_mapped_is_fetched_anew(truth: Distant, folder: Path) -> None:
    """Law: eviction between naming a file and mapping it makes no blob missing that the truth has."""

    class Evicting(DiskCache):
        """Evicts the first file that it names."""

        evicted = False

        async def path(self, digest: str, bound: Bound = ANY_BLOB) -> Path | None:
            found = await super().path(digest, bound)
            if found is not None and not self.evicted:
                self.evicted = True
                found.unlink()
            return found

    revision = await AdapterStore(truth, time.time).put(b"x" * 1000)
    store = AdapterStore(CachedBackend(truth, Evicting(folder, MIB)), time.time)
    assert bytes(await store.map(revision)) == b"x" * 1000
    assert truth.fetched == [revision] * 2


async def test_outage_serves_what_was_read_before(truth: Distant, cached: CachedBackend, folder: Path) -> None:
    """Law: while the truth is away, records come with the version that they had and blobs from disk, to a replica that
    restarts too; what was never read is StoreUnavailable, not absent."""
    await truth.put_blob(digest(b"x"), b"x")
    await truth.compare_and_set("domain/a", 0, record(1, live="x"))
    await cached.get_blob(digest(b"x"))
    seen = await cached.read_record("domain/a")
    assert seen is not None
    truth.away = True
    for client in (cached, restarted(truth, folder)):
        assert await client.read_record("domain/a") == seen
        assert await client.read_records(["domain/a"]) == {"domain/a": seen}
        assert await client.get_blob(digest(b"x")) == b"x"
        assert await client.blob_path(digest(b"x")) is not None
        assert await client.has_blob(digest(b"x"))
        for impossible in (
            client.get_blob(digest(b"y")),
            client.blob_path(digest(b"y")),
            client.has_blob(digest(b"y")),
            client.read_record("domain/b"),
            client.read_records(["domain/a", "domain/b"]),
            client.compare_and_set("domain/a", 1, record(2)),
        ):
            with pytest.raises(StoreUnavailable):
                await impossible


async def test_record_follows_the_truth_when_it_is_there(truth: Distant, cached: CachedBackend) -> None:
    """Law: a kept record never hides a newer one, and an outage gives the last one read."""
    for generation in range(3):
        await truth.compare_and_set("domain/a", generation, record(generation + 1))
        found = await cached.read_record("domain/a")
        assert found is not None
        assert found.record == record(generation + 1)
    truth.away = True
    kept = await cached.read_record("domain/a")
    assert kept is not None
    assert kept.record == record(3)


async def test_absence_is_remembered_for_the_records_of_all(truth: Distant, cached: CachedBackend) -> None:
    """Law: that there are no switches is known in an outage; that there is no such domain is not, for anybody may ask
    for any domain."""
    assert await cached.read_record("switches") is None
    assert await cached.read_record("domain/any") is None
    truth.away = True
    assert await cached.read_record("switches") is None
    with pytest.raises(StoreUnavailable):
        await cached.read_record("domain/any")


async def test_cache_that_is_lost_costs_a_fetch(truth: Distant, cached: CachedBackend, folder: Path) -> None:
    """Law: deleting the folder at any time fails no read that the truth can serve."""
    await cached.put_blob(digest(b"x"), b"x")
    await truth.compare_and_set("domain/a", 0, record(1))
    for _ in range(3):
        shutil.rmtree(folder)
        assert await cached.get_blob(digest(b"x")) == b"x"
        assert await cached.read_record("domain/a") is not None
    assert truth.fetched == [digest(b"x")] * 3


async def test_disk_that_refuses_fails_no_read(truth: Distant, folder: Path) -> None:
    """Law: with a disk that takes nothing every read comes from the truth, and the fault is told."""
    faults: list[str] = []
    cached = CachedBackend(truth, DiskCache(folder, MIB, on_fault=faults.append))
    for part in ("blobs", "records"):
        (folder / part).touch()
    await cached.put_blob(digest(b"x"), b"x")
    await truth.compare_and_set("domain/a", 0, record(1))
    assert await cached.get_blob(digest(b"x")) == b"x"
    assert await cached.blob_path(digest(b"x")) is None
    found = await cached.read_record("domain/a")
    assert found is not None
    assert found.record == record(1)
    assert faults
