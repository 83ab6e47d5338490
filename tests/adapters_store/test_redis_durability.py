"""What a Redis store promises about acknowledged writes, and the servers it refuses because they cannot keep it."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

import adapters_store.redis as redis_room
from adapters_store.canonical import digest
from adapters_store.errors import StoreRefused, StoreUnavailable
from adapters_store.redis import RedisBackend, open_redis
from adapters_store.releases import Release
from adapters_store.store import AdapterStore
from adapters_store.urls import open_backend
from tests.adapters_store.contract import record, told
from tests.servers.valkey import Valkey, valkey, watched_valkey

T = TypeVar("T")
FAILOVER_S = 30.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """One server whose settings the tests change, and put back."""
    with valkey(tmp_path_factory.mktemp("valkey")) as running:
        yield running


@pytest.fixture
async def backend(server: Valkey) -> AsyncIterator[RedisBackend]:
    """Its store."""
    client = open_redis(server.url, timeout_s=5)
    yield client
    await client.close()


@pytest.fixture
def configure(server: Valkey) -> Iterator[Callable[[str, str], None]]:
    """Change a directive of the running server until the test ends."""
    before: dict[str, str] = {}

    def change(name: str, value: str) -> None:
        with server.client() as client:
            before.setdefault(name, client.config_get(name)[name])  # type: ignore[index]
            client.config_set(name, value)

    yield change
    with server.client() as client:
        for name, value in before.items():
            client.config_set(name, value)


async def until_available(call: Callable[[], Awaitable[T]]) -> T:
    """What a call gives once the store answers again; each refusal comes from a real attempt."""

    async def attempt() -> T:
        while True:
            try:
                return await call()
            except StoreUnavailable:
                await asyncio.sleep(0.02)

    return await asyncio.wait_for(attempt(), FAILOVER_S)


async def test_server_that_may_evict_is_refused(
    backend: RedisBackend, server: Valkey, configure: Callable[[str, str], None]
) -> None:
    """Law: a store that may lose what it holds is refused for writing, with the setting to change; a cache is not."""
    configure("maxmemory", "100mb")
    await backend.prepare_writing()
    configure("maxmemory-policy", "allkeys-lru")
    with pytest.raises(StoreRefused, match="CONFIG SET maxmemory-policy noeviction"):
        await backend.prepare_writing()
    cache = open_redis(server.url, timeout_s=5, as_cache=True)
    await cache.prepare_writing()
    await cache.close()
    configure("maxmemory", "0")
    await backend.prepare_writing()


async def test_server_without_append_only_file_is_refused(
    backend: RedisBackend, server: Valkey, configure: Callable[[str, str], None]
) -> None:
    """Law: a store that dies with its process is refused for writing, with the setting to change; a cache is not."""
    await backend.prepare_writing()
    configure("appendonly", "no")
    with pytest.raises(StoreRefused, match="CONFIG SET appendonly yes"):
        await backend.prepare_writing()
    cache = open_redis(f"{server.url}?min_replicas=9", timeout_s=5, as_cache=True)
    await cache.prepare_writing()
    await cache.put_blob(digest(b"kept"), b"kept")
    await cache.close()


async def test_user_who_may_not_ask_is_refused(server: Valkey) -> None:
    """Law: a store that does not let itself be asked cannot be trusted: refused, naming what to grant."""
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "blind", "on", ">pw", "~*", "&*", "+@all", "-info")
    blind = open_redis(server.url.replace("://", "://blind:pw@"), timeout_s=5)
    assert await blind.compare_and_set("domain/blind", 0, record(1))
    with pytest.raises(StoreRefused, match=r"\+info"):
        await blind.prepare_writing()
    await blind.close()


async def test_user_who_may_not_write_is_told(server: Valkey) -> None:
    """Law: a command that the server forbids is an error that says so, and nothing is half-written."""
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "reader", "on", ">pw", "~*", "+@all", "-xadd")
    reader = open_redis(f"{server.url.replace('://', '://reader:pw@')}?prefix=reader", timeout_s=5)
    with pytest.raises(StoreUnavailable, match="ACL SETUSER"):
        await reader.compare_and_set("domain/a", 0, record(1))
    assert await reader.read_record("domain/a") is None
    assert await reader.versions("") == {}
    await reader.close()


async def test_user_of_the_documented_commands_can_do_everything(server: Valkey) -> None:
    """Law: the commands that redis.py's docstring names are all that a user needs, and the prefix all keys."""
    text = (redis_room.__doc__ or "").split("A user needs the commands")[1].split("on `<prefix>:*`")[0]
    named = re.findall(r"[A-Z]{3,}", text)
    with server.client() as client:
        rules = ["on", ">pw", "~least:*", "-@all", *(f"+{name.lower()}" for name in named)]
        client.execute_command("ACL", "SETUSER", "least", *rules)
    backend = open_redis(f"{server.url.replace('://', '://least:pw@')}?prefix=least", timeout_s=5)
    await backend.prepare_writing()
    position = (await backend.changes(None, 0)).position
    await backend.put_blob(digest(b"x"), b"x")
    assert await backend.get_blob(digest(b"x")) == b"x"
    assert await backend.list_blobs() == [digest(b"x")]
    await backend.delete_blob(digest(b"x"))
    assert await backend.compare_and_set("replica/a", 0, record(1))
    assert await backend.list_records("") == list(await backend.versions("")) == ["replica/a"]
    assert await backend.delete_record("replica/a", 1)
    await told(backend, position, {"replica/a"})
    await backend.close()


