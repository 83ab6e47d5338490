"""A bounded wait for a change: what takes longer goes on by itself, and its caller is told 202."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


class BoundedWait:
    """Waits for changes until they are active on every worker of this replica, but not for ever.

    Args:
        wait_s: longest wait for one change.
    """

    def __init__(self, wait_s: float) -> None:
        self._wait_s = wait_s
        # the loop keeps only a weak reference to a task that nobody awaits any longer
        self._pending: set[asyncio.Task[Any]] = set()

    async def within(
        self, change: Coroutine[Any, Any, Result], ended: Callable[[], None] = lambda: None
    ) -> Result | None:
        """What the change came to, or None if it goes on behind the reply.

        Args:
            change: makes the change; whatever it raises within the wait is raised here.
            ended: called at its end, whenever that is.
        """
        task = asyncio.create_task(change)
        self._pending.add(task)

        def end(done: asyncio.Task[Result]) -> None:
            self._pending.discard(done)
            ended()
            if not done.cancelled():
                done.exception()  # its audit line has told it; reading it keeps asyncio from telling it again

        task.add_done_callback(end)
        await asyncio.wait({task}, timeout=self._wait_s)
        return task.result() if task.done() else None
