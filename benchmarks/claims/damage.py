"""A TCP proxy before a store that damages what is large enough to be a blob, now and then."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from typing import Self

LARGE_BYTES = 4096


class Mangler:
    """A proxy on the loopback, in a thread of its own.

    Answers of more than 4 KiB are blobs, for records are smaller: of those every n-th has one bit turned or ends early,
    and its connection with it.

    Args:
        port: of the server.

    Attributes:
        every: n; 0 lets everything pass.
        flipped: answers with a turned bit, so far.
        cut: answers that ended early.
    """

    def __init__(self, port: int) -> None:
        self.every = self.flipped = self.cut = 0
        self._upstream, self._seen, self._draw = port, 0, random.Random(0)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.url = ""

    def __enter__(self) -> Self:
        self._thread.start()
        starting = asyncio.run_coroutine_threadsafe(asyncio.start_server(self._serve, "127.0.0.1", 0), self._loop)
        self._server = starting.result(10)
        self.url = f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    def __exit__(self, *raised: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        theirs, to_server = await asyncio.open_connection("127.0.0.1", self._upstream)
        with contextlib.suppress(OSError):
            await asyncio.gather(self._pass(reader, to_server, False), self._pass(theirs, writer, True))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answers: bool) -> None:
        try:
            while piece := await reader.read(1 << 18):
                damaged = self._damaged(piece) if answers and len(piece) >= LARGE_BYTES and self.every else piece
                writer.write(damaged)
                await writer.drain()
                if len(damaged) < len(piece):
                    break
        finally:
            writer.close()

    def _damaged(self, piece: bytes) -> bytes:
        self._seen += 1
        if self._seen % self.every:
            return piece
        place = self._draw.randrange(len(piece) // 4, len(piece) - 2)
        if self._seen // self.every % 2:
            self.flipped += 1
            return piece[:place] + bytes([piece[place] ^ 1]) + piece[place + 1 :]
        self.cut += 1
        return piece[:place]
