"""Fleets: thousands of adapters stored and made live, resumable, as single publishes or as one release."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest

from adapters_store.backend import Change
from adapters_store.canonical import digest
from adapters_store.errors import BadId, BlobMissing, DigestMismatch, Frozen, StoreUnavailable, WrongDomain
from adapters_store.memory import MemoryBackend
from adapters_store.records import ReplicaReport
from adapters_store.releases import effective
from adapters_store.shipping import Parcel, publish_fleet
from adapters_store.store import AdapterStore


class Counted(MemoryBackend):
    """Counts what is sent, and fails when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = 0
        self.fail_after = 10**9
        self.meanwhile: list[Change] = []

    async def put_blobs(self, blobs: Mapping[str, bytes]) -> None:
        """See Backend."""
        if self.sent >= self.fail_after:
            raise StoreUnavailable("away")
        self.sent += len(blobs)
        await super().put_blobs(blobs)

    async def compare_and_set_many(self, changes: list[Change]) -> list[bool]:  # type: ignore[override]
        """See Backend; another writer may be first."""
        for change in self.meanwhile:
            assert await self.compare_and_set(change.key, change.expected, change.record)
        self.meanwhile = []
        return await super().compare_and_set_many(changes)


@pytest.fixture
def backend() -> Counted:
    """An empty store's backend."""
    return Counted()


@pytest.fixture
def store(backend: Counted) -> AdapterStore:
    """An empty store."""
    return AdapterStore(backend, lambda: 0.0)


def fleet(count: int, salt: str = "") -> list[Parcel]:
    contents = [f"adapter {i} {salt}".encode() for i in range(count)]
    return [Parcel(f"d{i}", "theme", digest(content), content) for i, content in enumerate(contents)]


async def serving(store: AdapterStore, domain: str) -> str | None:
    pointer = await store.pointer()
    release = None if pointer.release is None else await store.release(pointer.release)
    return effective(await store.domain(domain), pointer, release, domain)


async def test_fleet_is_published_and_a_second_time_sends_nothing(store: AdapterStore, backend: Counted) -> None:
    """Law: every domain serves its adapter; repeating sends no bytes and changes no record."""
    steps: Counter[str] = Counter()
    first = await publish_fleet(fleet(2500), store, "me", on_step=lambda what, more: steps.update({what: more}))
    assert (first.stored, first.there, first.activated, first.unchanged) == (2500, 0, 2500, 0)
    assert steps == {"stored": 2500, "activated": 2500}
    for parcel in fleet(2500)[::251]:
        assert await serving(store, parcel.domain) == parcel.revision
    versions = await store.versions()
    again = await publish_fleet(fleet(2500), store, "you")
    assert (again.stored, again.there, again.activated, again.unchanged) == (0, 2500, 0, 2500)
    assert await store.versions() == versions
    assert backend.sent == 2500


async def test_interrupted_fleet_goes_on_where_it_was(store: AdapterStore, backend: Counted) -> None:
    """Law: nothing is visible after an interruption of storing; the next try sends only what is missing."""
    backend.fail_after = 600
    with pytest.raises(StoreUnavailable):
        await publish_fleet(fleet(1500), store, "me")
    assert await store.versions() == {}
    sent, backend.fail_after = backend.sent, 10**9
    assert sent >= 512
    again = await publish_fleet(fleet(1500), store, "me")
    assert again.there >= 512
    assert again.stored + again.there == 1500
    assert await serving(store, "d1499") == fleet(1500)[1499].revision


async def test_fleet_is_read_as_it_is_sent(store: AdapterStore, tmp_path: Path) -> None:
    """Law: files may be given instead of bytes; one that changed is refused by name before anything is visible."""
    parcels = []
    for parcel in fleet(3):
        path = tmp_path / f"{parcel.domain}.safetensors"
        assert isinstance(parcel.content, bytes)
        path.write_bytes(parcel.content)
        parcels.append(Parcel(parcel.domain, parcel.division, parcel.revision, path))
    path.write_bytes(b"changed")
    with pytest.raises(DigestMismatch, match=r"d2\.safetensors changed after it was verified"):
        await publish_fleet(iter(parcels), store, "me")
    path.unlink()
    with pytest.raises(StoreUnavailable, match=r"cannot read d2\.safetensors"):
        await publish_fleet(iter(parcels), store, "me")
    assert await store.versions() == {}
    assert (await publish_fleet(iter(parcels[:2]), store, "me")).activated == 2


