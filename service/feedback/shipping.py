"""Closed segments to the object store, oldest first. Each is held by its lock meanwhile: one worker ships it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import ExitStack

from structlog.typing import FilteringBoundLogger

from adapters_store.errors import StoreError
from adapters_store.feedback_objects import FeedbackObjects
from service.clock import Clock, slept
from service.feedback.folder import Segment, SegmentFolder, locked

EVERY_S = 5.0
AT_MOST_S = 300.0


class Shipper:
    """Ships while the service runs.

    Args:
        folder: where segments are.
        objects: takes them.
        clock: counts the waits.
        log: told when the store does not take them, and when it does again.
        shipped: called after each segment.
        every_s: between two looks at the folder, seconds; after failures ever longer.
    """

    def __init__(
        self,
        folder: SegmentFolder,
        objects: FeedbackObjects,
        clock: Clock,
        log: FilteringBoundLogger,
        *,
        shipped: Callable[[], None],
        every_s: float = EVERY_S,
    ) -> None:
        self._folder = folder
        self._objects = objects
        self._clock = clock
        self._log = log
        self._shipped = shipped
        self._every_s = every_s

    async def run(self) -> None:
        """Ship until cancelled."""
        failures = 0
        while True:
            try:
                await self.ship()
                failures = 0
            except (StoreError, OSError) as error:
                failures += 1
                if failures == 1:
                    self._log.warning("feedback_not_shipped", reason=str(error))
                else:
                    self._log.debug("feedback_not_shipped", reason=str(error))
            await slept(self._clock, min(self._every_s * 2 ** min(failures, 16), AT_MOST_S))

    async def ship(self) -> int:
        """Ship every closed segment that nobody else is shipping.

        Returns:
            How many.

        Raises:
            adapters_store.errors.StoreUnavailable: the store did not take one; it stays for the next time.
            OSError: the disk refuses.
        """
        segments = await asyncio.to_thread(self._folder.segments)
        done = [await self._ship(segment) for segment in segments if segment.named.state == "closed"]
        return sum(done)

    async def _ship(self, segment: Segment) -> bool:
        with ExitStack() as holding:
            if await asyncio.to_thread(holding.enter_context, locked(segment.path)) is None:
                return False
            content = await asyncio.to_thread(segment.path.read_bytes)
            await self._objects.put(segment.named.key, content)
            await asyncio.to_thread(self._folder.mark_shipped, segment)
        self._shipped()
        return True
