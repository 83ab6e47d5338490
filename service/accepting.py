"""Take connections from a socket that other processes take them from, too, so that each gets as many.

An event loop that is woken by a socket takes all connections that wait there. Of workers that share the socket the
first one to wake would get the whole of a burst, and clients that keep their connections would stay with it. So one is
taken at a time, and whoever has more than another gives that one a moment to be faster.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress

_MOMENT_S = 0.001
_AGAIN_S = 1.0  # until a process that had no descriptor left for a connection, for one, looks again


class SharedListener:
    """Listens until it is closed.

    Args:
        listener: bound, not blocking, and closed by whoever opened it.
        make: a protocol for each connection.
        tell: lets the other processes know how many connections this one has; how many are only beginning is given.
        is_ahead: whether this process has more than another one.
        context: of TLS, if it is spoken.
        backlog: connections that may wait.
    """

    def __init__(
        self,
        listener: socket.socket,
        make: Callable[[], asyncio.Protocol],
        *,
        tell: Callable[[int], None],
        is_ahead: Callable[[], bool],
        context: ssl.SSLContext | None,
        backlog: int,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._listener = listener
        self._make = make
        self._tell = tell
        self._is_ahead = is_ahead
        self._context = context
        self._beginning: set[asyncio.Task[None]] = set()
        self._later: asyncio.TimerHandle | None = None
        listener.listen(backlog)
        self._watch()

    def close(self) -> None:
        """Take no more; connections that were taken stay."""
        if self._later is not None:
            self._later.cancel()
        self._loop.remove_reader(self._listener.fileno())

    async def wait_closed(self) -> None:
        """Turn away whoever has not finished the handshake of TLS yet: it may never."""
        for beginning in self._beginning:
            beginning.cancel()
        await asyncio.gather(*self._beginning, return_exceptions=True)

    def _watch(self) -> None:
        self._later = None
        self._loop.add_reader(self._listener.fileno(), self._come)

    def _come(self) -> None:
        self._tell(len(self._beginning))
        if self._is_ahead():
            self._wait(_MOMENT_S, self._take_and_watch)  # nobody may have taken it by then: others may be busy, or hang
        else:
            self._take()

    def _wait(self, seconds: float, then: Callable[[], None]) -> None:
        self._loop.remove_reader(self._listener.fileno())
        self._later = self._loop.call_later(seconds, then)

    def _take_and_watch(self) -> None:
        self._watch()
        self._take()

    def _take(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return  # another process was faster, or the client is gone already
        except OSError as error:
            self._loop.call_exception_handler({"message": "a connection could not be taken", "exception": error})
            self._wait(_AGAIN_S, self._watch)
            return
        connection.setblocking(False)
        beginning = self._loop.create_task(self._begin(connection))
        self._beginning.add(beginning)
        beginning.add_done_callback(self._beginning.discard)
        self._tell(len(self._beginning))

    async def _begin(self, connection: socket.socket) -> None:
        with suppress(OSError):  # TLS errors among them: its client spoke something else, or left
            await self._loop.connect_accepted_socket(self._make, connection, ssl=self._context)
            return
        connection.close()
