"""Time as the service sees it: passed in, so that tests move it by hand and never sleep."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Protocol


class Timer(Protocol):
    """A callback that has not fired yet."""

    def cancel(self) -> None:
        """Forget the callback; harmless after it fired."""


class Clock(Protocol):
    """Monotonic seconds and timers on the event loop."""

    def now(self) -> float:
        """Monotonic seconds; deadlines are given in them."""

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        """Call back on the event loop after delay_s seconds (0: once what is ready now has run)."""


class LoopClock:
    """The real clock: `time.monotonic` and the running event loop's timers."""

    def now(self) -> float:
        """Monotonic seconds."""
        return time.monotonic()

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        """A timer of the running event loop."""
        loop = asyncio.get_running_loop()
        return loop.call_later(delay_s, callback) if delay_s > 0 else loop.call_soon(callback)


async def settled(task: asyncio.Future[Any], clock: Clock, timeout_s: float) -> bool:
    """Wait until a future is done, but no longer than timeout_s; the future itself is never cancelled.

    Args:
        task: what is waited for; several may wait for the same one.
        clock: whose seconds count.
        timeout_s: the bound, seconds.

    Returns:
        Whether it is done. Its exception, if any, is left for whoever asks for the result.
    """
    if task.done() or timeout_s <= 0:
        return task.done()
    woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def wake(_: object = None) -> None:
        if not woken.done():
            woken.set_result(None)

    timer = clock.call_later(timeout_s, wake)
    task.add_done_callback(wake)
    try:
        await woken
    finally:
        timer.cancel()
        task.remove_done_callback(wake)
    return task.done()


async def slept(clock: Clock, seconds: float) -> None:
    """Wait for so many seconds of the clock."""
    due = asyncio.Event()
    timer = clock.call_later(seconds, due.set)
    try:
        await due.wait()
    finally:
        timer.cancel()
