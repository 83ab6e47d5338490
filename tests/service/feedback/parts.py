"""Pieces that the tests of feedback share."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from service.aggregation import Registry, exposition
from service.feedback.events import FeedbackEvent
from service.feedback.folder import SegmentFolder
from service.feedback.journal import Journal
from service.feedback.matching import RecentResponses
from service.feedback.metrics import FeedbackMetrics
from service.feedback.online import OnlineFigures
from service.feedback.segments import SegmentWriter
from service.logs import open_log
from service.scorer import ScoreResult, Served
from service.threads import WorkerThread

NOW = 1_763_745_600.0  # 2025-11-21T17:20:00Z
BACKBONE, REVISION = "b" * 64, "a" * 64


def result(
    request_id: str,
    scores: Sequence[float] | np.ndarray[Any, Any],
    domain: str = "women",
    revision: str = REVISION,
    alias: str = "live",
    fallback: str | None = None,
) -> ScoreResult:
    """A response of the scorer."""
    served = Served(BACKBONE, revision, alias, 3, {}, {}, fallback)  # type: ignore[arg-type]
    return ScoreResult(np.asarray(scores, np.float64), domain, served, False, request_id)


def event(item: str | int, label: int = 1, **given: Any) -> FeedbackEvent:
    """An event as the route decodes it."""
    return FeedbackEvent(item_id=item, label=label, **given)  # type: ignore[arg-type]


@dataclass
class Desk:
    """A journal over a folder, by a clock that tests move, with a sync that tests may watch."""

    folder: SegmentFolder
    writer: SegmentWriter
    journal: Journal
    recent: RecentResponses
    online: OnlineFigures
    registry: Registry
    thread: WorkerThread
    now: list[float]
    log: io.StringIO = field(default_factory=io.StringIO)

    def lines(self) -> list[dict[str, Any]]:
        """Every line on disk, in the order of the segments."""
        return lines_of(self.folder.path)

    def metric(self, text: str) -> str:
        """What stands behind a name and its labels in the exposition."""
        shown = exposition(self.registry.families()).decode().splitlines()
        return next((each.removeprefix(text).strip() for each in shown if each.startswith(text + " ")), "")


@contextmanager
def desk(
    path: Path,
    *,
    segment_bytes: int = 1 << 20,
    segment_s: float = 300.0,
    keep_bytes: int = 1 << 30,
    sync: Callable[[int], None] = os.fsync,
    waiting_events: int = 20_000,
    shown: int = 10,
    name: str = "replica-1",
) -> Iterator[Desk]:
    """All parts of a process's feedback but the shipping."""
    now, registry = [NOW], Registry()
    folder = SegmentFolder(path)
    folder.prepare()
    writer = SegmentWriter(
        folder, name, segment_bytes=segment_bytes, segment_s=segment_s, now=lambda: now[0], sync=sync
    )
    recent, online, thread = RecentResponses(), OnlineFigures(shown), WorkerThread("feedback-test")
    journal = Journal(
        *(thread, folder, writer, recent, online, FeedbackMetrics(registry, 1 << 30)),
        keep_bytes=keep_bytes,
        shipping=False,
        now=lambda: now[0],
        waiting_events=waiting_events,
    )
    try:
        yield Desk(folder, writer, journal, recent, online, registry, thread, now)
    finally:
        thread.close()
        writer.abandon()


def lines_of(path: Path) -> list[dict[str, Any]]:
    """Every whole line below a folder of segments."""
    files = sorted(path.rglob("*.ndjson"), key=lambda file: file.name)
    return [json.loads(line) for file in files for line in file.read_bytes().split(b"\n")[:-1]]


def silent() -> Any:
    """A log that nobody reads."""
    return open_log(stream=io.StringIO())
