"""A TCP proxy that misbehaves on demand, between a client and a real server. It knows no protocol.

    async with FaultProxy(server.port) as proxy:
        client.connect(port=proxy.port)
        proxy.faults = Faults(stalled=True)     # from now on, also for what is connected already
        proxy.faults = Faults()                 # well again

An answer is what the server sends between two things that the client sends; offsets count its bytes from 0. A program
without an event loop uses `threaded_proxy`.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

_CHUNK_BYTES = 1 << 16
_LOOK_S = 0.005
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER: on, for 0 s


@dataclass(frozen=True)
class Faults:
    """What goes wrong.

    Args:
        latency_s: Every piece of an answer comes so much later, seconds.
        stalled: Nothing passes in either direction; connections are accepted.
        refused: New connections are closed at once.
        reset: Instead of an answer the connection is reset.
        truncate_at: An answer ends after so many bytes, and the connection with it.
        flip_at: The byte at this offset of an answer has one bit turned.
        flip_bit: Which bit of it, 0 to 7.
    """

    latency_s: float = 0.0
    stalled: bool = False
    refused: bool = False
    reset: bool = False
    truncate_at: int | None = None
    flip_at: int | None = None
    flip_bit: int = 0


class FaultProxy:
    """A proxy before one server; a context that listens while it is entered.

    Args:
        port: Of the server.
        host: Of the server.
        tls: The proxy's side of TLS towards the client; the server is spoken to without.
    """

    def __init__(self, port: int, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> None:
        self.faults = Faults()
        self.port = 0
        self.connections = 0
        self._upstream = (host, port)
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._running: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *raised: object) -> None:
        if self._server is not None:
            self._server.close()
            await self.drop()
            await self._server.wait_closed()

    async def drop(self) -> None:
        """Reset every open connection; new ones are served."""
        running = [task for task in self._running if task is not asyncio.current_task()]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        self.connections += 1
        try:
            if not self.faults.refused:
                await self._connect(reader, writer)
        except asyncio.CancelledError:
            _reset(writer)
        except OSError:
            pass
        finally:
            self._running.discard(task)
            await _close(writer)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(*self._upstream)
        passage = _Passage(self, reader, writer, far_reader, far_writer)
        try:
            await passage.run()
        finally:
            await _close(far_writer)


class _Passage:
    """One connection through the proxy."""

    def __init__(
        self,
        proxy: FaultProxy,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        far_reader: asyncio.StreamReader,
        far_writer: asyncio.StreamWriter,
    ) -> None:
        self._proxy = proxy
        self._near = (reader, writer)
        self._far = (far_reader, far_writer)
        self._answered = 0

    async def run(self) -> None:
        """Pass bytes until either side ends."""
        ways = [asyncio.create_task(self._ask()), asyncio.create_task(self._answer())]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _ask(self) -> None:
        while piece := await self._near[0].read(_CHUNK_BYTES):
            await self._held_up()
            self._answered = 0
            self._far[1].write(piece)
            await self._far[1].drain()

    async def _answer(self) -> None:
        while piece := await self._far[0].read(_CHUNK_BYTES):
            await self._held_up()
            faults = self._proxy.faults
            if faults.latency_s:
                await asyncio.sleep(faults.latency_s)
            if faults.reset:
                _reset(self._near[1])
                return
            ends = faults.truncate_at is not None and self._answered + len(piece) > faults.truncate_at
            self._near[1].write(self._bent(piece, faults))
            await self._near[1].drain()
            if ends:
                return

    async def _held_up(self) -> None:
        while self._proxy.faults.stalled:  # noqa: ASYNC110 - set from any thread, which an asyncio.Event is not for
            await asyncio.sleep(_LOOK_S)

    def _bent(self, piece: bytes, faults: Faults) -> bytes:
        start, self._answered = self._answered, self._answered + len(piece)
        changed = bytearray(piece)
        if faults.flip_at is not None and start <= faults.flip_at < self._answered:
            changed[faults.flip_at - start] ^= 1 << faults.flip_bit
        return bytes(changed if faults.truncate_at is None else changed[: max(0, faults.truncate_at - start)])


def _reset(writer: asyncio.StreamWriter) -> None:
    own = writer.get_extra_info("socket")
    if own is not None:
        own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    writer.transport.abort()


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError, asyncio.CancelledError):
        await writer.wait_closed()


@contextlib.contextmanager
def threaded_proxy(port: int, host: str = "127.0.0.1") -> Iterator[FaultProxy]:
    """A proxy with an event loop and a thread of its own; its `faults` may be set from any thread.

    Args:
        port: Of the server.
        host: Of the server.
    """
    proxy = FaultProxy(port, host)
    ready, over = threading.Event(), asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def serve() -> None:
        async with proxy:
            loops.append(asyncio.get_running_loop())
            ready.set()
            await over.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), name="fault-proxy", daemon=True)
    thread.start()
    if not ready.wait(10):
        raise TimeoutError("the fault proxy did not come up within 10 s")
    try:
        yield proxy
    finally:
        loops[0].call_soon_threadsafe(over.set)
        thread.join(10)
