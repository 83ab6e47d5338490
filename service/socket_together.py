"""The workers of this replica counting together, through the supervisor that started them all."""

from __future__ import annotations

import asyncio
import itertools
import zlib
from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from service.aggregation import Family, packed
from service.channel import Answer, Ask, Channel, Counted, Hurry, Last, Message, Tell, Told
from service.clock import Clock, Timer, settled
from service.refusals import NotReady
from service.totals import DomainStats

WAIT_S = 0.5  # for the other workers; as long again for the supervisor alone
_TELL_EVERY_S = 1.0  # what a worker counted by domain since then is lost if it is killed
_AT_ONCE = 1024  # domains in one message


class Source(Protocol):
    """What a worker counts."""

    def families(self) -> list[Family]:
        """Everything but the counts by domain, since its start."""

    def settle(self) -> None:
        """Hand over the counts by domain that are new."""


class TogetherOverSocket:
    """`service.together.Together` of one worker among several.

    Args:
        channel: to the supervisor; closed by its owner.
        clock: bounds the waiting.
    """

    def __init__(self, channel: Channel, clock: Clock) -> None:
        self._channel = channel
        self._clock = clock
        self._source: Source | None = None
        self._timer: Timer | None = None
        self._numbers = itertools.count(1)
        self._asked: dict[int, asyncio.Future[bytes]] = {}

    def start(self, source: Source) -> None:
        """Tell what this worker counts, when asked and now and then."""
        self._source = source
        self._again()

    def stop(self) -> None:
        """Tell all that was counted, for the last time."""
        if self._timer is not None:
            self._timer.cancel()
        if self._source is not None:
            self._source.settle()
            self._channel.send(Last(packed(self._source.families())))
        self._source = None

    def heard(self, message: Message) -> None:
        """The supervisor said something; what is not about counting is left to others."""
        match message:
            case Tell() if self._source is not None:
                self._source.settle()
                report = packed(self._source.families()) if message.report else b""
                self._channel.send(Told(message.number, report))
            case Answer() if message.number in self._asked and not self._asked[message.number].done():
                self._asked[message.number].set_result(message.content)
            case _:
                pass

    def add(self, counts: Mapping[str, Sequence[int]]) -> None:
        """See Together."""
        listed = [(domain, list(columns)) for domain, columns in counts.items()]
        for start in range(0, len(listed), _AT_ONCE):
            self._channel.send(Counted(dict(listed[start : start + _AT_ONCE])))

    async def exposition(self, own: Sequence[Family]) -> bytes:
        """See Together; a worker that does not answer is waited for so long, and counts with what it said last."""
        return zlib.decompress(await self._answer(None, packed(own)))

    async def stats(self, domain: str) -> DomainStats:
        """See Together."""
        return msgspec.json.decode(await self._answer(domain, b""), type=DomainStats)

    async def _answer(self, domain: str | None, report: bytes) -> bytes:
        number = next(self._numbers)
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        try:
            self._channel.send(Ask(number, domain, report))
            if not await settled(answer, self._clock, WAIT_S):
                self._channel.send(Hurry(number))
                await settled(answer, self._clock, WAIT_S)
            if not answer.done():
                raise NotReady("the supervisor of the workers, which adds up what they count, does not answer")
            return answer.result()
        finally:
            del self._asked[number]

    def _again(self) -> None:
        if self._source is not None:
            self._source.settle()
            self._timer = self._clock.call_later(_TELL_EVERY_S, self._again)
