"""The other workers of this replica, met through the supervisor that started them all."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable

from service.channel import Applied, Apply, Channel, Forget, Join, Joined, Leave, Message, Ping, Pong
from service.clock import Clock
from service.peers import Refresh

_RETRY_S = 0.1
_RETRY_AT_MOST_S = 2.0


class PeersOverSocket:
    """`service.peers.Peers` of one worker among several; the supervisor's `Hub` knows who is alive.

    Args:
        channel: to the supervisor; closed by its owner.
        clock: between two attempts to apply a record.
        on_lost: called once when the supervisor is gone; not after `stop_hearing`.
        others: called with each message that is not about changed records.
    """

    def __init__(
        self,
        channel: Channel,
        clock: Clock,
        on_lost: Callable[[], None],
        others: Callable[[Message], None] = lambda message: None,
    ) -> None:
        self._channel = channel
        self._clock = clock
        self._on_lost = on_lost
        self._others = others
        self._refresh: Refresh | None = None
        self._joined = asyncio.Event()
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._applying: dict[int, asyncio.Task[None]] = {}
        self._hearing: asyncio.Task[None] | None = None

    def hear(self) -> None:
        """Begin to hear the supervisor, before anything else is done, so that its end is noticed at any time."""
        if self._hearing is None:
            self._hearing = asyncio.get_running_loop().create_task(self._hear())

    async def stop_hearing(self) -> None:
        """End `hear`."""
        hearing, self._hearing = self._hearing, None
        if hearing is not None:
            hearing.cancel()
            await asyncio.gather(hearing, return_exceptions=True)

    async def start(self, refresh: Refresh) -> None:
        """Join the other workers; see `Peers.start`."""
        self._refresh = refresh
        self._channel.send(Join())
        await self._joined.wait()

    async def applied(self, domain: str, generation: int) -> None:
        """Wait for the other workers; see `Peers.applied`. Once the supervisor is gone it never returns: who knows?"""
        number = next(self._numbers)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[number] = done
        self._channel.send(Apply(number, domain, generation))
        try:
            await done
        except asyncio.CancelledError:
            self._channel.send(Forget(number))
            raise
        finally:
            del self._waiting[number]

    async def stop(self) -> None:
        """Leave the other workers; see `Peers.stop`."""
        self._refresh = None
        self._channel.send(Leave())
        for done in self._waiting.values():
            done.cancel()
        applying = list(self._applying.values())
        for task in applying:
            task.cancel()
        await asyncio.gather(*applying, return_exceptions=True)

    async def _hear(self) -> None:
        async for message in self._channel.messages():
            self._heard(message)
        self._joined.set()
        self._on_lost()

    def _heard(self, message: Message) -> None:
        match message:
            case Ping():
                self._channel.send(Pong())
            case Joined():
                self._joined.set()
            case Apply():
                task = asyncio.get_running_loop().create_task(self._apply(message))
                self._applying[message.number] = task
                task.add_done_callback(lambda _: self._applying.pop(message.number))
            case Applied() if message.number in self._waiting:
                done = self._waiting[message.number]
                if not done.done():
                    done.set_result(None)
            case Forget() if message.number in self._applying:
                self._applying[message.number].cancel()
            case _:
                self._others(message)

    async def _apply(self, asked: Apply) -> None:
        """Try until the record serves here; whoever waits for it bounds the waiting, and says so when it gives up."""
        delay_s = _RETRY_S
        while self._refresh is not None:
            try:
                await self._refresh(asked.domain, asked.generation)
            except Exception:  # the loader has told it; here it only means: not yet
                await self._pause(delay_s)
                delay_s = min(2 * delay_s, _RETRY_AT_MOST_S)
            else:
                self._channel.send(Applied(asked.number))
                return

    async def _pause(self, delay_s: float) -> None:
        due = asyncio.Event()
        timer = self._clock.call_later(delay_s, due.set)
        try:
            await due.wait()
        finally:
            timer.cancel()
