"""Feedback of one process, put together: opened with the service, closed with it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from structlog.typing import FilteringBoundLogger

from adapters_store.errors import StoreError
from adapters_store.feedback_objects import FeedbackObjects, open_feedback_objects
from service.aggregation import Registry
from service.clock import Clock, LoopClock, slept
from service.errors import StartError
from service.feedback.errors import FeedbackOff
from service.feedback.events import FeedbackEvent
from service.feedback.folder import SegmentFolder
from service.feedback.journal import Journal, Taken
from service.feedback.matching import RecentResponses
from service.feedback.metrics import FeedbackMetrics
from service.feedback.online import OnlineFigures
from service.feedback.segments import SegmentWriter
from service.feedback.shipping import Shipper
from service.feedback.siblings import SiblingLines
from service.settings import Settings
from service.threads import WorkerThread

TEND_S = 1.0
FIGURES_S = 10.0
ORPHANS_S = 30.0
PARTING_S = 3.0


@dataclass(frozen=True, slots=True, eq=False)
class Feedback:
    """What the routes have of feedback.

    Args:
        recent: told of each response; None where feedback is off.
        journal: takes events; None where feedback is off.
    """

    recent: RecentResponses | None = None
    journal: Journal | None = None

    async def take(self, events: Sequence[FeedbackEvent], by: str) -> Taken:
        """Make events durable.

        Raises:
            FeedbackOff: no folder is configured.
            FeedbackError: as `Journal.append`.
        """
        if self.journal is None:
            raise FeedbackOff
        return await self.journal.append(events, by)


FEEDBACK_OFF = Feedback()


@asynccontextmanager
async def open_feedback(settings: Settings, registry: Registry, log: FilteringBoundLogger) -> AsyncIterator[Feedback]:
    """Feedback as the settings want it; at the end what waits is durable, and shipped if that takes no more than 3 s.

    Args:
        settings: folder, bounds, the store's URL, this process's replica_id.
        registry: for its metrics.
        log: told of what the disk or the store refuses.

    Raises:
        StartError: the folder cannot be used.
    """
    if settings.feedback_dir is None:
        yield FEEDBACK_OFF
        return
    folder, objects = SegmentFolder(settings.feedback_dir.absolute()), _objects(settings)
    await asyncio.to_thread(_prepared, folder)
    metrics, clock = FeedbackMetrics(registry, settings.feedback_keep_bytes), LoopClock()
    recent, online = RecentResponses(), OnlineFigures(_domains_each(settings))
    writer = SegmentWriter(
        folder,
        settings.replica_id,
        segment_bytes=settings.feedback_segment_bytes,
        segment_s=settings.feedback_segment_s,
        now=time.time,
    )
    thread = WorkerThread("espalier-feedback")
    journal = Journal(
        *(thread, folder, writer, recent, online, metrics),
        keep_bytes=settings.feedback_keep_bytes,
        shipping=objects is not None,
        now=time.time,
    )
    shipper = None if objects is None else Shipper(folder, objects, clock, log, shipped=metrics.shipped)
    siblings = SiblingLines(folder, writer.name)

    def complete() -> None:
        journal.complete(siblings.look())

    alone = settings.workers == 1
    caretaker = Caretaker(folder, writer, recent, online, metrics, clock, log, None if alone else complete)
    tasks = [asyncio.create_task(caretaker.run(thread))]
    tasks += [asyncio.create_task(shipper.run())] if shipper is not None else []
    try:
        yield Feedback(recent, journal)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await journal.close()
        await thread.run(caretaker.close)
        thread.close()
        if shipper is not None and objects is not None:
            with suppress(StoreError, OSError, TimeoutError):
                async with asyncio.timeout(PARTING_S):
                    await shipper.ship()
            await objects.close()


class Caretaker:
    """What the thread does from time to time: close old segments and orphans, look at what was scored, show figures.

    Args:
        folder: where segments are.
        writer: of this process.
        recent: what was scored lately.
        online: gets what was scored.
        metrics: gets the figures.
        clock: counts the waits.
        log: told of what the disk refuses.
        complete: matches what other workers could not; None where there are none.
    """

    def __init__(
        self,
        folder: SegmentFolder,
        writer: SegmentWriter,
        recent: RecentResponses,
        online: OnlineFigures,
        metrics: FeedbackMetrics,
        clock: Clock,
        log: FilteringBoundLogger,
        complete: Callable[[], None] | None = None,
    ) -> None:
        self._complete = complete
        self._folder = folder
        self._writer = writer
        self._recent = recent
        self._online = online
        self._metrics = metrics
        self._clock = clock
        self._log = log
        self._due: dict[Callable[[], None], float] = {}

    async def run(self, thread: WorkerThread) -> None:
        """Tend until cancelled."""
        while True:
            try:
                await thread.run(self.tend)
            except Exception as error:  # a fault of ours may not end the closing of segments for good
                self._log.error("feedback_failed", exc_info=error)
            await slept(self._clock, TEND_S)

    def tend(self) -> None:
        """One round; a disk that refuses ends none of it."""
        self._online.scored(self._recent.take_fresh())
        self._guarded(self._writer.close_if_old)
        if self._complete is not None:
            self._guarded(self._complete)
        for work, every_s in ((self._close_orphans, ORPHANS_S), (self._show, FIGURES_S)):
            if self._clock.now() >= self._due.get(work, 0.0):
                self._due[work] = self._clock.now() + every_s
                self._guarded(work)

    def close(self) -> None:
        """Close this process's segment."""
        self._guarded(self._writer.close)

    def _close_orphans(self) -> None:
        closed = self._folder.close_orphans()
        if closed:
            self._log.warning("feedback_recovered", segments=closed)

    def _show(self) -> None:
        self._metrics.online(self._online.figures())
        sizes = [one.size_bytes for one in self._folder.segments() if one.named.state != "shipped"]
        self._metrics.unshipped(sum(sizes))

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except OSError as error:
            self._log.error("feedback_disk", reason=error.strerror or type(error).__name__)


def _domains_each(settings: Settings) -> int:
    """Of how many domains this worker shows figures: each has its own busiest ones, and /metrics shows them all."""
    return max(1, settings.metric_domains // settings.workers) if settings.metric_domains else 0


def _objects(settings: Settings) -> FeedbackObjects | None:
    try:
        return open_feedback_objects(settings.store, timeout_s=settings.store_timeout_s)
    except StoreError as error:
        raise StartError(f"the store {settings.shown_store} cannot take feedback: {error}") from error


def _prepared(folder: SegmentFolder) -> None:
    try:
        folder.prepare()
    except OSError as error:
        reason = error.strerror or str(error)
        raise StartError(f"feedback_dir {folder.path} cannot be used: {reason}; choose another folder") from error
