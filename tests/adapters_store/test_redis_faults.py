"""A Redis store on a bad line: every call ends in time, and no answer is taken for another."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import uvloop

from adapters_store.canonical import digest
from adapters_store.errors import MalformedRecord, StoreError, StoreUnavailable
from adapters_store.redis import RedisBackend, open_redis
from tests.adapters_store.contract import record, told
from tests.servers.certificates import make_certificates
from tests.servers.proxy import FaultProxy, Faults
from tests.servers.valkey import Valkey, valkey

TIMEOUT_S = 0.3
SECRET = "s3cr3t/@:?"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """One server."""
    with valkey(tmp_path_factory.mktemp("valkey")) as running:
        yield running


@pytest.fixture
async def proxy(server: Valkey) -> AsyncIterator[FaultProxy]:
    """A proxy before it."""
    async with FaultProxy(server.port) as running:
        yield running


async def connect(proxy: FaultProxy) -> RedisBackend:
    """A store behind the proxy, with one record, already connected."""
    client = open_redis(f"redis://127.0.0.1:{proxy.port}?prefix={secrets.token_hex(8)}", timeout_s=TIMEOUT_S)
    assert await client.compare_and_set("domain/a", 0, record(1, x=1))
    return client


@pytest.fixture
async def backend(proxy: FaultProxy) -> AsyncIterator[RedisBackend]:
    """Such a store, closed at the end."""
    client = await connect(proxy)
    yield client
    await client.close()


async def held(backend: RedisBackend, key: str = "domain/a") -> object:
    found = await backend.read_record(key)
    return found and found.record


@pytest.mark.parametrize("connected", [True, False])
async def test_stalled_server_is_unavailable_within_the_time_out(
    backend: RedisBackend, proxy: FaultProxy, connected: bool
) -> None:
    """Law: reading, writing and following give up in time, and work again afterwards."""
    position = (await backend.changes(None, 0)).position
    if not connected:
        await proxy.drop()
    proxy.faults = Faults(stalled=True)
    loop = asyncio.get_running_loop()
    for call in (
        backend.read_record("domain/a"),
        backend.put_blob(digest(b"x"), b"x"),
        backend.versions(""),
        backend.changes(position, 60),
    ):
        began = loop.time()
        with pytest.raises(StoreUnavailable):
            await call
        assert loop.time() - began < 3 * TIMEOUT_S
    proxy.faults = Faults()
    assert await held(backend) == record(1, x=1)


async def test_write_whose_answer_was_lost_is_not_sent_again(backend: RedisBackend, proxy: FaultProxy) -> None:
    """Law: a conditional write that was carried out and not answered is unavailable once, never a lost race."""
    proxy.faults = Faults(reset=True)
    with pytest.raises(StoreUnavailable):
        await backend.compare_and_set("domain/a", 1, record(2))
    proxy.faults = Faults()
    assert await held(backend) == record(2)


async def test_connections_that_died_idle_cost_one_call_at_most(backend: RedisBackend, proxy: FaultProxy) -> None:
    """Law: however many idle connections were reset, the second call works."""
    for _ in range(3):
        assert len(await asyncio.gather(*(held(backend) for _ in range(8)))) == 8
        await proxy.drop()
        with contextlib.suppress(StoreUnavailable):
            await held(backend)
        assert await held(backend) == record(1, x=1)


async def test_refused_connection_is_unavailable(backend: RedisBackend, proxy: FaultProxy, server: Valkey) -> None:
    """Law: a server that closes at once, and a port where none listens, are StoreUnavailable with their address."""
    proxy.faults = Faults(refused=True)
    await proxy.drop()
    with pytest.raises(StoreUnavailable, match=str(proxy.port)):
        await backend.read_record("domain/a")
    proxy.faults = Faults()
    assert await held(backend) == record(1, x=1)


async def test_feed_misses_nothing_over_a_broken_connection(backend: RedisBackend, proxy: FaultProxy) -> None:
    """Law: one who waits hears of the break, and goes on from the position it had."""
    position = (await backend.changes(None, 0)).position
    waiting = asyncio.create_task(backend.changes(position, 60))
    while proxy.connections < 2:  # noqa: ASYNC110 - polls a bare count; the second one is the blocking read's
        await asyncio.sleep(0.005)
    await proxy.drop()
    with pytest.raises(StoreUnavailable):
        await waiting
    with contextlib.suppress(StoreUnavailable):
        await held(backend)
    assert await backend.compare_and_set("domain/b", 0, record(1))
    await told(backend, position, {"domain/b"})


async def test_cancelled_call_leaves_its_answer_to_nobody(backend: RedisBackend, proxy: FaultProxy) -> None:
    """Law: after a call was cancelled in flight, the next one reads its own answer."""
    assert await backend.compare_and_set("domain/b", 0, record(1, x="b"))
    for _ in range(5):
        proxy.faults = Faults(latency_s=0.02)
        calls = [asyncio.create_task(held(backend, "domain/b")) for _ in range(4)]
        await asyncio.wait(calls, timeout=0.01)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        proxy.faults = Faults()
        assert await asyncio.gather(*(held(backend) for _ in range(8))) == [record(1, x=1)] * 8


@pytest.mark.parametrize("bit", [0, 4])
async def test_flipped_bit_never_makes_another_record(backend: RedisBackend, proxy: FaultProxy, bit: int) -> None:
    """Law: whichever byte of the answer is bent, a read gives the record that was written, or an error."""
    assert await held(backend) == record(1, x=1)
    refused = 0
    for offset in range(0, 90, 3):
        proxy.faults = Faults(flip_at=offset, flip_bit=bit)
        try:
            assert await held(backend) == record(1, x=1)
        except (StoreUnavailable, MalformedRecord):
            refused += 1
    assert refused > 20
    proxy.faults = Faults()
    assert await held(backend) == record(1, x=1)


async def test_truncated_answer_is_unavailable(backend: RedisBackend, proxy: FaultProxy) -> None:
    """Law: an answer that breaks off anywhere is no answer."""
    for length in range(0, 70, 7):
        proxy.faults = Faults(truncate_at=length)
        with pytest.raises(StoreUnavailable):
            await backend.read_record("domain/a")
    proxy.faults = Faults()
    assert await held(backend) == record(1, x=1)


async def test_bent_blob_is_not_what_its_digest_says(backend: RedisBackend, proxy: FaultProxy) -> None:
    """Law: this backend hands on the bytes that came; their digest tells, which is why every caller checks it."""
    content = secrets.token_bytes(5000)
    await backend.put_blob(digest(content), content)
    proxy.faults = Faults(flip_at=2500)
    assert digest(await backend.get_blob(digest(content))) != digest(content)
    proxy.faults = Faults()
    assert await backend.get_blob(digest(content)) == content


async def test_tls_store_is_used_only_with_a_certificate_that_is_trusted(server: Valkey, tmp_path: Path) -> None:
    """Law: over TLS the server proves who it is; without its authority's certificate it is not spoken to."""
    made = make_certificates(tmp_path)
    async with FaultProxy(server.port, tls=made.server_side()) as proxy:
        trusting = open_redis(f"rediss://127.0.0.1:{proxy.port}?prefix=tls&ca={made.ca}", timeout_s=5)
        assert await trusting.compare_and_set("domain/a", 0, record(1))
        position = (await trusting.changes(None, 0)).position
        assert await trusting.compare_and_set("domain/a", 1, record(2))
        await told(trusting, position, {"domain/a"})
        await trusting.close()
        wary = open_redis(f"rediss://127.0.0.1:{proxy.port}?prefix=tls", timeout_s=5)
        with pytest.raises(StoreUnavailable, match="certificate verify failed"):
            await wary.read_record("domain/a")
        await wary.close()


