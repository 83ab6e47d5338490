"""Where a batch is scored: a short one on the thread of the event loop, any other on the engine thread."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from service.engine import Segment, run_each
from service.threads import WorkerThread

SHORT_S = 0.0002
_FEWEST_ROWS = 64  # what an engine costs for a combination however few its rows are, counted as if it were rows
_MEMORY = 0.1  # weight of the newest batch where it was quicker than expected


class Dispatch:
    """Scores one batch at a time; `service.batcher.Batcher` calls it.

    Handing a batch to a thread and hearing of its end takes two wake-ups and three turns of the event loop. A batch
    that is scored in no more time than that is better scored by the loop itself. How long one will take is told by
    those before it: what took longer than expected counts at once, what was quicker a little.

    Args:
        thread: the engine's.
        short_s: a batch that is expected to take no longer is scored by the loop, seconds; nothing else happens there
            meanwhile.
        now: seconds.
    """

    def __init__(
        self, thread: WorkerThread, *, short_s: float = SHORT_S, now: Callable[[], float] = time.perf_counter
    ) -> None:
        self._thread = thread
        self._short_s = short_s
        self._now = now
        self._row_s = math.inf  # nothing is known before the first batch

    async def __call__(self, segments: Sequence[Segment]) -> list[NDArray[np.float64]]:
        """Score the segments; what the engine raises is the caller's.

        Returns:
            Per segment the logits after calibration, float64 (n,).
        """
        rows = _counted(segments)
        if rows * self._row_s <= self._short_s:
            return self._timed(segments, rows)
        return await self._thread.run(partial(self._timed, segments, rows))

    def _timed(self, segments: Sequence[Segment], rows: int) -> list[NDArray[np.float64]]:
        began = self._now()
        logits = run_each(segments)  # one that fails tells nothing of those that do not
        row_s = (self._now() - began) / rows
        is_quicker = row_s < self._row_s < math.inf
        self._row_s = self._row_s + _MEMORY * (row_s - self._row_s) if is_quicker else row_s
        return logits


def _counted(segments: Sequence[Segment]) -> int:
    """Rows of a batch, as far as its time goes by them: an engine may make a run of its own for each combination."""
    rows: dict[tuple[int, int], int] = {}
    for segment in segments:
        whose = id(segment.engine), id(segment.prepared)
        rows[whose] = rows.get(whose, 0) + segment.rows.n
    return sum(max(_FEWEST_ROWS, n) for n in rows.values())
