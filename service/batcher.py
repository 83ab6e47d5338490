"""Collect requests into batches for the one engine thread.

A request that finds the engine free and the queue empty is run at once (with whatever else arrives in the same turn of
the event loop). Requests that had to wait behind a batch may wait up to `batch_wait_ms`, counted from when the oldest
was queued, for more to join, unless a full batch is there already. Everything runs on the event loop; only
`Engine.run` itself is on the engine thread.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from service.clock import Clock, Timer
from service.engine import Segment
from service.errors import DeadlineExceeded, EngineFailed, QueueFull
from service.observer import Observer

Logits = list[NDArray[np.float64]]
Run = Callable[[Sequence[Segment]], Awaitable[Logits]]

_RATE_MEMORY = 0.2  # weight of the newest batch in the running estimate of rows/s
_RETRY_BOUNDS_S = (0.05, 5.0)


@dataclass(slots=True, eq=False)
class _Entry:
    """One request in the queue."""

    segments: Sequence[Segment]
    rows: int
    deadline: float
    queued_at: float
    reply: asyncio.Future[Logits] = field(repr=False)


class Batcher:
    """A bounded queue of rows in front of one engine.

    Args:
        run: scores a batch on the engine thread, one at a time.
        clock: whose seconds count.
        observer: told of queue and engine times.
        batch_rows: rows of a batch at most; a larger single request runs alone.
        batch_wait_s: how long the oldest waiting request may wait for more once the engine is free.
        queue_rows: rows that may wait; a request is always taken when the queue is empty.
    """

    def __init__(
        self,
        run: Run,
        clock: Clock,
        observer: Observer,
        *,
        batch_rows: int,
        batch_wait_s: float,
        queue_rows: int,
    ) -> None:
        self._run = run
        self._clock = clock
        self._observer = observer
        self._batch_rows = batch_rows
        self._batch_wait_s = batch_wait_s
        self._queue_rows = queue_rows
        self._queue: deque[_Entry] = deque()
        self._queued_rows = 0
        self._rows_per_s = 0.0
        self._timer: Timer | None = None
        self._running: asyncio.Task[None] | None = None

    async def submit(self, segments: Sequence[Segment], deadline: float) -> Logits:
        """Score the segments of one request in one batch.

        Args:
            segments: of one request, at least one row in all.
            deadline: `Clock.now()` seconds.

        Returns:
            Per segment its logits, float64.

        Raises:
            QueueFull: no room; says when to try again.
            DeadlineExceeded: the deadline passed before the batch formed or before it was done.
            EngineFailed: the engine failed on the batch.
        """
        rows = sum(segment.rows.n for segment in segments)
        if self._queue and self._queued_rows + rows > self._queue_rows:
            raise QueueFull(self._queued_rows, self._queue_rows, self._retry_after_s())
        reply: asyncio.Future[Logits] = asyncio.get_running_loop().create_future()
        entry = _Entry(segments, rows, deadline, self._clock.now(), reply)
        found_empty = not self._queue
        self._queue.append(entry)
        self._count(rows)
        if self._running is None:
            self._plan(found_empty)
        try:
            return await reply
        finally:
            if reply.cancelled() and entry in self._queue:
                self._queue.remove(entry)
                self._count(-rows)

    async def drain(self) -> None:
        """Wait until nothing is queued or running; for a clean stop."""
        while self._queue or self._running is not None:
            if self._running is None:
                self._form()
            else:
                await asyncio.wait({self._running})

    def _plan(self, at_once: bool) -> None:
        """Decide when the next batch forms; the engine is free."""
        if at_once or self._queued_rows >= self._batch_rows:
            delay_s = 0.0
        elif self._timer is not None:
            return
        else:
            delay_s = max(0.0, self._queue[0].queued_at + self._batch_wait_s - self._clock.now())
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._clock.call_later(delay_s, self._form)

    def _form(self) -> None:
        """Take a batch from the queue and start it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._running is not None:
            return
        batch = self._take(self._clock.now())
        if batch:
            self._running = asyncio.get_running_loop().create_task(self._score(batch))

    def _take(self, now: float) -> list[_Entry]:
        """Requests in order of arrival up to the row limit; late and cancelled ones are dropped."""
        batch: list[_Entry] = []
        rows = 0
        while self._queue:
            entry = self._queue[0]
            if not entry.reply.done() and entry.deadline > now:
                if batch and rows + entry.rows > self._batch_rows:
                    break
                batch.append(entry)
                rows += entry.rows
            elif not entry.reply.done():
                entry.reply.set_exception(DeadlineExceeded("while the request waited for the engine"))
            self._queue.popleft()
            self._count(-entry.rows)
        return batch

    async def _score(self, batch: list[_Entry]) -> None:
        """Run one batch and answer its requests; a failure is theirs alone."""
        started = self._clock.now()
        segments = [segment for entry in batch for segment in entry.segments]
        rows = sum(entry.rows for entry in batch)
        self._observer.batch(rows, len(segments))
        for entry in batch:
            self._observer.stage("queue", started - entry.queued_at)
        try:
            logits = await self._run(segments)
        except Exception as error:
            for entry in batch:
                if not entry.reply.done():
                    failure = EngineFailed(f"the engine failed on a batch of {rows} rows: {error}")
                    failure.__cause__ = error
                    entry.reply.set_exception(failure)
        else:
            self._answer(batch, logits, started, rows)
        finally:
            self._running = None
            if self._queue:
                self._plan(at_once=False)

    def _answer(self, batch: list[_Entry], logits: Logits, started: float, rows: int) -> None:
        """Hand each request its own segments' logits, unless its deadline passed."""
        now = self._clock.now()
        if now > started:
            rate = rows / (now - started)
            self._rows_per_s += (_RATE_MEMORY if self._rows_per_s else 1.0) * (rate - self._rows_per_s)
        position = 0
        for entry in batch:
            own = logits[position : position + len(entry.segments)]
            position += len(entry.segments)
            self._observer.stage("engine", now - started)
            if entry.reply.done():
                continue
            if entry.deadline <= now:
                entry.reply.set_exception(DeadlineExceeded("while the engine scored the batch"))
            else:
                entry.reply.set_result(own)

    def _count(self, rows: int) -> None:
        self._queued_rows += rows
        self._observer.queue(self._queued_rows)

    def _retry_after_s(self) -> float:
        """When the rows that wait now will have been scored, as the last batches went."""
        low, high = _RETRY_BOUNDS_S
        if not self._rows_per_s:
            return 1.0
        return min(high, max(low, self._queued_rows / self._rows_per_s))
