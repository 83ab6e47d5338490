"""The wire between the supervisor and one worker: JSON lines over the socket pair that the worker inherits.

Messages are small and go both ways; a line that is too long or no message ends the channel, which ends the worker.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import msgspec

# a report of metrics is the longest: some ten thousand bytes, or a few hundred thousand of counts by domain
LINE_BYTES = 1 << 20
# a peer that leaves this much unread is stuck: some ten thousand messages
UNREAD_BYTES = 4 << 20
_REASON_CHARACTERS = 8192
_CLOSE_S = 1.0


class Ready(msgspec.Struct, tag=True, frozen=True):
    """A worker takes requests; what it says of itself is for the announcement."""

    backbone: str
    domains: int | None
    scoring_open: bool


class Failed(msgspec.Struct, tag=True, frozen=True):
    """A worker cannot start, for a reason that a person can do something about."""

    reason: str

    @classmethod
    def of(cls, error: Exception) -> Failed:
        """The error's message, cut to what a line may hold."""
        return cls(str(error)[:_REASON_CHARACTERS])


class Join(msgspec.Struct, tag=True, frozen=True):
    """A worker counts from now on: it applies what others publish."""


class Joined(msgspec.Struct, tag=True, frozen=True):
    """The answer to Join."""


class Leave(msgspec.Struct, tag=True, frozen=True):
    """A worker counts no longer."""


class Apply(msgspec.Struct, tag=True, frozen=True):
    """Bring yourself to this generation of the domain's record, then say Applied with the same number."""

    number: int
    domain: str
    generation: int


class Applied(msgspec.Struct, tag=True, frozen=True):
    """The Apply of that number is done."""

    number: int


class Forget(msgspec.Struct, tag=True, frozen=True):
    """Nobody waits for the Apply of that number any more."""

    number: int


class Ping(msgspec.Struct, tag=True, frozen=True):
    """Does your event loop turn?"""


class Pong(msgspec.Struct, tag=True, frozen=True):
    """It does."""


class Counted(msgspec.Struct, tag=True, frozen=True):
    """What a worker scored by domain since it last said so, in the columns of `service.domain_counts`."""

    domains: dict[str, list[int]]


class Ask(msgspec.Struct, tag=True, frozen=True):
    """What did all workers count? Answered by an Answer of the same number.

    Args:
        number: the worker's own for it.
        domain: whose counts; None asks for all metrics.
        report: `service.aggregation.packed`, for all metrics.
    """

    number: int
    domain: str | None
    report: bytes = b""


class Hurry(msgspec.Struct, tag=True, frozen=True):
    """Answer the Ask of that number now, with what is there."""

    number: int


class Tell(msgspec.Struct, tag=True, frozen=True):
    """Say what you counted: by domain in Counted, the rest, if asked for, in a Told with the same number."""

    number: int
    report: bool


class Told(msgspec.Struct, tag=True, frozen=True):
    """The answer to Tell."""

    number: int
    report: bytes = b""


class Last(msgspec.Struct, tag=True, frozen=True):
    """A worker ends and has told everything that it counted."""

    report: bytes


class Answer(msgspec.Struct, tag=True, frozen=True):
    """The answer to Ask.

    Args:
        number: of the Ask.
        content: compressed text, or JSON.
    """

    number: int
    content: bytes


FromWorker = Ready | Failed | Join | Leave | Apply | Applied | Forget | Pong | Counted | Ask | Hurry | Told | Last
FromHub = Joined | Apply | Applied | Forget | Ping | Tell | Answer
Message = FromWorker | FromHub


class Channel:
    """One end of the wire.

    Args:
        reader: of the connected socket, with LINE_BYTES as its limit.
        writer: of the same.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._encoder = msgspec.json.Encoder()
        self._decoder = msgspec.json.Decoder(Message)

    @classmethod
    async def over(cls, connected: socket.socket) -> Channel:
        """The channel over a connected socket, which it owns from now on."""
        return cls(*await asyncio.open_connection(sock=connected, limit=LINE_BYTES))

    @property
    def stuck(self) -> bool:
        """Whether the other end has stopped reading."""
        return self._writer.transport.get_write_buffer_size() > UNREAD_BYTES

    def send(self, message: Message) -> None:
        """Send without waiting; after the other end is gone, nothing happens."""
        if not self._writer.is_closing():
            self._writer.write(self._encoder.encode(message) + b"\n")

    async def messages(self) -> AsyncIterator[Message]:
        """What the other end sends, until it is gone or says what nobody understands."""
        try:
            while line := await self._reader.readline():
                yield self._decoder.decode(line)
        except (OSError, ValueError, msgspec.MsgspecError):
            return

    async def close(self) -> None:
        """Send what is left, as far as the other end takes it, and close."""
        self._writer.close()
        try:
            async with asyncio.timeout(_CLOSE_S):
                await self._writer.wait_closed()
        except TimeoutError:
            self._writer.transport.abort()
        except OSError:
            return
