"""Object storage with a Redis before it keeps the contract; and needs the Redis for nothing."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest

from adapters_store.backend import Backend, Change
from adapters_store.canonical import digest
from adapters_store.errors import BadId, BlobMissing, StoreUnavailable
from adapters_store.layered import LayeredBackend, open_layered
from adapters_store.objects import ObjectBackend, open_objects
from adapters_store.redis import RedisBackend, open_redis
from tests.adapters_store.contract import BackendContract, Open, content_of, record
from tests.servers.proxy import FaultProxy, Faults
from tests.servers.s3 import S3Server, serve_s3
from tests.servers.valkey import Valkey, valkey

TIMEOUT_S = 5.0
FEED_S = 5.0


@pytest.fixture(scope="module")
def moto() -> Iterator[S3Server]:
    """One moto for all tests of this file; each takes a prefix of its own."""
    with serve_s3() as server:
        yield server


@pytest.fixture
def s3(moto: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """moto, with its credentials in the environment."""
    for name, value in moto.env.items():
        monkeypatch.setenv(name, value)
    return moto


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """One Valkey for the tests that do it no harm: it may evict and keeps nothing on disk."""
    with valkey(tmp_path_factory.mktemp("valkey"), appendonly="no", maxmemory_policy="allkeys-lru") as server:
        yield server


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Valkey]:
    """A Valkey to be mistreated."""
    with valkey(tmp_path / "valkey", appendonly="no") as server:
        yield server


class TestLayered(BackendContract):
    """moto and a Valkey of which nothing is asked."""

    @pytest.fixture
    async def open_backend(self, s3: S3Server, shared: Valkey) -> AsyncIterator[Open]:
        """A new client of one prefix of each."""
        name = secrets.token_hex(4)
        redis = quote(f"{shared.url}/0?prefix={name}", safe="")
        url = f"redis+{s3.url(name, poll_s=0.02)}&redis={redis}"
        clients: list[Backend] = []

        def open_it() -> Backend:
            clients.append(open_layered(url, timeout_s=TIMEOUT_S))
            return clients[-1]

        yield open_it
        for client in clients:
            await client.close()


@dataclass
class Layers:
    """A layered backend whose layers can be looked at, one by one."""

    backend: LayeredBackend
    truth: ObjectBackend
    cache: RedisBackend
    now: list[float]


def layers(s3: S3Server, redis: str, *, poll_s: float = 60.0) -> Layers:
    truth = open_objects(s3.url(secrets.token_hex(4), poll_s=poll_s), timeout_s=TIMEOUT_S)
    cache = open_redis(redis, timeout_s=0.25, as_cache=True)
    now = [0.0]
    backend = LayeredBackend(truth, cache, cache_timeout_s=0.25, rest_s=5.0, clock=lambda: now[0])
    return Layers(backend, truth, cache, now)


@pytest.fixture
async def layered(s3: S3Server, own: Valkey) -> AsyncIterator[Layers]:
    """A truth that looks once a minute, behind a Valkey of its own."""
    made = layers(s3, own.url)
    yield made
    await made.backend.close()


async def test_blob_is_read_from_the_cache_and_lies_in_the_truth(layered: Layers) -> None:
    """Law: what was put is in both; reading does not ask the truth while the copy is there."""
    await layered.backend.put_blob(digest(b"x"), b"x")
    assert await layered.truth.get_blob(digest(b"x")) == b"x"
    await layered.truth.delete_blob(digest(b"x"))
    assert await layered.backend.get_blob(digest(b"x")) == b"x"


async def test_blob_is_kept_once_it_was_read(layered: Layers) -> None:
    """Law: a blob that the cache lacks comes from the truth, and from the cache the next time."""
    await layered.truth.put_blob(digest(b"x"), b"x")
    assert await layered.backend.get_blob(digest(b"x")) == b"x"
    assert await layered.cache.get_blob(digest(b"x")) == b"x"


async def test_spoilt_copy_is_replaced(layered: Layers) -> None:
    """Law: a copy whose bytes are not what its name says is never handed out, and does not stay."""
    large = secrets.token_bytes(2 << 20)
    for content in (b"x", large):
        await layered.backend.put_blob(digest(content), content)
        await layered.cache.put_blob(digest(content), b"rotten" * len(content))
        assert await layered.backend.get_blob(digest(content)) == content
        assert await layered.cache.get_blob(digest(content)) == content


async def test_spoilt_truth_does_not_spread(layered: Layers) -> None:
    """Law: bytes that are not what their name says are not kept as a copy."""
    await layered.truth.put_blob(digest(b"x"), b"rotten")
    assert await layered.backend.get_blob(digest(b"x")) == b"rotten"  # the caller checks
    with pytest.raises(BlobMissing):
        await layered.cache.get_blob(digest(b"x"))


async def test_copy_proves_nothing(layered: Layers) -> None:
    """Law: whether a blob is there is what the truth says, and deleting takes the copy along."""
    await layered.cache.put_blob(digest(b"x"), b"x")
    assert not await layered.backend.has_blob(digest(b"x"))
    assert await layered.backend.has_blobs([digest(b"x")]) == set()
    assert await layered.backend.list_blobs() == []
    await layered.backend.put_blob(digest(b"x"), b"x")
    await layered.backend.delete_blob(digest(b"x"))
    with pytest.raises(BlobMissing):
        await layered.backend.get_blob(digest(b"x"))


async def test_large_blob_is_left_to_the_truth(s3: S3Server, shared: Valkey) -> None:
    """Law: blobs above the bound pass by the cache, both ways."""
    made = layers(s3, shared.url)
    small = LayeredBackend(made.truth, made.cache, largest_bytes=10)
    content = secrets.token_bytes(11)
    await small.put_blob(digest(content), content)
    assert await small.get_blob(digest(content)) == content
    with pytest.raises(BlobMissing):
        await made.cache.get_blob(digest(content))
    await made.backend.close()


async def test_hint_tells_before_the_truth_looks(layered: Layers, s3: S3Server, own: Valkey) -> None:
    """Law: every way of changing a record is told of at once, though the truth looks only once a minute."""
    position = (await layered.backend.changes(None, 0)).position
    for key, change in (
        ("domain/a", layered.backend.compare_and_set("domain/a", 0, record(1))),
        ("domain/b", layered.backend.compare_and_set_many([Change("domain/b", 0, record(1))])),
        ("domain/a", layered.backend.delete_record("domain/a", 1)),
    ):
        waiting = asyncio.create_task(layered.backend.changes(position, 30))
        await change
        answer = await asyncio.wait_for(waiting, FEED_S)
        assert answer.keys == {key}
        assert not answer.resync
        position = answer.position
    assert await content_of(layered.backend, "domain/b") == record(1)


async def test_lost_race_is_not_told_of(layered: Layers) -> None:
    """Law: nothing is hinted at that did not happen."""
    assert await layered.backend.compare_and_set("domain/a", 0, record(1))
    position = (await layered.backend.changes(None, 0)).position
    assert not await layered.backend.compare_and_set("domain/a", 0, record(1))
    assert (await layered.backend.changes(position, 0.1)).keys == frozenset()


async def test_change_without_a_hint_is_found_by_the_truth(s3: S3Server, own: Valkey) -> None:
    """Law: a writer that no Redis heard is noticed at the truth's own pace."""
    made = layers(s3, own.url, poll_s=0.05)
    position = (await made.backend.changes(None, 0)).position
    assert await made.truth.compare_and_set("domain/a", 0, record(1))
    answer = await asyncio.wait_for(made.backend.changes(position, 30), FEED_S)
    assert answer.keys == {"domain/a"}
    await made.backend.close()


