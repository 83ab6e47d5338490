"""Collect requests into batches, which the engine scores one at a time.

A request that finds the engine free and the queue empty is run at once (with whatever else arrives in the same turn of
the event loop). Requests that had to wait behind a batch may wait up to `batch_wait_ms`, counted from when the oldest
was queued, for more to join, unless a full batch is there already. Everything here runs on the event loop; where
`Engine.run` does, `service.dispatch` decides.

A request may bring *riders*: rows that are scored in its batch for comparison only. They are left out wherever they
could cost a response: where the batch would come near a deadline, and where the engine fails with them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from service.account import Account
from service.clock import Clock, Timer
from service.engine import Segment
from service.errors import DeadlineExceeded, EngineFailed, QueueFull
from service.observer import Observer

Logits = list[NDArray[np.float64]]
Run = Callable[[Sequence[Segment]], Awaitable[Logits]]

_RATE_MEMORY = 0.2  # weight of the newest batch in the running estimate of rows/s
_RETRY_BOUNDS_S = (0.05, 5.0)


class Riders(Protocol):
    """Segments that ride in a request's batch and change nothing of its response."""

    @property
    def segments(self) -> Sequence[Segment]:
        """What is scored."""

    def arrived(self, logits: Logits | None, *, failed: bool = False) -> None:
        """Called once: with the logits of each segment after the response was handed out, or None if left out.

        Args:
            logits: of each segment.
            failed: the engine failed on a batch with these riders.
        """


@dataclass(slots=True, eq=False)
class _Entry:
    """One request in the queue."""

    segments: Sequence[Segment]
    rows: int
    deadline: float
    queued_at: float
    reply: asyncio.Future[Logits] = field(repr=False)
    riders: Riders | None = None
    account: Account | None = None

    @property
    def riding(self) -> Sequence[Segment]:
        """Segments of the riders."""
        return () if self.riders is None else self.riders.segments

    def leave_riders(self, *, failed: bool = False) -> None:
        """Score without them."""
        riders, self.riders = self.riders, None
        if riders is not None:
            riders.arrived(None, failed=failed)


class Batcher:
    """A bounded queue of rows in front of one engine.

    Args:
        run: scores a batch, one at a time; `service.dispatch.Dispatch`.
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
        self.scored_at = float("-inf")  # when the last batch began, `Clock.now()` seconds

    @property
    def half_full(self) -> bool:
        """Whether at least half of the rows wait that may."""
        return 2 * self._queued_rows >= self._queue_rows

    async def submit(
        self,
        segments: Sequence[Segment],
        deadline: float,
        riders: Riders | None = None,
        account: Account | None = None,
    ) -> Logits:
        """Score the segments of one request in one batch.

        Args:
            segments: of one request, at least one row in all.
            deadline: `Clock.now()` seconds.
            riders: what is scored in the same batch, if that costs no response; told in any case, also on an error.
            account: of the request, told of its time in the queue and in the engine.

        Returns:
            Per segment its logits, float64.

        Raises:
            QueueFull: no room; says when to try again.
            DeadlineExceeded: the deadline passed before the batch formed or before it was done.
            EngineFailed: the engine failed on the batch.
        """
        rows = _rows(segments)
        if self._queue and self._queued_rows + rows > self._queue_rows:
            if riders is not None:
                riders.arrived(None)
            raise QueueFull(self._queued_rows, self._queue_rows, self._retry_after_s())
        reply: asyncio.Future[Logits] = asyncio.get_running_loop().create_future()
        entry = _Entry(segments, rows, deadline, self._clock.now(), reply, riders, account)
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
                entry.leave_riders()

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
                with_riders = entry.rows + _rows(entry.riding)
                if batch and rows + with_riders > self._batch_rows:
                    break
                batch.append(entry)
                rows += with_riders
            else:
                entry.leave_riders()
                if not entry.reply.done():
                    self._observer.deadline_missed("queue")
                    entry.reply.set_exception(DeadlineExceeded("while the request waited for the engine"))
            self._queue.popleft()
            self._count(-entry.rows)
        return batch

    async def _score(self, batch: list[_Entry]) -> None:
        """Run one batch and answer its requests; a failure is theirs alone."""
        started = self.scored_at = self._clock.now()
        for entry in batch:
            self._observer.stage("queue", started - entry.queued_at)
            if entry.account is not None:
                entry.account.stage("queue", entry.queued_at, started)
        try:
            logits = await self._run_batch(batch, started)
        except Exception as error:
            rows = sum(entry.rows for entry in batch)
            for entry in batch:
                if not entry.reply.done():
                    failure = EngineFailed(f"the engine failed on a batch of {rows} rows: {error}")
                    failure.__cause__ = error
                    entry.reply.set_exception(failure)
        else:
            self._answer(batch, logits, started)
        finally:
            self._running = None
            if self._queue:
                self._plan(at_once=False)

    async def _run_batch(self, batch: list[_Entry], started: float) -> Logits:
        """Run the segments of all requests, and behind them those of the riders that remain."""
        own = [segment for entry in batch for segment in entry.segments]
        if any(entry.riders is not None for entry in batch):
            self._leave_riders_near_deadlines(batch, started)
        riding = [segment for entry in batch for segment in entry.riding]
        self._observer.batch(_rows(own) + _rows(riding), len(own) + len(riding))
        if not riding:
            return await self._run(own)
        try:
            return await self._run([*own, *riding])
        except Exception:
            for entry in batch:
                entry.leave_riders(failed=True)
            return await self._run(own)

    def _leave_riders_near_deadlines(self, batch: list[_Entry], started: float) -> None:
        """No rider goes along where the batch would take half of what is left to the nearest deadline."""
        rows = sum(entry.rows + _rows(entry.riding) for entry in batch)
        left_s = min(entry.deadline for entry in batch) - started
        if self._rows_per_s and 2.0 * rows / self._rows_per_s > left_s:
            for entry in batch:
                entry.leave_riders()

    def _answer(self, batch: list[_Entry], logits: Logits, started: float) -> None:
        """Hand each request its own segments' logits, unless its deadline passed; then the riders theirs."""
        now = self._clock.now()
        if now > started:
            rate = sum(len(part) for part in logits) / (now - started)
            self._rows_per_s += (_RATE_MEMORY if self._rows_per_s else 1.0) * (rate - self._rows_per_s)
        position = 0
        for entry in batch:
            own = logits[position : position + len(entry.segments)]
            position += len(entry.segments)
            self._observer.stage("engine", now - started)
            if entry.account is not None:
                entry.account.stage("engine", started, now)
            if entry.reply.done():
                continue
            if entry.deadline <= now:
                self._observer.deadline_missed("engine")
                entry.reply.set_exception(DeadlineExceeded("while the engine scored the batch"))
            else:
                entry.reply.set_result(own)
        for entry in batch:
            if entry.riders is not None:
                theirs = logits[position : position + len(entry.riding)]
                position += len(entry.riding)
                # behind whoever waits for the replies: they leave first
                self._clock.call_later(0.0, partial(entry.riders.arrived, theirs))

    def _count(self, rows: int) -> None:
        self._queued_rows += rows
        self._observer.queue(self._queued_rows)

    def _retry_after_s(self) -> float:
        """When the rows that wait now will have been scored, as the last batches went."""
        low, high = _RETRY_BOUNDS_S
        if not self._rows_per_s:
            return 1.0
        return min(high, max(low, self._queued_rows / self._rows_per_s))


def _rows(segments: Sequence[Segment]) -> int:
    return sum(segment.rows.n for segment in segments)