async def test_fleet_as_a_release_leaves_records_alone(store: AdapterStore) -> None:
    """Law: a release is stored and staged; domains change by the flip and come back by its rollback."""
    await publish_fleet(fleet(20), store, "me")
    before = {key: version for key, version in (await store.versions()).items() if key.startswith("domain/")}
    shipped = await publish_fleet(fleet(25, "next"), store, "me", as_release=True)
    assert shipped.release is not None
    assert (await store.staged()).release == shipped.release
    assert await serving(store, "d3") == fleet(20)[3].revision
    await store.report_replica(ReplicaReport(replica="r", release=shipped.release, staged=25, of=25))
    await store.flip(shipped.release, "me")
    assert await serving(store, "d3") == fleet(25, "next")[3].revision
    assert await serving(store, "d24") == fleet(25, "next")[24].revision
    await store.roll_back_release(shipped.release, "me")
    assert await serving(store, "d3") == fleet(20)[3].revision
    assert await serving(store, "d24") is None
    assert {k: v for k, v in (await store.versions()).items() if k.startswith("domain/")} == before


async def test_batch_is_repeated_where_a_flip_or_a_writer_came_between(store: AdapterStore, backend: Counted) -> None:
    """Law: a batch that raced with a flip stands above it, and a lost race is tried again."""
    hiding = await publish_fleet(fleet(10, "hiding"), store, "me", as_release=True, stage=False)
    assert hiding.release is not None
    other = await store.put(b"other")
    mine = await store.set_live("d4", "theme", other, "someone")
    pointer = {"schema": 1, "generation": 1, "release": hiding.release, "since": 1}
    changed = {**mine.model_dump(mode="json"), "generation": 2, "by": "another"}
    backend.meanwhile = [Change("release", 0, pointer), Change("domain/d4", 1, changed)]
    shipped = await publish_fleet(fleet(10), store, "me")
    assert shipped.activated == 10
    for parcel in fleet(10):
        assert await serving(store, parcel.domain) == parcel.revision


async def test_refusals_name_what_is_wrong(store: AdapterStore) -> None:
    """Law: a fleet is refused for an absent pin, a domain of another division, a domain twice, and while frozen."""
    await publish_fleet(fleet(2), store, "me")
    (novel,) = fleet(1, "novel")
    moved = Parcel(novel.domain, "gender", novel.revision, novel.content)
    pinning = Parcel(novel.domain, "theme", novel.revision, novel.content, {"g": "0" * 64})
    with pytest.raises(WrongDomain, match="'d0' is of division 'theme'"):
        await publish_fleet([moved], store, "me")
    with pytest.raises(BlobMissing, match="0000 is not in the store"):
        await publish_fleet([pinning], store, "me")
    with pytest.raises(BadId, match="'d0' stands twice"):
        await publish_fleet([novel, novel], store, "me")
    await store.freeze(None, "ops", "incident 7")
    with pytest.raises(Frozen, match=r"stopped by ops since .*: incident 7"):
        await publish_fleet([novel], store, "me")
    assert await serving(store, "d0") == fleet(2)[0].revision


async def test_fleets_published_at_once_both_happen(store: AdapterStore) -> None:
    """Law: of two writers of the same domains none is lost: each domain has both in its record."""
    await asyncio.gather(*(publish_fleet(fleet(50, salt), store, "me") for salt in ("one", "two")))
    for parcels in zip(fleet(50, "one"), fleet(50, "two"), strict=True):
        record = await store.domain(parcels[0].domain)
        assert record is not None
        assert record.names() == {parcel.revision for parcel in parcels}
