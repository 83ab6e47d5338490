"""Laws of a socket that several processes take connections from."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest

from service import accepting
from service.accepting import SharedListener
from service.crowd import Crowd
from service.listening import bound_socket

BURST = 24


class Counted(asyncio.Protocol):
    """Counts itself, and sends back what it is sent."""

    def __init__(self, made: list[Counted]) -> None:
        made.append(self)
        self._transport: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep it."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer."""
        assert isinstance(self._transport, asyncio.Transport)
        self._transport.write(data)


@contextmanager
def bound() -> Iterator[socket.socket]:
    """A socket of the loopback."""
    listener = bound_socket("127.0.0.1", 0)
    with listener:
        yield listener


@asynccontextmanager
async def listening(
    listener: socket.socket, context: ssl.SSLContext | None = None, is_ahead: Callable[[], bool] = lambda: False
) -> AsyncIterator[tuple[SharedListener, list[Counted]]]:
    """One that listens, and the protocols it made."""
    made: list[Counted] = []
    shared = SharedListener(
        listener, lambda: Counted(made), tell=lambda _: None, is_ahead=is_ahead, context=context, backlog=BURST
    )
    yield shared, made
    shared.close()


async def until(held: Callable[[], bool]) -> None:
    """Turns of the loop, at most so many."""
    for _ in range(1000):
        if held():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it never held")


async def echoed(address: tuple[str, int]) -> bytes:
    """What comes back of a connection."""
    reader, writer = await asyncio.open_connection(*address)
    writer.write(b"here")
    found = await asyncio.wait_for(reader.readexactly(4), 5)
    writer.close()
    return found


async def test_a_burst_is_shared() -> None:
    """Law: of connections that wait already, two that listen take as many each, and all are served."""
    with bound() as one, one.dup() as other:
        one.listen(BURST)
        waiting = [socket.create_connection(one.getsockname()) for _ in range(BURST)]
        async with listening(one) as (_, first), listening(other) as (_, second):
            await until(lambda: len(first) + len(second) == BURST)
            assert abs(len(first) - len(second)) <= 2
            assert await echoed(one.getsockname()) == b"here"
        for each in waiting:
            each.close()


async def test_whoever_has_more_lets_others_go_first() -> None:
    """Law: one that is ahead takes a connection only if nobody else has after a moment, and then it does."""
    with bound() as one, one.dup() as other:
        async with listening(one, is_ahead=lambda: True) as (_, ahead):
            assert await echoed(one.getsockname()) == b"here"
            assert len(ahead) == 1
            async with listening(other) as (_, behind):
                for _ in range(BURST):
                    assert await echoed(one.getsockname()) == b"here"
                assert (len(ahead), len(behind)) == (1, BURST)


def test_workers_see_each_others_counts() -> None:
    """Law: one is ahead of who has fewer on the same port; of those that told nothing, or left, nobody is."""
    supervisor = Crowd.opened(3)
    first, second = (Crowd(os.dup(supervisor.descriptor), 3, place) for place in (0, 1))
    first.tell(0, 5)
    assert not first.is_ahead(0)
    second.tell(0, 5)
    assert not second.is_ahead(0)
    second.tell(0, 6)
    assert second.is_ahead(0)
    second.tell(1, 6)
    assert not second.is_ahead(1)
    first.leave(0)
    assert not second.is_ahead(0)
    first.tell(0, 7)
    assert first.is_ahead(0)
    supervisor.forget(1)
    assert not first.is_ahead(0)
    for each in (supervisor, first, second):
        each.close()


async def test_one_that_is_closed_takes_no_more() -> None:
    """Law: what was taken goes on; what comes then waits for another process."""
    with bound() as one:
        async with listening(one) as (shared, made):
            reader, writer = await asyncio.open_connection(*one.getsockname())
            await until(lambda: bool(made))
            shared.close()
            await shared.wait_closed()
            late = socket.create_connection(one.getsockname())
            writer.write(b"goes on")
            assert await asyncio.wait_for(reader.readexactly(7), 5) == b"goes on"
            await asyncio.sleep(0.05)
            assert len(made) == 1
            late.close()
            writer.close()


async def test_a_client_that_speaks_no_tls_stops_nobody() -> None:
    """Law: a handshake that fails ends its own connection, and the next one is taken."""
    with bound() as one:
        async with listening(one, ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)):
            for _ in range(2):
                reader, writer = await asyncio.open_connection(*one.getsockname())
                writer.write(b"GET / HTTP/1.1\r\n\r\n")
                assert await asyncio.wait_for(reader.read(), 5) is not None
                writer.close()


async def test_a_handshake_that_never_ends_holds_up_no_stop() -> None:
    """Law: a client that says nothing where TLS is spoken is turned away when the listener is closed."""
    with bound() as one:
        async with listening(one, ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)) as (shared, _):
            reader, writer = await asyncio.open_connection(*one.getsockname())
            await asyncio.sleep(0.05)
            shared.close()
            await asyncio.wait_for(shared.wait_closed(), 1)
            assert await asyncio.wait_for(reader.read(), 5) == b""
            writer.close()


async def test_a_process_without_room_looks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: where no descriptor is left for a connection it waits a moment, and is taken then."""
    monkeypatch.setattr(accepting, "_AGAIN_S", 0.05)
    with bound() as one:

        class Full:
            """The socket, with no descriptor left at first."""

            left = 2

            def accept(self) -> tuple[socket.socket, object]:
                if self.left:
                    self.left -= 1
                    raise OSError(errno.EMFILE, "too many open files")
                return one.accept()

            def __getattr__(self, name: str) -> object:
                return getattr(one, name)

        full = Full()
        async with listening(full):  # type: ignore[arg-type]
            assert await echoed(one.getsockname()) == b"here"
            assert full.left == 0
