"""Laws of the dispatch: which thread scores a batch, on a clock that only the engine moves."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import cast

import numpy as np
import pytest
from numpy.typing import NDArray

from features.rows import EncodedRows
from service.dispatch import Dispatch
from service.engine import Engine, Segment
from service.threads import WorkerThread

SHORT_S = 0.001
ROW_S = SHORT_S / 1000


class Timed:
    """An engine whose batches take as long as is said, and that notes on which thread it ran."""

    name = "timed"

    def __init__(self) -> None:
        self.now_s = 0.0
        self.row_s = ROW_S
        self.breaks = False
        self.ran_on: list[int] = []

    def run(self, segments: Sequence[Segment]) -> list[NDArray[np.float64]]:
        """Score every row 0."""
        self.ran_on.append(threading.get_ident())
        self.now_s += self.row_s * sum(segment.rows.n for segment in segments)
        if self.breaks:
            raise ZeroDivisionError
        return [np.zeros(segment.rows.n) for segment in segments]

    def batch(self, rows: int, prepared: object = None) -> list[Segment]:
        """One of two segments of one combination."""
        engine = cast(Engine, self)
        return [Segment(EncodedRows(n, {}), prepared, engine) for n in (rows // 2, rows - rows // 2)]


@pytest.fixture
def engine() -> Timed:
    """A new one."""
    return Timed()


@pytest.fixture
def dispatch(engine: Timed) -> Iterator[Dispatch]:
    """Before that engine; its thread is closed at the end."""
    thread = WorkerThread("espalier-test")
    yield Dispatch(thread, short_s=SHORT_S, now=lambda: engine.now_s)
    thread.close()


def on_the_loop(engine: Timed) -> list[bool]:
    """Of each batch, whether the loop's own thread scored it."""
    return [ident == threading.get_ident() for ident in engine.ran_on]


async def test_short_batches_are_scored_by_the_loop_and_long_ones_by_the_thread(
    engine: Timed, dispatch: Dispatch
) -> None:
    """Law: once it is known how long a row takes, the loop scores what is expected to take short_s or less."""
    for rows in (100, 900, 1100, 100):
        logits = await dispatch(engine.batch(rows))
        assert sum(map(len, logits)) == rows
    assert on_the_loop(engine) == [False, True, False, True]


async def test_a_batch_that_took_long_counts_at_once_and_quick_ones_a_little(engine: Timed, dispatch: Dispatch) -> None:
    """Law: after one slow batch the thread scores, until enough quick ones have told otherwise."""
    for row_s, batches in ((ROW_S, 3), (100 * ROW_S, 1), (ROW_S, 40)):
        engine.row_s = row_s
        for _ in range(batches):
            await dispatch(engine.batch(200))
    seen = on_the_loop(engine)
    assert seen[1:4] == [True] * 3
    assert seen[4:14] == [False] * 10
    assert seen[-1]


async def test_few_rows_say_little_about_many(engine: Timed, dispatch: Dispatch) -> None:
    """Law: what an engine costs for a single row is not taken for what each of many rows costs."""
    engine.row_s = 64 * ROW_S  # all of it is for the call
    await dispatch(engine.batch(1))
    engine.row_s = ROW_S
    await dispatch(engine.batch(900))
    assert on_the_loop(engine) == [False, True]


async def test_many_combinations_are_no_short_batch(engine: Timed, dispatch: Dispatch) -> None:
    """Law: each combination counts as what an engine costs for one, however few rows it has."""
    for batch in (engine.batch(100), engine.batch(4), [part for _ in range(20) for part in engine.batch(4, object())]):
        await dispatch(batch)
    assert on_the_loop(engine) == [False, True, False]


async def test_errors_of_the_engine_come_back_from_either_thread_and_tell_no_time(
    engine: Timed, dispatch: Dispatch
) -> None:
    """Law: the caller gets what the engine raised, and how soon it did makes no batch look short."""
    for breaks in (True, False, True, False):
        engine.breaks = breaks
        if breaks:
            with pytest.raises(ZeroDivisionError):
                await dispatch(engine.batch(100))
        else:
            await dispatch(engine.batch(100))
    assert on_the_loop(engine) == [False, False, True, True]


async def test_without_a_short_time_the_thread_scores_all(engine: Timed) -> None:
    """Law: short_s = 0 leaves the loop out, however quick the engine is."""
    thread = WorkerThread("espalier-test")
    dispatch = Dispatch(thread, short_s=0.0, now=lambda: engine.now_s)
    for _ in range(3):
        await dispatch(engine.batch(1))
    thread.close()
    assert on_the_loop(engine) == [False] * 3
