"""The fault proxy does what it is told, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest

from tests.servers.proxy import FaultProxy, Faults, threaded_proxy

ANSWER = bytes(range(200))
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """A server that answers each line with the same 200 bytes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readline():
                writer.write(ANSWER)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()


@pytest.fixture
async def proxy(port: int) -> AsyncIterator[FaultProxy]:
    """A proxy before it."""
    async with FaultProxy(port) as running:
        yield running


@pytest.fixture
async def connection(proxy: FaultProxy) -> AsyncIterator[Connection]:
    """A client of it, connected before any fault."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    yield reader, writer
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def ask(connection: Connection) -> bytes:
    connection[1].write(b"?\n")
    return await asyncio.wait_for(connection[0].readexactly(len(ANSWER)), 5)


async def test_without_a_fault_bytes_pass_unchanged(connection: Connection) -> None:
    """Law: a proxy without faults is not noticed."""
    for _ in range(3):
        assert await ask(connection) == ANSWER


async def test_latency_comes_before_each_answer(proxy: FaultProxy, connection: Connection) -> None:
    """Law: an answer comes no sooner than the latency, and whole."""
    proxy.faults = Faults(latency_s=0.1)
    began = asyncio.get_running_loop().time()
    assert await ask(connection) == ANSWER
    assert asyncio.get_running_loop().time() - began >= 0.1


async def test_stalled_answer_comes_when_the_stall_ends(proxy: FaultProxy, connection: Connection) -> None:
    """Law: nothing passes while it is stalled, and nothing is lost of it afterwards."""
    proxy.faults = Faults(stalled=True)
    asked = asyncio.create_task(ask(connection))
    done, _ = await asyncio.wait([asked], timeout=0.1)
    assert not done
    proxy.faults = Faults()
    assert await asked == ANSWER


async def test_one_bit_of_each_answer_is_turned(proxy: FaultProxy, connection: Connection) -> None:
    """Law: exactly the named bit of the named byte of every answer differs."""
    proxy.faults = Faults(flip_at=7, flip_bit=3)
    for _ in range(2):
        assert await ask(connection) == ANSWER[:7] + bytes([7 ^ 8]) + ANSWER[8:]


async def test_truncated_answer_ends_after_so_many_bytes(proxy: FaultProxy, connection: Connection) -> None:
    """Law: exactly the first bytes come, then the end of the connection."""
    proxy.faults = Faults(truncate_at=50)
    connection[1].write(b"?\n")
    assert await asyncio.wait_for(connection[0].read(), 5) == ANSWER[:50]


async def test_reset_takes_the_place_of_an_answer(proxy: FaultProxy, connection: Connection) -> None:
    """Law: the client sees a reset, not an end."""
    proxy.faults = Faults(reset=True)
    connection[1].write(b"?\n")
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(connection[0].read(), 5)


async def test_dropping_resets_what_is_open_and_serves_what_comes(proxy: FaultProxy, connection: Connection) -> None:
    """Law: open connections end by a reset; a new one works."""
    assert await ask(connection) == ANSWER
    await proxy.drop()
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(connection[0].read(), 5)
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    assert await ask((reader, writer)) == ANSWER
    writer.close()
    await writer.wait_closed()


async def test_refused_connection_ends_before_a_byte(proxy: FaultProxy) -> None:
    """Law: a refused client reads the end at once."""
    proxy.faults = Faults(refused=True)
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    assert await asyncio.wait_for(reader.read(), 5) == b""
    writer.close()
    await writer.wait_closed()


async def test_program_without_an_event_loop_has_a_proxy_too(port: int) -> None:
    """Law: the threaded proxy obeys faults that are set from another thread."""

    def talk(number: int) -> list[bytes]:
        with socket.create_connection(("127.0.0.1", number), 5) as own, own.makefile("rb") as answers:
            own.sendall(b"?\n")
            first = answers.read(len(ANSWER))
            proxy.faults = Faults(truncate_at=3)
            own.sendall(b"?\n")
            return [first, answers.read()]

    with threaded_proxy(port) as proxy:
        assert await asyncio.to_thread(talk, proxy.port) == [ANSWER, ANSWER[:3]]
