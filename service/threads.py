"""Worker threads beside the event loop: one for the engine, one of low priority for all that a publish costs."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")

LOADER_NICENESS = 10


@dataclass
class Account:
    """Processor time, in seconds, of the calls on worker threads that were made on it."""

    spent_s: float = 0.0


# whose calls the running task makes; tasks that it starts make theirs on the same account
ACCOUNT: ContextVar[Account | None] = ContextVar("account", default=None)


class WorkerThread:
    """One thread that runs one call after the other.

    A call, and with it the artifact that it works on, is let go before its caller hears of the end: the thread's
    priority may be so low that it would otherwise hold the call long after.

    Args:
        name: of the thread, for whoever looks at the process.
        niceness: added to the process's own; on Linux priority is per thread, elsewhere it is left alone.
    """

    def __init__(self, name: str, *, niceness: int = 0) -> None:
        self._niceness = niceness
        self._executor = ThreadPoolExecutor(1, name, initializer=self._lower_priority)

    async def run(self, work: Callable[[], T]) -> T:
        """Run a call on the thread; its result or exception comes back to the event loop.

        A call that is cancelled before its turn is never run, and let go at once.
        """
        given = [work]
        del work
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, self._run, given, ACCOUNT.get())
        finally:
            given.clear()

    def close(self) -> None:
        """Finish what was given and end the thread."""
        self._executor.shutdown(wait=True)

    def _lower_priority(self) -> None:
        if self._niceness and sys.platform == "linux":
            own = threading.get_native_id()
            os.setpriority(os.PRIO_PROCESS, own, os.getpriority(os.PRIO_PROCESS, own) + self._niceness)

    def _run(self, given: list[Callable[[], T]], account: Account | None) -> T:
        before = time.thread_time()
        try:
            # taken out, because the executor keeps its arguments until the thread's next turn;
            # nothing left to take was cancelled in this very moment, and nobody hears of the IndexError
            return given.pop()()
        finally:
            if account is not None:
                account.spent_s += time.thread_time() - before
