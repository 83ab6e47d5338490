"""Fewer calls to the system: the head and the body of an answer leave in one."""

from __future__ import annotations

import asyncio
from typing import Any

MOST_HELD_BYTES = 65_536


class JoinedWrites:
    """A transport that holds a piece back until the next one comes, or until the event loop's turn is over.

    uvicorn writes the head of an answer and its body apart, and each write is a call to the system that also wakes the
    client. Both are written in the same turn where a body is short and whole, as nearly all of ours are.

    Args:
        transport: writes; everything but writing and closing is its own.
        loop: whose turns count.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, piece: bytes) -> None:
        """Write a piece, in one call with the one that is held; alone it is held, unless it is long."""
        if self._held or len(piece) > MOST_HELD_BYTES:
            held, self._held = self._held, b""
            self._transport.write(held + piece)
        elif piece:
            self._held = piece
            self._loop.call_soon(self._let_go)

    def close(self) -> None:
        """Write what is held, and close."""
        self._let_go()
        self._transport.close()

    def abort(self) -> None:
        """Close without writing anything more."""
        self._held = b""
        self._transport.abort()

    def _let_go(self) -> None:
        held, self._held = self._held, b""
        if held and not self._transport.is_closing():  # the client may have gone in this turn
            self._transport.write(held)
