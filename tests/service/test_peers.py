"""The local channel between the workers of one replica: real socket pairs, one hub, no clocks of the wall."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack

import pytest

from adapters_store.errors import StoreUnavailable
from service.channel import LINE_BYTES, Apply, Channel, Failed, FromHub, Message, Ready
from service.hub import Hub
from service.peers import NoPeers
from service.socket_peers import PeersOverSocket
from service.totals import Totals
from tests.service.clockwork import ManualClock, quiet, turns_until


class Worker:
    """One end of the channel, with a record store of its own.

    Args:
        peers: under test.
    """

    def __init__(self, peers: PeersOverSocket) -> None:
        self.peers = peers
        self.applied: dict[str, int] = {}
        self.fails = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked = asyncio.Event()

    async def refresh(self, domain: str, generation: int) -> None:
        """Apply, once the gate is open; the first `fails` attempts fail."""
        self.asked.set()
        await self.gate.wait()
        if self.fails:
            self.fails -= 1
            raise StoreUnavailable("down")
        self.applied[domain] = max(generation, self.applied.get(domain, 0))


class Replica:
    """A hub and its workers in one event loop."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.hub = Hub(self._send, Totals(0))
        self.lost: list[int] = []
        self._ends: dict[int, Channel] = {}
        self._stack = AsyncExitStack()

    async def worker(self, number: int) -> Worker:
        """A worker that has joined."""
        worker = await self.connected(number)
        await worker.peers.start(worker.refresh)
        return worker

    async def connected(self, number: int) -> Worker:
        """A worker that has not joined yet."""
        ours, theirs = socket.socketpair()
        self._ends[number] = await Channel.over(ours)
        channel = await Channel.over(theirs)
        self._stack.push_async_callback(channel.close)
        peers = PeersOverSocket(channel, self.clock, lambda: self.lost.append(number))
        peers.hear()
        self._stack.push_async_callback(peers.stop_hearing)
        relaying = asyncio.create_task(self._relay(number, self._ends[number]))
        self._stack.callback(relaying.cancel)
        return Worker(peers)

    async def kill(self, number: int) -> None:
        """The supervisor's end of a worker closes, as when the worker dies."""
        await self._ends[number].close()

    async def close(self) -> None:
        """End every worker."""
        await self._stack.aclose()
        for end in self._ends.values():
            await end.close()

    async def _relay(self, number: int, end: Channel) -> None:
        async for message in end.messages():
            self.hub.received(number, message)
        self.hub.gone(number)

    def _send(self, number: int, message: FromHub) -> None:
        self._ends[number].send(message)


@pytest.fixture
async def replica() -> AsyncIterator[Replica]:
    """A hub that is closed at the end."""
    made = Replica(ManualClock())
    yield made
    await made.close()


async def within(call: Awaitable[None]) -> None:
    """Await what must end by itself."""
    await asyncio.wait_for(call, 10)


async def test_applied_returns_when_every_other_worker_has_applied(replica: Replica) -> None:
    """Law: the return means that each other worker was brought to that generation; the caller itself is not asked."""
    one, two, three = [await replica.worker(number) for number in (1, 2, 3)]
    three.gate.clear()
    call = asyncio.create_task(one.peers.applied("theme-1", 7))
    await within(three.asked.wait())
    await quiet()
    assert two.applied == {"theme-1": 7}
    assert not call.done()
    three.gate.set()
    await within(call)
    assert three.applied == {"theme-1": 7}
    assert one.applied == {}


async def test_calls_of_several_workers_keep_apart(replica: Replica) -> None:
    """Law: each caller hears of its own call only, in whatever order the others answer."""
    workers = [await replica.worker(number) for number in (1, 2, 3)]
    calls = [w.peers.applied(f"theme-{i}", 10 * i + n) for n, w in enumerate(workers) for i in range(20)]
    await within(asyncio.wait([asyncio.ensure_future(call) for call in calls]))
    for n, worker in enumerate(workers):
        highest = max(other for other in range(3) if other != n)
        assert worker.applied == {f"theme-{i}": 10 * i + highest for i in range(20)}


async def test_alone_there_is_nobody_to_wait_for(replica: Replica) -> None:
    """Law: a worker without others, or a process without workers, is not held up."""
    one = await replica.worker(1)
    await within(one.peers.applied("theme-1", 1))
    nobody = NoPeers()
    await nobody.start(one.refresh)
    await nobody.applied("theme-1", 1)
    await nobody.stop()


