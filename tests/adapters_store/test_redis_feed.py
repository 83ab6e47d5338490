"""The feed of a Redis store: nothing is missed, and where something may be, it says so."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from adapters_store.backend import Change
from adapters_store.redis import RedisBackend, open_redis
from adapters_store.redis_feed import START, Event, Id, follow, pack, parse_events, parse_id, unpack
from adapters_store.redis_single import SingleLink
from adapters_store.redis_urls import parse_redis_url
from tests.adapters_store.contract import record, told
from tests.servers.valkey import Cluster, Valkey, valkey, valkey_cluster

LIMIT_S = 5.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """One server; each test has a prefix of its own."""
    with valkey(tmp_path_factory.mktemp("valkey")) as running:
        yield running


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three primaries."""
    with valkey_cluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


@pytest.fixture(params=["server", "cluster"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[tuple[RedisBackend, Callable[[str], int]]]:
    """An empty store, and what removes its keys of a pattern behind its back."""
    running: Valkey | Cluster = request.getfixturevalue(request.param)
    backend = open_redis(f"{running.url}?prefix={secrets.token_hex(8)}", timeout_s=5)

    def remove(pattern: str) -> int:
        removed = 0
        for node in running.nodes if isinstance(running, Cluster) else (running,):
            with node.client() as client:
                for key in client.keys(f"{backend.prefix}:{pattern}"):  # type: ignore[union-attr]
                    removed += bool(client.delete(key))
        return removed

    yield backend, remove
    await backend.close()


async def write(backend: RedisBackend, *names: str, generation: int = 1) -> None:
    changes = [Change(f"domain/{name}", generation - 1, record(generation)) for name in names]
    assert all(await backend.compare_and_set_many(changes))


async def test_first_write_of_a_new_store_is_no_reason_to_compare_everything(
    store: tuple[RedisBackend, Callable[[str], int]],
) -> None:
    """Law: a reader who came before the first write hears of every one, by name."""
    backend, _ = store
    began = await backend.changes(None, 0)
    names = [str(i) for i in range(100)]
    await write(backend, *names)
    await told(backend, began.position, {f"domain/{name}" for name in names})


async def test_reader_far_behind_catches_up_in_steps(store: tuple[RedisBackend, Callable[[str], int]]) -> None:
    """Law: more events of one tag than one answer holds are told by several, and none is missed."""
    backend, _ = store
    began = await backend.changes(None, 0)
    for _ in range(11):
        await asyncio.gather(*(backend.hint("domain/same") for _ in range(100)))
    await write(backend, "last")
    first = await backend.changes(began.position, LIMIT_S)
    assert not first.resync
    second = await backend.changes(first.position, LIMIT_S)
    assert "domain/same" in first.keys & second.keys
    await told(backend, began.position, {"domain/same", "domain/last"})


async def test_wiped_store_makes_every_reader_compare(store: tuple[RedisBackend, Callable[[str], int]]) -> None:
    """Law: after a wipe a reader is told to compare everything, also when as much was written anew."""
    backend, remove = store
    await write(backend, "a", "b")
    position = (await backend.changes(None, 0)).position
    assert remove("*")
    wiped = await asyncio.wait_for(backend.changes(position, 60), LIMIT_S)
    assert wiped.resync
    await write(backend, "a", "b")
    await told(backend, wiped.position, {"domain/a", "domain/b"})
    assert (await backend.changes(position, 0)).resync


@pytest.mark.parametrize("more", [1, 2, 5])
async def test_store_written_anew_past_the_position_is_noticed(
    store: tuple[RedisBackend, Callable[[str], int]], more: int
) -> None:
    """Law: another history is told from the one that was read, though it is as long, or longer."""
    backend, remove = store
    await backend.hint("domain/a")
    position = (await backend.changes(None, 0)).position
    assert remove("*")
    for _ in range(more):
        await backend.hint("domain/a")
    assert (await backend.changes(position, 0)).resync


async def test_wiped_stream_is_noticed_where_events_are_lost(
    store: tuple[RedisBackend, Callable[[str], int]],
) -> None:
    """Law: a stream that was removed matters to who had not read its end, and to nobody else."""
    backend, remove = store
    await write(backend, "a")
    behind = (await backend.changes(None, 0)).position
    await write(backend, "a", generation=2)
    ahead = (await backend.changes(None, 0)).position
    assert remove("*:feed")
    assert (await backend.changes(behind, 0)).resync
    assert not (await backend.changes(ahead, 0)).resync
    await write(backend, "a", generation=3)
    assert (await backend.changes(behind, 0)).resync
    after = await backend.changes(ahead, LIMIT_S)
    assert (after.keys, after.resync) == ({"domain/a"}, False)


async def test_lost_end_of_the_history_is_noticed(
    store: tuple[RedisBackend, Callable[[str], int]], server: Valkey
) -> None:
    """Law: a position past the end (a restored backup, a failover that lost writes) means comparing everything."""
    backend, _ = store
    for _ in range(3):
        await backend.hint("domain/a")
    ids = unpack((await backend.changes(None, 0)).position, 64)
    assert ids is not None
    ahead = [(count + 1, mark ^ 1) if count else (count, mark) for count, mark in ids]
    assert (await backend.changes(pack(ahead), 0)).resync
    await backend.hint("domain/a")
    await backend.hint("domain/a")
    assert (await backend.changes(pack(ahead), 0)).resync


async def test_trimmed_stream_makes_who_is_behind_compare(server: Valkey) -> None:
    """Law: a stream keeps its bound of events; who is further behind compares everything, who is not goes on."""
    target = parse_redis_url(f"{server.url}?prefix={secrets.token_hex(8)}")
    backend = RedisBackend(SingleLink(target, 5), target.prefix, kept_events=10)
    position = (await backend.changes(None, 0)).position
    await backend.hint("domain/a")
    near = (await backend.changes(None, 0)).position
    for _ in range(10):
        await backend.hint("domain/a")
    assert (await backend.changes(position, 0)).resync
    within = await backend.changes(near, 0)
    assert (within.keys, within.resync) == ({"domain/a"}, False)
    with server.client() as client:
        (feed,) = client.keys(f"{target.prefix}:*:feed")  # type: ignore[misc]
        assert client.xlen(feed) == 10
    await backend.close()


async def test_lost_write_leaves_no_event(store: tuple[RedisBackend, Callable[[str], int]]) -> None:
    """Law: who is told of a change finds one: a conditional write that lost, or removed nothing, is not told."""
    backend, _ = store
    await write(backend, "a")
    began = await backend.changes(None, 0)
    assert not await backend.compare_and_set("domain/a", 0, record(1, by="lost"))
    assert not await backend.delete_record("domain/a", 7)
    assert not await backend.delete_record("domain/absent", 0)
    after = await backend.changes(began.position, 0)
    assert (after.keys, after.resync) == (frozenset(), False)


async def test_position_is_of_bounded_size(store: tuple[RedisBackend, Callable[[str], int]]) -> None:
    """Law: a position is printable ASCII of about a thousand characters, however much was written."""
    backend, _ = store
    await write(backend, *(str(i) for i in range(200)))
    position = (await backend.changes(None, 0)).position
    assert position.isascii()
    assert position.isprintable()
    assert len(position) <= 1024


IDS: list[Id] = [START, (1, 7), (2, 3), (3, 9), (4, 1)]
EVENTS = [Event(IDS[i], IDS[i - 1], f"k{i}") for i in range(1, 5)]


def test_chain_of_events_is_followed_to_its_end() -> None:
    """Law: from every id of a history the events behind it lead to its end."""
    for i, at in enumerate(IDS):
        assert follow(at, IDS[-1], EVENTS[i:], whole=True) == IDS[-1]
        assert follow(at, IDS[2], EVENTS[i:], whole=True) in (IDS[-1], None)


def test_broken_chain_is_not_followed() -> None:
    """Law: a gap, another mark, an end that comes too soon or a position past the end is never followed."""
    assert follow(START, IDS[-1], EVENTS[1:], whole=True) is None
    assert follow((1, 8), IDS[-1], EVENTS[1:], whole=True) is None
    assert follow(START, IDS[-1], [EVENTS[0], *EVENTS[2:]], whole=True) is None
    assert follow(START, IDS[-1], EVENTS[:2], whole=True) is None
    assert follow(IDS[-1], IDS[2], [], whole=True) is None
    assert follow(START, IDS[-1], EVENTS[:2], whole=False) == IDS[2]


def test_ids_and_positions_are_read_as_they_were_written() -> None:
    """Law: packing and unpacking are inverse, also at the largest ids; another store's position is none."""
    ids = [(2**63, 2**32 - 1)] * 63 + [START]
    assert unpack(pack(ids), 64) == ids
    assert unpack(pack(ids), 63) is None
    assert unpack(None, 64) is None
    assert parse_id(b"12-34") == (12, 34)
    for spoilt in (b"", b"novel", b"1", b"-1-2", b"1-4294967296", b"99999999999999999999-1", b"1-\xff"):
        with pytest.raises(ValueError, match="where an id must be"):
            parse_id(spoilt)
    with pytest.raises(ValueError, match="feed"):
        parse_events([[b"feed", [[b"1-2", [b"other", b"1"]]]]])
    assert parse_events(None) == []
    assert parse_events([[b"feed", [[b"1-7", [b"key", b"k1", b"after", b"0-0"]]]]]) == EVENTS[:1]