async def test_losing_all_of_redis_loses_nothing(s3: S3Server, own: Valkey) -> None:
    """Law: with Redis killed, wiped and back, all is there, each write succeeds, each change is told."""
    made = layers(s3, own.url, poll_s=0.05)
    store = made.backend
    await store.put_blob(digest(b"x"), b"x")
    assert await store.compare_and_set("domain/a", 0, record(1))
    position = (await store.changes(None, 0)).position
    own.kill()
    assert await store.get_blob(digest(b"x")) == b"x"
    await store.put_blobs({digest(b"y"): b"y"})
    assert await store.compare_and_set("domain/a", 1, record(2))
    answer = await asyncio.wait_for(store.changes(position, 30), FEED_S)
    assert answer.keys == {"domain/a"}
    own.start()  # nothing was on its disk
    made.now[0] += 60
    assert await store.get_blob(digest(b"y")) == b"y"
    assert await made.cache.get_blob(digest(b"y")) == b"y"
    position = (await store.changes(answer.position, 0)).position
    waiting = asyncio.create_task(store.changes(position, 30))
    assert await store.compare_and_set("domain/a", 2, record(3))
    assert (await asyncio.wait_for(waiting, FEED_S)).keys == {"domain/a"}
    await store.close()


async def test_hints_go_on_behind_a_wiped_stream(layered: Layers, own: Valkey) -> None:
    """Law: after the stream was wiped the next answers come from the new one, without a re-sync."""
    assert await layered.backend.compare_and_set("domain/a", 0, record(1))
    position = (await layered.backend.changes(None, 0)).position
    with own.client() as client:
        client.flushall()
    assert await layered.backend.compare_and_set("domain/b", 0, record(1))
    answer = await layered.backend.changes(position, 0.2)
    assert not answer.resync
    assert await layered.backend.compare_and_set("domain/a", 1, record(2))
    answer = await asyncio.wait_for(layered.backend.changes(answer.position, 30), FEED_S)
    assert "domain/a" in answer.keys
    assert not answer.resync


