"""`redis+cluster://` keeps the contract, while slots move and shards die."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator

import pytest
from redis.crc import key_slot

from adapters_store.backend import Change
from adapters_store.errors import StoreRefused, StoreUnavailable
from adapters_store.redis import RedisBackend, open_redis
from tests.adapters_store.contract import BackendContract, Open, record, told
from tests.adapters_store.redis_stores import opened
from tests.servers.valkey import Cluster, valkey_cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three primaries."""
    with valkey_cluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


@pytest.fixture
async def backend(cluster: Cluster) -> AsyncIterator[RedisBackend]:
    """A client of an empty store."""
    client = open_redis(f"{cluster.url}?prefix={secrets.token_hex(8)}", timeout_s=2)
    yield client
    await client.close()


class TestCluster(BackendContract):
    """Tags and blobs are spread over the shards."""

    @pytest.fixture
    async def open_backend(self, cluster: Cluster) -> AsyncIterator[Open]:
        """Clients of the cluster."""
        async for connect in opened(cluster.url):
            yield connect


async def held(backend: RedisBackend, key: str) -> object:
    found = await backend.read_record(key)
    return found and found.record


async def test_records_spread_over_all_shards(cluster: Cluster) -> None:
    """Law: no shard of a cluster holds more than half of many records, nor none."""
    async for connect in opened(cluster.url):
        one = connect()
        for i in range(300):
            assert await one.compare_and_set(f"domain/{i}", 0, record(1))
        counts = []
        for node in cluster.nodes:
            with node.client() as client:
                counts.append(len(client.keys(f"{one.prefix}:*:record:*")))  # type: ignore[attr-defined]
        assert sum(counts) == 300
        assert max(counts) <= 150
        assert min(counts) > 30


async def test_every_primary_of_a_cluster_is_asked(cluster: Cluster, backend: RedisBackend) -> None:
    """Law: one shard that does not keep the promises is enough to refuse, and it is named."""
    await backend.prepare_writing()
    for node in cluster.nodes:
        with node.client() as client:
            client.config_set("appendonly", "no")
            with pytest.raises(StoreRefused, match=f":{node.port} keeps no append-only file"):
                await backend.prepare_writing()
            client.config_set("appendonly", "yes")


async def test_write_that_no_replica_has_is_of_unknown_outcome(cluster: Cluster, backend: RedisBackend) -> None:
    """Law: in a cluster too a write is acknowledged only when its shard's replicas have it; a lost race is lost."""
    names = [f"domain/{i}" for i in range(20)]
    query = f"prefix={backend.prefix}&min_replicas=1&wait_ms=50"
    strict = open_redis(f"{cluster.url}?{query}", timeout_s=2)
    with pytest.raises(StoreUnavailable, match="outcome unknown: 0 of 1 replicas"):
        await strict.compare_and_set_many([Change(name, 0, record(1)) for name in names])
    assert set(await backend.read_records(names)) == set(names)
    assert await strict.compare_and_set_many([Change(name, 0, record(1)) for name in names]) == [False] * 20
    await strict.close()


async def test_slot_that_moves_takes_its_records_along(cluster: Cluster, backend: RedisBackend) -> None:
    """Law: while a cluster moves a slot, and after it, its records are read, changed and followed as before."""
    for i in range(100):
        assert await backend.compare_and_set(f"domain/{i}", 0, record(1))
    position = (await backend.changes(None, 0)).position
    first, second, _ = cluster.nodes
    with first.client() as source, second.client() as target:
        key = next(iter(source.keys(f"{backend.prefix}:*:record:domain/*")))  # type: ignore[arg-type]
        slot, name = key_slot(key), key.decode().split(":record:")[1]
        source_id, target_id = (one.execute_command("CLUSTER MYID").decode() for one in (source, target))
        target.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", source_id)
        source.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", target_id)
        keys = source.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 1000)
        source.execute_command("MIGRATE", "127.0.0.1", second.port, "", 0, 5000, "KEYS", *keys)
        assert await backend.compare_and_set(name, 1, record(2))
        assert await held(backend, name) == record(2)
        for one in (target, source):
            one.execute_command("CLUSTER", "SETSLOT", slot, "NODE", target_id)
        assert await backend.compare_and_set(name, 2, record(3))
        assert await held(backend, name) == record(3)
    await told(backend, position, {name})


async def test_cluster_without_one_shard_serves_the_others(cluster: Cluster, backend: RedisBackend) -> None:
    """Law: a dead shard is unavailable, the others are not; when it is back everything is."""
    names = [f"domain/{i}" for i in range(40)]
    for name in names:
        assert await backend.compare_and_set(name, 0, record(1))
    cluster.nodes[0].kill()
    answers = []
    for name in names:
        try:
            answers.append(await held(backend, name))
        except StoreUnavailable:
            answers.append(None)
    assert answers.count(None) < 30
    assert record(1) in answers
    cluster.nodes[0].start()
    for _ in range(500):
        try:
            assert set(await backend.read_records(names)) == set(names)
            break
        except StoreUnavailable:
            await asyncio.sleep(0.02)
    else:
        raise AssertionError("the shard never came back")
