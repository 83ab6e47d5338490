"""Checking a store finds whatever is wrong with it, and nothing where nothing is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from adapters_store.checking import check_store
from adapters_store.memory import MemoryBackend
from adapters_store.store import AdapterStore
from tests.adapters_store.fleets import Filled, fill
from tests.adapters_store.world import World

Spoil = Callable[[MemoryBackend, Filled], Awaitable[object]]


@pytest.fixture
async def filled(world: World) -> tuple[AdapterStore, MemoryBackend, Filled]:
    """A store with a bit of everything."""
    backend = MemoryBackend()
    store = AdapterStore(backend, lambda: 0.0)
    return store, backend, await fill(store, world)


async def test_sound_store_has_no_fault(filled: tuple[AdapterStore, MemoryBackend, Filled]) -> None:
    """Law: a store that its own methods filled is sound; everything is counted."""
    store, backend, _ = filled
    steps: list[tuple[str, int, int]] = []
    report = await check_store(store, lambda what, done, of: steps.append((what, done, of)))
    assert report.faults == []
    assert report.sound
    assert report.blobs == len(await backend.list_blobs())
    assert report.records == len(await backend.list_records(""))
    assert ("blobs", report.blobs, report.blobs) in steps
    empty = await check_store(AdapterStore(MemoryBackend(), lambda: 0.0))
    assert (empty.sound, empty.blobs, empty.records) == (True, 0, 0)


async def damage(backend: MemoryBackend, revision: str) -> None:
    await backend.delete_blob(revision)
    await backend.put_blob(revision, b"rotten")


def write(key: str, **content: object) -> Spoil:
    return lambda backend, filled: backend.compare_and_set(key, 0, {"generation": 1, **content})


FAULTS: dict[str, tuple[Spoil, str, str]] = {
    "live gone": (lambda b, f: b.delete_blob(f.live), "domain/t", "names .* which is not in the store"),
    "live rotten": (lambda b, f: damage(b, f.live), "blob ", "not those of its digest"),
    "pin gone": (lambda b, f: b.delete_blob(f.pin), "domain/t", "needs .* which is not in the store"),
    "fusion gone": (lambda b, f: b.delete_blob(f.fusion), "domain/t", "needs .* which is not in the store"),
    "release gone": (lambda b, f: b.delete_blob(f.release), "release", "names .* which is not in the store"),
    "release rotten": (lambda b, f: damage(b, f.release), "release", "names .* is damaged"),
    "released gone": (lambda b, f: b.delete_blob(f.released), "release, release", "names .* not in the store"),
    "bundle gone": (lambda b, f: b.delete_blob(f.bundle), "backbone", "names .* which is not in the store"),
    "full layer gone": (lambda b, f: b.delete_blob(f.layers[0]), "features/", "names .* not in the store"),
    "malformed": (write("domain/x", domain="x"), "domain/x", "division is missing"),
    "another's": (write("domain/x", domain="y", division="d"), "domain/x", "says that it is of domain 'y'"),
    "newer": (write("domain/x", schema=2), "domain/x", "has schema 2, newer than 1"),
}


@pytest.mark.parametrize("name", FAULTS)
async def test_fault_is_found_and_named(filled: tuple[AdapterStore, MemoryBackend, Filled], name: str) -> None:
    """Law: each kind of damage is a fault with its key, what is wrong and what to do."""
    store, backend, content = filled
    spoil, key, what = FAULTS[name]
    await spoil(backend, content)
    # another client: the one that filled the store still holds the release
    report = await check_store(AdapterStore(backend, store.clock))
    assert not report.sound
    matching = [fault for fault in report.faults if fault.key.startswith(key)]
    assert matching, report.faults
    assert all(fault.advice for fault in report.faults)
    with pytest.raises(AssertionError, match=what):
        raise AssertionError(matching[0].what)


async def test_record_of_a_kind_that_is_not_known_is_no_fault(
    filled: tuple[AdapterStore, MemoryBackend, Filled],
) -> None:
    """Law: what a newer build keeps beside is counted and left alone."""
    store, backend, _ = filled
    await backend.compare_and_set("novel/x", 0, {"generation": 1})
    report = await check_store(store)
    assert (report.sound, report.unknown_records) == (True, 1)


async def test_faults_without_end_are_counted(filled: tuple[AdapterStore, MemoryBackend, Filled]) -> None:
    """Law: a ruined store is reported in bounded memory."""
    store, backend, _ = filled
    for i in range(1100):
        await backend.compare_and_set(f"domain/x{i}", 0, {"generation": 1})
    report = await check_store(store)
    assert (len(report.faults), report.more_faults) == (1000, 100)