async def test_full_server_takes_nothing_and_says_so(server: Valkey, configure: Callable[[str, str], None]) -> None:
    """Law: a write that finds no memory is an error that says so, and leaves no record without an event."""
    client = open_redis(f"{server.url}?prefix=full", timeout_s=5)
    assert await client.compare_and_set("domain/a", 0, record(1))
    began = await client.changes(None, 0)
    configure("maxmemory", "1")
    with pytest.raises(StoreUnavailable, match="raise maxmemory"):
        await client.compare_and_set("domain/a", 1, record(2))
    with pytest.raises(StoreUnavailable, match="raise maxmemory"):
        await client.put_blob(digest(b"x"), b"x")
    configure("maxmemory", "0")
    held = await client.read_record("domain/a")
    assert held is not None
    assert held.record == record(1)
    assert not (await client.changes(began.position, 0)).keys
    await client.close()


async def test_killed_server_comes_back_with_every_acknowledged_write(tmp_path: Path) -> None:
    """Law: SIGKILL and restart lose nothing that was acknowledged; the same client goes on, and so does its feed."""
    with valkey(tmp_path) as server:
        backend = open_redis(server.url, timeout_s=2)
        position = (await backend.changes(None, 0)).position
        acknowledged: set[str] = set()

        async def write(me: int) -> None:
            for i in range(10_000):
                key, content = f"domain/{me}-{i}", b"%d-%d" % (me, i)
                await backend.put_blob(digest(content), content)
                assert await backend.compare_and_set(key, 0, record(1, blob=digest(content)))
                acknowledged.add(key)
                if len(acknowledged) == 200:
                    server.kill()

        ended = await asyncio.gather(*(write(me) for me in range(4)), return_exceptions=True)
        assert {type(one) for one in ended} == {StoreUnavailable}
        with pytest.raises(StoreUnavailable):
            await backend.read_record("domain/0-0")
        server.start()
        found = await until_available(lambda: backend.read_records(sorted(acknowledged)))
        assert set(found) == acknowledged
        assert len(acknowledged) >= 200
        blobs = [held.record["blob"] for held in found.values()]
        assert await backend.has_blobs(blobs) == set(blobs)
        heard: set[str] = set()
        while not acknowledged <= heard:
            answer = await backend.changes(position, 5)
            assert not answer.resync
            assert answer.keys
            position, heard = answer.position, heard | answer.keys
        await backend.close()