async def test_password_opens_the_store_and_stands_in_no_error(tmp_path: Path) -> None:
    """Law: the right user and password work; no error, cause or traceback of a wrong one shows it."""
    with valkey(tmp_path, password="owner") as server:
        with server.client() as client:
            client.execute_command("ACL", "SETUSER", "writer", "on", f">{SECRET}", "~*", "&*", "+@all")
        quoted = "s3cr3t%2F%40%3A%3F"
        right = open_redis(server.url.replace("://", f"://writer:{quoted}@"), timeout_s=5)
        await right.prepare_writing()
        assert await right.compare_and_set("domain/a", 0, record(1))
        await right.close()
        wrong = open_redis(server.url.replace("://", f"://writer:{quoted}X@"), timeout_s=5)
        server_url, calls = server.url, (wrong.read_record("domain/a"), wrong.changes(None, 0), wrong.prepare_writing())
        for call in calls:
            with pytest.raises(StoreError, match="user and password") as raised:
                await call
            shown = "".join(traceback.format_exception(raised.value)) + repr(wrong)
            assert "s3cr3t" not in shown
            assert server_url in str(raised.value)
        await wrong.close()


@pytest.mark.parametrize(
    "law",
    [
        partial(test_stalled_server_is_unavailable_within_the_time_out, connected=False),
        test_write_whose_answer_was_lost_is_not_sent_again,
        test_connections_that_died_idle_cost_one_call_at_most,
        test_feed_misses_nothing_over_a_broken_connection,
        test_cancelled_call_leaves_its_answer_to_nobody,
        partial(test_flipped_bit_never_makes_another_record, bit=0),
        test_truncated_answer_is_unavailable,
    ],
)
def test_law_holds_on_the_loop_of_the_service_too(server: Valkey, law: Callable[..., Awaitable[None]]) -> None:
    """Law: what is said above holds on uvloop, whose transports fail in other ways."""

    async def hold() -> None:
        async with FaultProxy(server.port) as proxy:
            client = await connect(proxy)
            await law(client, proxy)
            await client.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(hold())
