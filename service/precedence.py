"""Requests go first: the loader thread makes its next step while none is being answered.

Python runs one thread at a time, and a scheduler lets a thread that has begun finish its slice: a request that meets a
load would wait for all of it, whatever the load's priority. So a load is cut into short steps, and between two of them
it lets requests pass.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_PAUSE_S = 0.0003  # in which the event loop takes up a request that arrived during the last step
_WAITED_FOR = 0.1  # of the longest wait, where a request waits for the load
_CALM_S = 0.05  # so long after the last request none is looked out for: a replica that nobody asks loads twice as fast


class Precedence:
    """Whether a request is being answered, as the loader thread sees it.

    Args:
        longest_s: so often a step is made although requests never leave a gap, seconds.
        now: seconds.
        sleep: what a pause is made by.
    """

    def __init__(
        self,
        longest_s: float = 0.01,
        *,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._longest_s = longest_s
        self._now = now
        self._sleep = sleep
        self._answering = 0
        self._waiting = 0
        self._answered_at = -math.inf
        self._free = threading.Event()
        self._free.set()

    @property
    def is_answering(self) -> bool:
        """Whether a request is being answered that waits for no load."""
        return not self._free.is_set()

    @contextmanager
    def answering(self) -> Iterator[None]:
        """On the event loop: a request is being answered, until its reply is on its way."""
        self._count(1)
        try:
            yield
        finally:
            # behind what writes the reply, which belongs to this turn of the loop
            asyncio.get_running_loop().call_soon(self._count, -1)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """On the event loop: the request that is being answered waits for a load, which must not wait for it."""
        self._waiting += 1
        self._count(-1)
        try:
            yield
        finally:
            self._waiting -= 1
            self._count(1)

    def give_way(self) -> None:
        """On the loader thread, between two steps: let requests pass, but not for ever.

        Where one waits for the load, the next step is the quickest way to its answer: no pause is made for others that
        may come, and whoever is being answered is let pass for a tenth of the time, or a server that is never without
        a request would leave it waiting until its wait is over.
        """
        if self._waiting:
            self._free.wait(self._longest_s * _WAITED_FOR)
            return
        if self._free.is_set() and self._now() - self._answered_at > _CALM_S:
            return
        self._sleep(_PAUSE_S)
        self._free.wait(self._longest_s)

    def _count(self, step: int) -> None:
        self._answering += step
        self._answered_at = self._now()
        if self._answering > 0:
            self._free.clear()
        else:
            self._free.set()