async def test_server_that_comes_back_without_its_promise_is_refused(tmp_path: Path) -> None:
    """Law: after a failure the server is asked again: what took its place acknowledges nothing that it may lose."""
    with valkey(tmp_path) as server:
        backend = open_backend(server.url, timeout_s=2)
        assert await backend.compare_and_set("domain/a", 0, record(1))
        server.kill()
        with pytest.raises(StoreUnavailable):
            await backend.read_record("domain/a")
        forgetful = server.folder / "valkey.conf"
        forgetful.write_text(forgetful.read_text().replace("appendonly yes", "appendonly no"))
        server.start()
        await until_available(lambda: backend.read_record("domain/a"))
        with pytest.raises(StoreRefused, match="keeps no append-only file"):
            await backend.compare_and_set("domain/b", 0, record(1))
        assert await backend.read_record("domain/b") is None
        await backend.close()


async def test_write_that_too_few_replicas_have_is_of_unknown_outcome(server: Valkey) -> None:
    """Law: without its replicas a write is not acknowledged, though it may be there; one that lost is told as lost."""
    backend = open_redis(f"{server.url}?prefix=alone&min_replicas=1&wait_ms=50", timeout_s=5)
    with pytest.raises(StoreUnavailable, match="outcome unknown: 0 of 1 replicas"):
        await backend.compare_and_set("domain/a", 0, record(1))
    with pytest.raises(StoreUnavailable, match="outcome unknown"):
        await backend.put_blob(digest(b"x"), b"x")
    assert not await backend.compare_and_set("domain/a", 0, record(1, by="second"))
    held = await backend.read_record("domain/a")
    assert held is not None
    assert held.record == record(1)
    await backend.close()


async def test_change_of_unknown_outcome_is_not_acknowledged_when_it_is_asked_for_again(server: Valkey) -> None:
    """Law: what is there already, but on too few replicas, is no more acknowledged the second time than the first."""
    backend = open_backend(f"{server.url}?prefix=again&min_replicas=1&wait_ms=50", timeout_s=5)
    store = AdapterStore(backend, time.time)
    with pytest.raises(StoreUnavailable, match="outcome unknown"):
        await store.put(b"x")
    release = Release(divisions={"theme": {"u": digest(b"x")}})
    with pytest.raises(StoreUnavailable, match="outcome unknown"):
        await store.put_release(release)
    for change in (
        lambda: store.set_live("t", "theme", digest(b"x"), "me"),
        lambda: store.set_default_backbone(digest(b"x")),
        lambda: store.flip(digest(release.encoded()), "me", min_staged=0),
    ):
        for _ in range(3):  # the flip stages first, which is of unknown outcome too
            with pytest.raises(StoreUnavailable, match="outcome unknown"):
                await change()
    assert (await store.stamped_domains(["t"]))[0]["t"].record.generation == 1
    assert (await store.backbone_record()).generation == 1
    await store.close()


@pytest.mark.timeout(180)
async def test_failover_loses_no_write_that_its_replica_had(tmp_path: Path) -> None:
    """Law: with WAIT 1, what was acknowledged is there after the primary was killed, and the client finds the new one.

    A reader of the feed that goes on with its position hears of every write since, or that it must compare.
    """
    with watched_valkey(tmp_path, replicas=2) as watched:
        backend = open_redis(f"{watched.url}?min_replicas=1", timeout_s=1)
        assert await backend.compare_and_set("domain/a", 0, record(1))
        position = (await backend.changes(None, 0)).position
        acknowledged = []
        for i in range(50):
            assert await backend.compare_and_set(f"domain/{i}", 0, record(1))
            acknowledged.append(f"domain/{i}")
        lost = watched.primary()
        lost.kill()
        with pytest.raises(StoreUnavailable):
            await backend.compare_and_set("domain/a", 1, record(2))
        found = await until_available(lambda: backend.read_records(acknowledged))
        assert sorted(found) == sorted(acknowledged)
        assert watched.primary() is not lost
        answer = await until_available(lambda: backend.changes(position, 1))
        assert answer.resync or set(acknowledged) <= answer.keys

        async def write() -> bool:
            held = await backend.read_record("domain/b")
            generation = held.record["generation"] if held else 0
            return await backend.compare_and_set("domain/b", generation, record(generation + 1))

        assert await until_available(write)
        await backend.close()
