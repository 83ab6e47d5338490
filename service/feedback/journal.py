"""Feedback made durable: what waits is written together and acknowledged after one sync (group commit).

Matching, encoding and writing run on one thread of their own; the event loop only puts events into a list.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import msgspec

from adapters_store.feedback_lines import SCHEMA, FeedbackLine
from service.feedback.errors import FeedbackBusy, FeedbackError, FeedbackFailed, FeedbackFull
from service.feedback.events import FeedbackEvent
from service.feedback.folder import SegmentFolder
from service.feedback.matching import Match, RecentResponses
from service.feedback.metrics import FeedbackMetrics
from service.feedback.online import OnlineFigures, counts_as_live
from service.feedback.segments import SegmentWriter
from service.threads import WorkerThread

WAITING_EVENTS = 20_000


@dataclass(frozen=True, slots=True)
class Taken:
    """What was made durable.

    Args:
        accepted: events.
        matched: of them, whose response was found.
    """

    accepted: int
    matched: int


@dataclass(frozen=True, slots=True, eq=False)
class _Group:
    events: Sequence[FeedbackEvent]
    by: str
    done: asyncio.Future[Taken]


@dataclass(frozen=True, slots=True, eq=False)
class _Lines:
    """Events of a group with what they are about, and their lines."""

    matches: Sequence[tuple[FeedbackEvent, Match]]
    content: bytes

    @property
    def taken(self) -> Taken:
        return Taken(len(self.matches), sum(match.outcome == "matched" for _, match in self.matches))


class Journal:
    """Takes events in the order in which they come.

    Args:
        thread: on which all work is done; nobody else uses the writer.
        folder: where segments are.
        writer: appends to this process's own.
        recent: what was scored lately.
        online: told of rows that got their first label.
        metrics: told of events.
        keep_bytes: what the folder may hold.
        shipping: whether an object store takes segments.
        now: seconds since 1970.
        waiting_events: how many may wait for the disk.
    """

    def __init__(
        self,
        thread: WorkerThread,
        folder: SegmentFolder,
        writer: SegmentWriter,
        recent: RecentResponses,
        online: OnlineFigures,
        metrics: FeedbackMetrics,
        *,
        keep_bytes: int,
        shipping: bool,
        now: Callable[[], float],
        waiting_events: int = WAITING_EVENTS,
    ) -> None:
        self._thread = thread
        self._folder = folder
        self._writer = writer
        self._recent = recent
        self._online = online
        self._metrics = metrics
        self._keep_bytes = keep_bytes
        self._shipping = shipping
        self._now = now
        self._most_waiting = waiting_events
        self._encoder = msgspec.json.Encoder()
        self._groups: list[_Group] = []
        self._waiting_events = 0
        self._committing: asyncio.Task[None] | None = None

    async def append(self, events: Sequence[FeedbackEvent], by: str) -> Taken:
        """Make events durable, all of them or none.

        Args:
            events: checked.
            by: name of whoever sent them.

        Raises:
            FeedbackBusy: too many wait.
            FeedbackFull: the folder may hold no more.
            FeedbackFailed: the disk refused.
        """
        try:
            return await self._appended(events, by)
        except FeedbackError:
            self._metrics.events("refused", len(events))
            raise

    def complete(self, lines: Iterable[FeedbackLine]) -> None:
        """Match events that other workers took and could not match; called on the thread.

        Nobody waits for it, and an event that is not completed is stored all the same: a folder without room is left
        as it is.

        Args:
            lines: theirs.

        Raises:
            OSError: the disk refuses.
        """
        pairs = [(line, event, self._recent.match(event)) for line in lines if (event := _event_of(line)) is not None]
        pairs = [(line, event, match) for line, event, match in pairs if match.outcome == "matched"]
        completed = [
            msgspec.structs.replace(line_of(event, match, line.at, line.by), completes=True)
            for line, event, match in pairs
        ]
        content = self._encoder.encode_lines(completed)
        if not completed or not self._fits(len(content)):
            return
        try:
            self._writer.append(content)
            self._writer.sync()
        except OSError:
            self._writer.abandon()
            raise
        self._metrics.events("completed", len(pairs))
        for _, event, match in pairs:
            self._look(event, match)

    async def close(self) -> None:
        """Make durable what waits; nothing may be appended any more."""
        if self._committing is not None:
            await self._committing

    async def _appended(self, events: Sequence[FeedbackEvent], by: str) -> Taken:
        if self._waiting_events and self._waiting_events + len(events) > self._most_waiting:
            raise FeedbackBusy(self._waiting_events)
        group = _Group(events, by, asyncio.get_running_loop().create_future())
        self._groups.append(group)
        self._waiting_events += len(events)
        if self._committing is None:
            self._committing = asyncio.create_task(self._commit_waiting())
        return await group.done

    async def _commit_waiting(self) -> None:
        while self._groups:
            groups, self._groups = self._groups, []
            ends: Sequence[Taken | Exception]
            try:
                ends = await self._thread.run(partial(self._commit, groups))
            except Exception as error:  # a fault of ours: nobody may wait for ever, and the next group gets its chance
                ends = [error] * len(groups)
            for group, end in zip(groups, ends, strict=True):
                self._waiting_events -= len(group.events)
                _tell(group.done, end)
        self._committing = None

    def _commit(self, groups: Sequence[_Group]) -> Sequence[Taken | Exception]:
        """Write groups and sync once; on the thread."""
        written = [self._matched(group) for group in groups]
        all_fit = self._fits(sum(len(one.content) for one in written))
        taken = [one for one in written if all_fit or self._fits(len(one.content))]
        try:
            for one in taken:
                self._writer.append(one.content)
            self._writer.sync()
        except OSError as error:
            self._writer.abandon()
            return [FeedbackFailed(error.strerror or type(error).__name__)] * len(groups)
        for one in taken:
            self._count(one)
        full = FeedbackFull(self._keep_bytes, shipping=self._shipping)
        return [one.taken if one in taken else full for one in written]

    def _matched(self, group: _Group) -> _Lines:
        at = round(self._now(), 3)
        matches = [(event, self._recent.match(event)) for event in group.events]
        lines = [line_of(event, match, at, group.by) for event, match in matches]
        return _Lines(matches, self._encoder.encode_lines(lines))

    def _fits(self, size_bytes: int) -> bool:
        return self._folder.make_room(size_bytes, self._keep_bytes)

    def _count(self, written: _Lines) -> None:
        for event, match in written.matches:
            self._metrics.events(match.outcome, 1)
            self._look(event, match)

    def _look(self, event: FeedbackEvent, match: Match) -> None:
        response, score = match.response, match.score
        if response is None or score is None or not counts_as_live(response.served):
            return
        if match.label_first():
            self._online.labelled(response.domain_id, score, event.label == 1)


def line_of(event: FeedbackEvent, match: Match, at: float, by: str | None) -> FeedbackLine:
    """The line of an event: what the client said, completed by its response.

    Args:
        event: as it came.
        match: what it is about.
        at: now, seconds since 1970.
        by: who sent it.
    """
    line = FeedbackLine(
        schema=SCHEMA,
        at=at,
        item_id=str(event.item_id),
        label=event.label,
        request_id=event.request_id,
        user_id=None if event.user_id is None else str(event.user_id),
        domain_id=event.domain_id,
        by=by,
    )
    response = match.response
    if response is None:
        return line
    served = response.served
    return msgspec.structs.replace(
        line,
        user_id=str(response.user_id),
        domain_id=response.domain_id,
        matched=True,
        score=match.score,
        backbone=served.backbone,
        revision=served.revision,
        alias=served.alias,
        fallback=served.fallback,
        context=response.line_context,
    )


def _event_of(line: FeedbackLine) -> FeedbackEvent | None:
    """The event of a line; None for a half of one, which only another program writes."""
    if (line.user_id is None) != (line.domain_id is None):
        return None
    return FeedbackEvent(
        item_id=line.item_id,
        label=line.label,
        request_id=line.request_id,
        user_id=line.user_id,
        domain_id=line.domain_id,
    )


def _tell(done: asyncio.Future[Taken], end: Taken | Exception) -> None:
    if done.done():  # whoever waited has left
        return
    if isinstance(end, Exception):
        done.set_exception(end)
    else:
        done.set_result(end)
