"""Laws of joined writes: what reaches the transport, in which pieces, and when."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from service.writes import MOST_HELD_BYTES, JoinedWrites


class Recorded:
    """A transport that notes its calls."""

    def __init__(self) -> None:
        self.calls: list[bytes | str] = []
        self.closing = False

    def write(self, piece: bytes) -> None:
        """Note a piece."""
        self.calls.append(piece)

    def close(self) -> None:
        """Note the end."""
        self.calls.append("close")

    def abort(self) -> None:
        """Note the other end."""
        self.calls.append("abort")

    def is_closing(self) -> bool:
        """As it is set."""
        return self.closing


@pytest.fixture
def transport() -> Recorded:
    """A new one."""
    return Recorded()


@pytest.fixture
async def joined(transport: Recorded) -> JoinedWrites:
    """Over that transport."""
    return JoinedWrites(cast(asyncio.Transport, transport), asyncio.get_running_loop())


async def test_head_and_body_of_one_turn_leave_together_and_at_once(transport: Recorded, joined: JoinedWrites) -> None:
    """Law: two pieces of one turn are one write, made when the second comes; nothing is written twice."""
    joined.write(b"head ")
    joined.write(b"body")
    assert transport.calls == [b"head body"]
    await asyncio.sleep(0)
    assert transport.calls == [b"head body"]


async def test_a_piece_alone_leaves_when_the_turn_is_over(transport: Recorded, joined: JoinedWrites) -> None:
    """Law: nothing is held longer than a turn of the loop."""
    joined.write(b"100 Continue")
    assert transport.calls == []
    await asyncio.sleep(0)
    assert transport.calls == [b"100 Continue"]


async def test_pieces_keep_their_order_whatever_their_sizes(transport: Recorded, joined: JoinedWrites) -> None:
    """Law: the bytes that arrive are those that were written, in order; a long piece is not held."""
    pieces = [b"a", b"b" * (MOST_HELD_BYTES + 1), b"", b"c" * (MOST_HELD_BYTES + 1), b"d", b"", b"e", b"f"]
    for piece in pieces:
        joined.write(piece)
    await asyncio.sleep(0)
    assert b"".join(cast(list[bytes], transport.calls)) == b"".join(pieces)
    assert transport.calls[:2] == [b"a" + pieces[1], pieces[3]]


async def test_close_writes_what_is_held_and_abort_drops_it(transport: Recorded, joined: JoinedWrites) -> None:
    """Law: an answer is whole before its connection is closed in order; one that is cut off sends nothing more."""
    joined.write(b"last answer")
    joined.close()
    joined.write(b"never sent")
    joined.abort()
    await asyncio.sleep(0)
    assert transport.calls == [b"last answer", "close", "abort"]


async def test_what_is_held_for_a_client_that_went_is_dropped(transport: Recorded, joined: JoinedWrites) -> None:
    """Law: a connection that closed in the same turn is not written to."""
    joined.write(b"for nobody")
    transport.closing = True
    await asyncio.sleep(0)
    assert transport.calls == []


async def test_everything_else_is_the_transports_own(joined: JoinedWrites) -> None:
    """Law: what is asked of the connection is answered by it."""
    assert joined.is_closing() is False
    with pytest.raises(AttributeError):
        _ = joined.no_such_thing