async def test_redis_that_comes_back_is_heard_by_one_who_waits(s3: S3Server, own: Valkey) -> None:
    """Law: hints count again within the rest after Redis is back, in the very call that was waiting."""
    made = layers(s3, own.url)
    store = LayeredBackend(made.truth, made.cache, rest_s=0.05)
    position = (await store.changes(None, 0)).position
    own.kill()
    waiting = asyncio.create_task(store.changes(position, 60))
    await asyncio.wait((waiting,), timeout=0.1)
    own.start()
    keys: frozenset[str] = frozenset()
    for generation in range(100):
        assert await store.compare_and_set("domain/a", generation, record(generation + 1))
        done, _ = await asyncio.wait((waiting,), timeout=0.05)
        if done:
            keys = waiting.result().keys
            break
    assert keys == {"domain/a"}
    await made.backend.close()


async def test_slow_redis_costs_one_short_wait(s3: S3Server, own: Valkey) -> None:
    """Law: a Redis that does not answer costs its time-out once; then it rests, and is asked again afterwards."""
    async with FaultProxy(own.port) as proxy:
        made = layers(s3, f"redis://127.0.0.1:{proxy.port}")
        store = made.backend
        await store.put_blob(digest(b"x"), b"x")
        proxy.faults = Faults(stalled=True)
        began = time.monotonic()
        assert await store.get_blob(digest(b"x")) == b"x"
        assert time.monotonic() - began >= 0.25
        began = time.monotonic()
        for _ in range(10):
            assert await store.get_blob(digest(b"x")) == b"x"
            await store.put_blob(digest(b"x"), b"x")
        assert await store.compare_and_set("domain/a", 0, record(1))
        assert time.monotonic() - began < 1.0
        proxy.faults = Faults()
        made.now[0] += 6
        await made.truth.delete_blob(digest(b"x"))
        assert await store.get_blob(digest(b"x")) == b"x"
        await store.close()


