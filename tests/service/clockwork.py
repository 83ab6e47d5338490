"""A clock that only tests move, and a way to let the event loop come to rest."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

QUIET_TURNS = 50
MOST_TURNS = 1_000_000


@dataclass(order=True)
class ManualTimer:
    """A callback that is due at a moment of the manual clock."""

    due: float
    number: int
    callback: Callable[[], None] = field(compare=False)
    cancelled: bool = field(default=False, compare=False)

    def cancel(self) -> None:
        """Never call back."""
        self.cancelled = True


class ManualClock:
    """Seconds that pass only in `advance`."""

    def __init__(self) -> None:
        self._now = 0.0
        self._timers: list[ManualTimer] = []
        self._numbers = itertools.count()

    def now(self) -> float:
        """Seconds since the test began."""
        return self._now

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> ManualTimer:
        """Call back when that much was advanced; a delay of 0 is the event loop's next turn."""
        timer = ManualTimer(self._now + max(0.0, delay_s), next(self._numbers), callback)
        if delay_s <= 0:
            asyncio.get_running_loop().call_soon(self._fire, timer)
        else:
            heapq.heappush(self._timers, timer)
        return timer

    async def advance(self, seconds: float) -> None:
        """Let time pass, each timer firing at its own moment, and the loop come to rest after each."""
        until = self._now + seconds
        await quiet()
        while self._timers and self._timers[0].due <= until:
            timer = heapq.heappop(self._timers)
            self._now = max(self._now, timer.due)
            self._fire(timer)
            await quiet()
        self._now = until
        await quiet()

    @property
    def waiting(self) -> int:
        """Timers that will still fire."""
        return sum(not timer.cancelled for timer in self._timers)

    def _fire(self, timer: ManualTimer) -> None:
        if not timer.cancelled:
            timer.callback()


async def quiet() -> None:
    """Let everything run that is ready on the event loop."""
    for _ in range(QUIET_TURNS):
        await asyncio.sleep(0)


async def turns_until(condition: Callable[[], bool]) -> None:
    """Give the event loop one turn after the other until something is so."""
    for _ in range(MOST_TURNS):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError(f"still not so after {MOST_TURNS} turns of the event loop")
