"""How fast changes of others are taken in: background loads may take a share of a core while requests are scored."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from service.clock import Clock, slept

BUSY_S = 0.25  # how long after a batch the next requests are still expected
_CREDIT_S = 0.02
_DEBT_S = 0.05  # no more of what publishes and cold domains spent is remembered
_LONGEST_S = 0.5  # a load waits its turn at most so long, whatever they spend meanwhile
_REST_S = 0.001
_LOAD_S = 0.003  # what a load that has begun is expected to take; what it really took is counted at its end


class Pace:
    """Gives background loads their turns.

    While requests are being scored loads begin one by one, as the processor time that the loader thread has spent, for
    whomever, is let grow by `share` of a core; a short burst is free. Where publishes and cold domains alone take that
    share, one load begins each half second all the same. What has begun may wait for the store as long as it takes, and
    holds up no other. While nobody scores there is no bound.

    Args:
        clock: whose seconds count.
        spent: processor time of the loader thread so far, seconds.
        busy: whether requests are being scored.
        share: of one core, in (0, 1].
    """

    def __init__(self, clock: Clock, *, spent: Callable[[], float], busy: Callable[[], bool], share: float) -> None:
        self._clock = clock
        self._spent = spent
        self._busy = busy
        self._share = share
        self._turn = asyncio.Lock()
        self._credit_s = _CREDIT_S
        self._counted_s = spent()
        self._at = clock.now()
        self._begun = 0

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait until a load may begin; it ends with the block."""
        if not self._busy():
            yield
            return
        async with self._turn:
            until = self._clock.now() + _LONGEST_S
            while self._busy() and (lacking_s := -self._credit()) > 0 and (left_s := until - self._clock.now()) > 0:
                await slept(self._clock, min(left_s, max(_REST_S, lacking_s / self._share)))
            self._begun += 1
        try:
            yield
        finally:
            self._begun -= 1

    def _credit(self) -> float:
        """Processor time that may be spent now, seconds; negative when too much was."""
        now, spent = self._clock.now(), self._spent()
        earned = (now - self._at) * self._share - (spent - self._counted_s)
        self._credit_s = max(-_DEBT_S, min(_CREDIT_S, self._credit_s + earned))
        self._at, self._counted_s = now, spent
        return self._credit_s - self._begun * _LOAD_S
