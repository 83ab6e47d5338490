"""`redis://` keeps the contract on one server and behind Sentinels; a cluster: test_redis_cluster.py."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator

import pytest

from adapters_store.bounds import Bound
from adapters_store.canonical import digest
from adapters_store.errors import BlobMissing, LimitExceeded, MalformedRecord
from adapters_store.redis import RedisBackend
from adapters_store.redis_single import SingleLink
from adapters_store.redis_urls import parse_redis_url
from tests.adapters_store.contract import BackendContract, Open, record
from tests.adapters_store.redis_stores import opened
from tests.servers.valkey import Valkey, Watched, valkey, watched_valkey


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """One server for all tests here; each test has a prefix of its own."""
    with valkey(tmp_path_factory.mktemp("valkey")) as running:
        yield running


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """A primary, a replica and three Sentinels."""
    with watched_valkey(tmp_path_factory.mktemp("watched")) as running:
        yield running


class TestOneServer(BackendContract):
    """A prefix is a store."""

    @pytest.fixture
    async def open_backend(self, server: Valkey) -> AsyncIterator[Open]:
        """Clients of one server."""
        async for connect in opened(server.url):
            yield connect


class TestSentinel(BackendContract):
    """Every write waits for the replica."""

    @pytest.fixture
    async def open_backend(self, watched: Watched) -> AsyncIterator[Open]:
        """Clients that ask the Sentinels."""
        async for connect in opened(watched.url, min_replicas=1):
            yield connect


@pytest.fixture
async def parted(server: Valkey) -> AsyncIterator[RedisBackend]:
    """A store that keeps blobs above 1,000 bytes in parts."""
    target = parse_redis_url(f"{server.url}?prefix={secrets.token_hex(8)}")
    backend = RedisBackend(SingleLink(target, 5), target.prefix, part_bytes=1000)
    yield backend
    await backend.close()


@pytest.fixture
async def backend(server: Valkey) -> AsyncIterator[RedisBackend]:
    """A client of an empty store."""
    async for connect in opened(server.url):
        client = connect()
        assert isinstance(client, RedisBackend)
        yield client


@pytest.mark.parametrize("size", [1000, 1001, 2000, 10_500])
async def test_blob_in_parts_is_one_blob(parted: RedisBackend, size: int) -> None:
    """Law: a blob above the limit comes back exactly, is listed once, and leaves nothing when it is deleted."""
    content = secrets.token_bytes(size)
    name = digest(content)
    for _ in range(2):
        await parted.put_blob(name, content)
    assert await parted.has_blob(name)
    assert await parted.list_blobs() == [name]
    assert await parted.get_blob(name) == content
    await parted.delete_blob(name)
    assert not await parted.has_blob(name)
    assert await parted.list_blobs() == []
    with pytest.raises(BlobMissing):
        await parted.get_blob(name)


async def test_blob_in_parts_leaves_no_part_behind(parted: RedisBackend, server: Valkey) -> None:
    """Law: deleting a large blob removes all its keys."""
    with server.client() as client:
        before = client.dbsize()
        content = secrets.token_bytes(5500)
        await parted.put_blob(digest(content), content)
        assert client.dbsize() == before + 7
        await parted.delete_blob(digest(content))
        assert client.dbsize() == before


async def test_blob_with_a_lost_part_is_missing(parted: RedisBackend, server: Valkey) -> None:
    """Law: half a blob is never returned."""
    content = secrets.token_bytes(5500)
    name = digest(content)
    await parted.put_blob(name, content)
    with server.client() as client:
        (part,) = client.keys(f"*:part:{name}:3")
        client.delete(part)
    with pytest.raises(BlobMissing, match=name):
        await parted.get_blob(name)
    await parted.put_blob(name, content)
    assert await parted.get_blob(name) == content


async def test_parts_are_held_to_the_bound_and_to_their_header(parted: RedisBackend, server: Valkey) -> None:
    """Law: a large blob is refused by its header; parts that hold more than it says are no blob, and not read whole."""
    content = secrets.token_bytes(5500)
    name = digest(content)
    await parted.put_blob(name, content)
    assert await parted.get_blob(name, Bound(5500, "setting largest")) == content
    with pytest.raises(LimitExceeded, match=f"{name} is larger than the 5499 bytes that setting largest allows"):
        await parted.get_blob(name, Bound(5499, "setting largest"))
    with server.client() as client:
        (part,) = client.keys(f"*:part:{name}:2")
        client.append(part, b"x" * 100_000)
        sent_before = client.info("stats")["total_net_output_bytes"]
        with pytest.raises(BlobMissing, match=name):
            await parted.get_blob(name)
        assert client.info("stats")["total_net_output_bytes"] - sent_before < 50_000


async def test_blob_of_forty_megabytes_comes_back(backend: RedisBackend) -> None:
    """Law: a blob larger than Redis likes to move in one piece comes back exactly."""
    content = secrets.token_bytes(1 << 20) * 40
    await backend.put_blob(digest(content), content)
    assert digest(await backend.get_blob(digest(content))) == digest(content)
    await backend.delete_blob(digest(content))


@pytest.mark.parametrize(
    "value", [b"", b"\xff", b"{}", b'{"generation":1}', b'1-00\n{"generation":1}', b"[1]", b"1-\n"]
)
async def test_unreadable_record_is_named_and_blinds_nobody(
    backend: RedisBackend, server: Valkey, value: bytes
) -> None:
    """Law: reading a damaged record says so, with its key; it is still listed; the next write repairs it."""
    assert await backend.compare_and_set("domain/a", 0, record(1))
    assert await backend.compare_and_set("domain/b", 0, record(1))
    with server.client() as client:
        (key,) = client.keys(f"{backend.prefix}:*:record:domain/a")
        client.set(key, value)
    with pytest.raises(MalformedRecord, match="domain/a"):
        await backend.read_record("domain/a")
    with pytest.raises(MalformedRecord, match="domain/a"):
        await backend.read_records(["domain/b", "domain/a"])
    assert set(await backend.versions("domain/")) == {"domain/a", "domain/b"}
    assert await backend.compare_and_set("domain/a", 1, record(2))
    held = await backend.read_record("domain/a")
    assert held is not None
    assert held.record == record(2)


async def test_stored_record_is_canonical_json_behind_its_version(backend: RedisBackend, server: Valkey) -> None:
    """Law: what stands in Redis is the documented form; an operator can read it."""
    assert await backend.compare_and_set("domain/a", 0, record(1, b="é", a=1))
    held = await backend.read_record("domain/a")
    assert held is not None
    with server.client() as client:
        (key,) = client.keys(f"{backend.prefix}:*:record:domain/a")
        assert client.get(key) == held.version.encode() + b"\n" + '{"a":1,"b":"é","generation":1}'.encode()


async def test_scripts_are_sent_again_where_they_are_unknown(backend: RedisBackend, server: Valkey) -> None:
    """Law: a server that forgot the scripts (restart, failover) is told them, also in the middle of many writes."""
    for generation in range(3):
        with server.client() as client:
            client.script_flush()
        assert await backend.compare_and_set("domain/a", generation, record(generation + 1))
    with server.client() as client:
        client.script_flush()
    assert await backend.delete_record("domain/a", 3)