async def test_each_call_to_the_cache_is_told(s3: S3Server, own: Valkey) -> None:
    """Law: its failures, which change no answer, are told once each, and nothing while it rests."""
    now, told = [0.0], []
    truth = open_objects(s3.url(secrets.token_hex(4), poll_s=60.0), timeout_s=TIMEOUT_S)
    store = LayeredBackend(
        truth,
        open_redis(own.url, timeout_s=0.25, as_cache=True),
        clock=lambda: now[0],
        told=lambda operation, seconds, error: told.append((operation, error is None)),
    )
    await store.put_blob(digest(b"x"), b"x")
    with pytest.raises(BlobMissing):
        await store.get_blob(digest(b"y"))
    own.kill()
    for _ in range(3):
        assert await store.get_blob(digest(b"x")) == b"x"
    own.start()
    now[0] += 6
    assert await store.get_blob(digest(b"x")) == b"x"
    assert told == [
        ("put_blobs", True),
        ("get_blob", True),
        ("get_blob", False),
        ("get_blob", True),
        ("put_blobs", True),
    ]
    await store.close()


@pytest.mark.parametrize("faults", [Faults(flip_at=5), Faults(truncate_at=3), Faults(reset=True), Faults(refused=True)])
async def test_faulty_redis_changes_no_answer(s3: S3Server, own: Valkey, faults: Faults) -> None:
    """Law: whatever a line to Redis does to bytes, blobs, records and the feed are as without it."""
    async with FaultProxy(own.port) as proxy:
        made = layers(s3, f"redis://127.0.0.1:{proxy.port}", poll_s=0.05)
        store = made.backend
        position = (await store.changes(None, 0)).position
        content = secrets.token_bytes(1000)
        await store.put_blob(digest(content), content)
        proxy.faults = faults
        for generation in range(3):
            assert await store.get_blob(digest(content)) == content
            assert await store.compare_and_set("domain/a", generation, record(generation + 1))
            made.now[0] += 6
        answer = await asyncio.wait_for(store.changes(position, 30), FEED_S)
        assert "domain/a" in answer.keys
        await store.close()


async def test_dead_truth_is_told(own: Valkey, s3: S3Server) -> None:
    """Law: nothing is acknowledged because Redis took it; a copy is still read."""
    cache = open_redis(own.url, timeout_s=0.25, as_cache=True)
    truth = open_objects(f"s3://{s3.bucket}/x?endpoint=http://127.0.0.1:9", timeout_s=0.3)
    store = LayeredBackend(truth, cache)
    await cache.put_blob(digest(b"x"), b"x")
    assert await store.get_blob(digest(b"x")) == b"x"
    for asked in (
        store.put_blob(digest(b"y"), b"y"),
        store.compare_and_set("domain/a", 0, record(1)),
        store.changes(None, 0),
        store.read_record("domain/a"),
    ):
        with pytest.raises(StoreUnavailable):
            await asked
    with pytest.raises(BlobMissing):
        await cache.get_blob(digest(b"y"))
    await store.close()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("redis+s3://bucket/x", "redis=redis://host"),
        ("redis+s3://bucket/x?redis=s3://y", "redis=redis://host"),
        ("redis+s3://bucket/x?redis=redis://a&redis=redis://b", "once"),
        ("rediss+s3://bucket/x?redis=redis://host", "redis=rediss://host"),
        ("redis+s3://bucket/x?redis=redis://host&endpont=http://h", "did you mean endpoint"),
        ("redis+ftp://bucket/x?redis=redis://host", "named redis"),
        ("redis+s3:///x?redis=redis://user:word@host", "bucket"),
    ],
)
def test_url_that_is_none_is_told(url: str, reason: str) -> None:
    """Law: what is wrong with a URL is named, a password in it is not."""
    with pytest.raises(BadId, match=reason) as raised:
        open_layered(url, timeout_s=1)
    assert "word" not in str(raised.value)


@pytest.mark.parametrize("redis", ["redis://h:1/0", "rediss://h", "redis+cluster://h:1", "redis+sentinel://h:1/main"])
async def test_url_names_both(redis: str) -> None:
    """Law: the Redis may be of any kind, its own options percent-encoded; the rest is the object store's."""
    url = f"redis+s3://bucket/x?redis={quote(redis, safe='')}&endpoint=http://127.0.0.1:9&poll_s=3"
    store = open_layered(url, timeout_s=1)
    assert isinstance(store.truth, ObjectBackend)
    await store.close()
