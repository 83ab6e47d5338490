"""How fast changes of others are taken in: background loads may take a share of a core while requests are scored."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from service.clock import Clock, slept
from service.threads import ACCOUNT, Account

BUSY_S = 0.25  # how long after a batch the next requests are still expected
_CREDIT_S = 0.02
_DEBT_S = 0.05  # no more of what loads took beyond their share is remembered
_LONGEST_S = 0.5  # a load waits its turn at most so long, however costly those before it were
_REST_S = 0.001
_LOAD_S = 0.003  # what a load that has begun is expected to take; what it really took is counted at its end


class Pace:
    """Gives background loads their turns.

    While requests are being scored loads begin one by one, as the processor time that they spend on worker threads is
    let grow by `share` of a core; a short burst is free. What publishes and cold domains spend is not theirs: whoever
    waits for those pays for them, and a change of another would else wait as long as they go on. What has begun may
    wait for the store as long as it takes, and holds up no other. While nobody scores there is no bound.

    Args:
        clock: whose seconds count.
        busy: whether requests are being scored.
        share: of one core, in (0, 1].
    """

    def __init__(self, clock: Clock, *, busy: Callable[[], bool], share: float) -> None:
        self._clock = clock
        self._busy = busy
        self._share = share
        self._turn = asyncio.Lock()
        self._credit_s = _CREDIT_S
        self._account = Account()
        self._counted_s = 0.0
        self._at = clock.now()
        self._begun = 0

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait until a load may begin; it ends with the block, whose calls on worker threads count."""
        if not self._busy():
            yield
            return
        async with self._turn:
            until = self._clock.now() + _LONGEST_S
            while self._busy() and (lacking_s := -self._credit()) > 0 and (left_s := until - self._clock.now()) > 0:
                await slept(self._clock, min(left_s, max(_REST_S, lacking_s / self._share)))
            self._begun += 1
        before = ACCOUNT.set(self._account)
        try:
            yield
        finally:
            ACCOUNT.reset(before)
            self._begun -= 1

    def _credit(self) -> float:
        """Processor time that may be spent now, seconds; negative when too much was."""
        now, spent = self._clock.now(), self._account.spent_s
        earned = (now - self._at) * self._share - (spent - self._counted_s)
        self._credit_s = max(-_DEBT_S, min(_CREDIT_S, self._credit_s + earned))
        self._at, self._counted_s = now, spent
        return self._credit_s - self._begun * _LOAD_S