async def test_a_worker_that_cannot_apply_is_waited_for_and_tries_again(replica: Replica) -> None:
    """Law: a failed attempt is no activation; it is repeated until it succeeds."""
    one, two = await replica.worker(1), await replica.worker(2)
    two.fails = 3
    call = asyncio.create_task(one.peers.applied("theme-1", 2))
    await within(two.asked.wait())
    await quiet()
    assert not call.done()
    assert two.applied == {}
    await replica.clock.advance(10)
    await within(call)
    assert two.applied == {"theme-1": 2}


async def test_a_caller_that_gives_up_ends_the_attempts(replica: Replica) -> None:
    """Law: nothing is tried for nobody, and a later call is not disturbed by it."""
    one, two = await replica.worker(1), await replica.worker(2)
    two.fails = 1_000_000
    call = asyncio.create_task(one.peers.applied("theme-1", 2))
    await within(two.asked.wait())
    await turns_until(lambda: replica.clock.waiting == 1)
    call.cancel()
    await asyncio.wait({call})
    await turns_until(lambda: replica.clock.waiting == 0)
    two.fails = 0
    await within(one.peers.applied("theme-1", 3))


@pytest.mark.parametrize("leaves", [True, False], ids=["leaves", "dies"])
async def test_a_worker_that_is_gone_no_longer_counts(replica: Replica, leaves: bool) -> None:
    """Law: a worker that ends while it is waited for holds nobody up."""
    one, two = await replica.worker(1), await replica.worker(2)
    two.gate.clear()
    call = asyncio.create_task(one.peers.applied("theme-1", 2))
    await within(two.asked.wait())
    await quiet()
    assert not call.done()
    await (two.peers.stop() if leaves else replica.kill(2))
    await within(call)
    assert two.applied == {}
    await within(one.peers.applied("theme-1", 3))


async def test_a_worker_counts_from_the_return_of_start(replica: Replica) -> None:
    """Law: before, nobody waits for it; after, everybody does."""
    one, two = await replica.worker(1), await replica.connected(2)
    await within(one.peers.applied("theme-1", 1))
    assert two.applied == {}
    await two.peers.start(two.refresh)
    await within(one.peers.applied("theme-1", 2))
    assert two.applied == {"theme-1": 2}


async def test_a_caller_that_dies_is_forgotten(replica: Replica) -> None:
    """Law: what a dead worker waited for is tried no longer."""
    one, two = await replica.worker(1), await replica.worker(2)
    two.fails = 1_000_000
    call = asyncio.create_task(one.peers.applied("theme-1", 2))
    await turns_until(lambda: replica.clock.waiting == 1)
    await replica.kill(1)
    await turns_until(lambda: replica.clock.waiting == 0)
    call.cancel()


async def test_the_end_of_the_supervisor_is_told_once_and_nothing_is_claimed(replica: Replica) -> None:
    """Law: a worker learns that it is orphaned, also while it joins; a call in the air is not answered by it."""
    one, two = await replica.worker(1), await replica.worker(2)
    two.gate.clear()
    call = asyncio.create_task(one.peers.applied("theme-1", 2))
    await within(two.asked.wait())
    await replica.kill(1)
    await turns_until(lambda: replica.lost == [1])
    await quiet()
    assert not call.done()
    await one.peers.stop()
    await asyncio.wait({call})
    assert call.cancelled()
    assert replica.lost == [1]


@pytest.mark.parametrize("line", [b"{}\n", b"[1]\n", b"nonsense\n", b"x" * (LINE_BYTES + 1)])
async def test_what_is_no_message_ends_the_channel(line: bytes) -> None:
    """Law: nothing is guessed; a line too long is not gathered."""
    ours, theirs = socket.socketpair()
    channel = await Channel.over(ours)
    with theirs:
        theirs.setblocking(False)
        sending = asyncio.create_task(asyncio.get_running_loop().sock_sendall(theirs, line))
        heard = [message async for message in channel.messages()]
        assert heard == []
        await channel.close()
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


async def test_every_message_arrives_as_it_was_sent() -> None:
    """Law: both ends read what the other wrote, to the largest reason."""
    ours, theirs = socket.socketpair()
    one, two = await Channel.over(ours), await Channel.over(theirs)
    sent: list[Message] = [Ready("f" * 64, 7, True), Apply(1, "x" * 128, 1 << 60), Failed.of(ValueError("é\n" * 9999))]
    for message in sent:
        one.send(message)
    await one.close()
    one.send(sent[0])
    assert [message async for message in two.messages()] == sent
    await two.close()


async def test_an_end_that_does_not_read_is_seen_as_stuck() -> None:
    """Law: what waits in memory for a hung worker has a bound that the supervisor can act on."""
    ours, theirs = socket.socketpair()
    channel = await Channel.over(ours)
    with theirs:
        assert not channel.stuck
        for number in range(100_000):
            channel.send(Apply(number, "x" * 128, 1))
            if channel.stuck:
                break
        assert channel.stuck
    await channel.close()
