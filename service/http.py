"""The HTTP/1.1 connection with bounded headers: uvicorn bounds neither their size nor the time that they take."""

from __future__ import annotations

import asyncio
import socket
import uuid
from http import HTTPStatus
from typing import Any, cast

import msgspec
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import Server, ServerState

from service.problems import MEDIA_TYPE, problem_of
from service.refusals import HeadersTooLarge, MalformedRequest, Refusal
from service.writes import JoinedWrites


class ClosingState(ServerState):
    """What the connections of one server share with it.

    Args:
        closing: whether each answer is the last one of its connection, and says so.
    """

    def __init__(self) -> None:
        super().__init__()
        self.closing = False


class ClosingServer(Server):
    """A server whose connections can be asked to end, while it still accepts new ones.

    Whoever keeps connections open, such as a proxy, opens its next one where it is told to go by then; one that is
    closed without a word may be closed under a request that is on its way.

    Args:
        config: of uvicorn, with `bounded_http`.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.server_state: ClosingState = ClosingState()

    def say_close(self) -> None:
        """Have every answer say `Connection: close` from now on, those of requests in flight included."""
        self.server_state.closing = True
        for connection in self.server_state.connections:
            cycle = getattr(connection, "cycle", None)
            if cycle is not None and not cycle.response_started:
                cycle.keep_alive = False

    def cut_off(self) -> int:
        """Drop every connection.

        Returns:
            The requests among them that had no whole answer yet.
        """
        connections = list(self.server_state.connections)
        unanswered = 0
        for connection in connections:
            cycle = getattr(connection, "cycle", None)
            unanswered += cycle is not None and not cycle.response_complete
            connection.transport.abort()
        return unanswered

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more connections and wait for answers, until told to wait no more; nothing runs on after it."""
        self.say_close()
        await super().shutdown(sockets)
        left = list(self.server_state.tasks)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


class BoundedHttp(HttpToolsProtocol):
    """Closes a connection whose headers are too large or too slow; keep one class per server (`bounded_http`)."""

    header_bytes = 32_768
    header_read_s = 10.0

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._reading_headers = True
        self._received_bytes = 0
        self._too_slow: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Give the first headers their time."""
        super().connection_made(cast(asyncio.Transport, JoinedWrites(transport, self.loop)))
        self._begin_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timer with the connection."""
        self._end_headers()
        super().connection_lost(exc)

    def eof_received(self) -> None:
        """The client sends no more; what is held for it is written before the connection is closed."""
        self.transport.close()

    def data_received(self, data: bytes) -> None:
        """Count bytes while headers are incomplete."""
        if self._reading_headers:
            self._received_bytes += len(data)
        super().data_received(data)
        if self._reading_headers and self._received_bytes > self.header_bytes and not self.transport.is_closing():
            self._refuse(HeadersTooLarge(f"path, query and headers take more than {self.header_bytes} bytes"))

    def on_message_begin(self) -> None:
        """A request's first byte starts the time of its headers; that of the first one runs since the connection."""
        super().on_message_begin()
        if self._too_slow is None:
            self._begin_headers()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header of the request; trailers behind a chunked body are nobody's, and would have no bound."""
        if self._reading_headers:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Headers are whole: the body has its own bounds."""
        self._end_headers()
        self._reading_headers = False
        super().on_headers_complete()
        if self.cycle is not None and getattr(self.server_state, "closing", False):
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        """What follows are the next request's headers."""
        super().on_message_complete()
        self._reading_headers = True
        self._received_bytes = 0

    def shutdown(self) -> None:
        """End the connection when nothing is asked on it; a request that has begun to arrive is answered first."""
        if not (self._reading_headers and self._received_bytes):
            super().shutdown()

    def send_400_response(self, msg: str) -> None:
        """Tell bytes that are no HTTP as a problem, like every other error."""
        self._refuse(MalformedRequest("the bytes received are no HTTP/1.1 request"))

    def _refuse(self, error: Refusal) -> None:
        problem = problem_of(error)
        content = msgspec.json.encode(problem.content(uuid.uuid4().hex))
        head = (
            f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}\r\n"
            f"content-type: {MEDIA_TYPE}\r\ncontent-length: {len(content)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + content)
        self.transport.close()

    def _begin_headers(self) -> None:
        self._too_slow = self.loop.call_later(self.header_read_s, self._give_up)

    def _end_headers(self) -> None:
        if self._too_slow is not None:
            self._too_slow.cancel()
            self._too_slow = None

    def _give_up(self) -> None:
        # nothing was asked yet, so there is nothing to answer
        if not self.transport.is_closing():
            self.transport.close()


def bounded_http(header_bytes: int, header_read_s: float) -> type[BoundedHttp]:
    """A connection class with these bounds; uvicorn makes the instances itself and passes no arguments of ours.

    Args:
        header_bytes: most bytes received before headers are whole.
        header_read_s: most seconds until they are.
    """
    bounds = {"header_bytes": header_bytes, "header_read_s": header_read_s}
    return cast("type[BoundedHttp]", type("BoundedHttp", (BoundedHttp,), bounds))
