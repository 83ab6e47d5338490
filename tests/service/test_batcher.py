"""Laws of the batcher, on a clock moved by hand and an engine that answers when told."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.rows import EncodedRows
from service.batcher import Batcher, Logits
from service.engine import Engine, Segment
from service.errors import DeadlineExceeded, EngineFailed, QueueFull
from service.observer import SilentObserver
from tests.service.clockwork import ManualClock, quiet

FOREVER = 1e9


def request(rows: int, mark: float = 0.0) -> list[Segment]:
    """One segment whose logits will be `mark`."""
    return [Segment(EncodedRows(rows, {}), mark, cast(Engine, None))]


@dataclass
class Bench:
    """A batcher, and an engine that finishes a batch when `finish` says so."""

    batch_rows: int = 100
    batch_wait_s: float = 0.01
    queue_rows: int = 1000
    batches: list[list[Segment]] = field(default_factory=list)
    clock: ManualClock = field(default_factory=ManualClock)

    def __post_init__(self) -> None:
        self._pending: list[asyncio.Future[None]] = []
        self.batcher = Batcher(
            self._run,
            self.clock,
            SilentObserver(),
            batch_rows=self.batch_rows,
            batch_wait_s=self.batch_wait_s,
            queue_rows=self.queue_rows,
        )

    async def _run(self, segments: Sequence[Segment]) -> Logits:
        self.batches.append(list(segments))
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pending.append(done)
        await done
        return [np.full(segment.rows.n, segment.prepared) for segment in segments]

    @property
    def busy(self) -> bool:
        return bool(self._pending)

    async def finish(self, error: Exception | None = None) -> None:
        """The engine ends its batch."""
        done = self._pending.pop(0)
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)
        await quiet()

    async def ask(self, rows: int, mark: float = 0.0, deadline: float = FOREVER) -> asyncio.Task[Logits]:
        """Submit a request and let it reach the queue."""
        task = asyncio.create_task(self.batcher.submit(request(rows, mark), deadline))
        await quiet()
        return task

    def rows(self) -> list[int]:
        """Rows of each batch so far."""
        return [sum(segment.rows.n for segment in batch) for batch in self.batches]


async def test_a_request_that_finds_the_engine_idle_is_run_at_once() -> None:
    """No time passes between a submit to an idle engine and its batch."""
    bench = Bench()
    task = await bench.ask(3, mark=7.0)
    assert bench.rows() == [3]
    await bench.finish()
    assert (await task)[0].tolist() == [7.0, 7.0, 7.0]


async def test_requests_of_one_turn_share_a_batch() -> None:
    """What arrives in the same turn of the event loop as the first goes with it."""
    bench = Bench()
    tasks = [asyncio.create_task(bench.batcher.submit(request(2, mark), FOREVER)) for mark in (1.0, 2.0)]
    await quiet()
    assert bench.rows() == [4]
    await bench.finish()
    assert [(await task)[0][0] for task in tasks] == [1.0, 2.0]


async def test_requests_behind_a_batch_wait_for_more_but_no_longer_than_the_wait() -> None:
    """After a short batch the queue is flushed when its oldest request has waited batch_wait, not before."""
    bench = Bench()
    await bench.ask(1)
    await bench.ask(2)
    await bench.clock.advance(0.004)
    await bench.finish()
    assert bench.rows() == [1]
    await bench.ask(3)
    assert bench.rows() == [1]
    await bench.clock.advance(0.006)
    assert bench.rows() == [1, 5]


async def test_requests_that_waited_long_behind_a_batch_go_at_once() -> None:
    """A batch that lasted longer than batch_wait is followed by the next without a pause."""
    bench = Bench()
    await bench.ask(1)
    await bench.ask(2)
    await bench.clock.advance(0.5)
    await bench.finish()
    assert bench.rows() == [1, 2]


async def test_a_full_batch_does_not_wait() -> None:
    """Rows for a whole batch are run as soon as the engine is free."""
    bench = Bench(batch_rows=10)
    await bench.ask(1)
    await bench.ask(6)
    await bench.finish()
    assert bench.rows() == [1]
    await bench.ask(4)
    assert bench.rows() == [1, 10]


async def test_a_request_larger_than_a_batch_runs_alone() -> None:
    """The row limit never splits a request; an oversized one shares with nobody."""
    bench = Bench(batch_rows=10)
    await bench.ask(1)
    for rows in (4, 25, 5):
        await bench.ask(rows)
    for _ in range(3):
        await bench.clock.advance(1)
        await bench.finish()
    assert bench.rows() == [1, 4, 25, 5]


async def test_a_full_queue_refuses_and_says_when_to_return() -> None:
    """Rows beyond the bound raise QueueFull with a retry time from the rate seen; an empty queue takes any request."""
    bench = Bench(queue_rows=10)
    await bench.ask(100)
    await bench.clock.advance(1.0)
    await bench.finish()
    running, queued = await bench.ask(50), await bench.ask(50)
    with pytest.raises(QueueFull) as refused:
        await bench.batcher.submit(request(1), FOREVER)
    assert refused.value.retry_after_s == pytest.approx(0.5)
    await bench.clock.advance(1)
    await bench.finish()
    await bench.finish()
    assert len((await running)[0]) == len((await queued)[0]) == 50


async def test_a_late_request_is_not_run() -> None:
    """A deadline that passed in the queue is told so when the batch forms, and its rows are not scored."""
    bench = Bench()
    await bench.ask(1)
    late, timely = await bench.ask(2, deadline=0.5), await bench.ask(3, mark=3.0)
    await bench.clock.advance(0.5)
    await bench.finish()
    assert bench.rows() == [1, 3]
    with pytest.raises(DeadlineExceeded, match="waited for the engine"):
        await late
    await bench.finish()
    assert (await timely)[0][0] == 3.0


async def test_a_result_that_comes_late_is_not_returned() -> None:
    """A deadline that passes while the engine works yields DeadlineExceeded, never scores."""
    bench = Bench()
    late, timely = await bench.ask(1, deadline=0.5), None
    await bench.clock.advance(0.5)
    await bench.finish()
    with pytest.raises(DeadlineExceeded, match="while the engine scored"):
        await late
    timely = await bench.ask(1)
    await bench.finish()
    assert len((await timely)[0]) == 1


async def test_a_cancelled_request_is_dropped_and_frees_its_rows() -> None:
    """A client that left costs no engine time and no room in the queue."""
    bench = Bench(queue_rows=10)
    await bench.ask(1)
    gone = await bench.ask(10)
    gone.cancel()
    await quiet()
    stays = await bench.ask(10)
    await bench.clock.advance(1)
    await bench.finish()
    assert bench.rows() == [1, 10]
    await bench.finish()
    assert len((await stays)[0]) == 10
    assert gone.cancelled()


async def test_a_failing_run_fails_its_batch_alone() -> None:
    """Every request of the batch gets EngineFailed with the cause; the next batch is scored."""
    bench = Bench()
    broken = await bench.ask(1)
    waiting = await bench.ask(2, mark=5.0)
    await bench.clock.advance(1)
    await bench.finish(RuntimeError("the graph went missing"))
    with pytest.raises(EngineFailed, match="the graph went missing"):
        await broken
    await bench.finish()
    assert (await waiting)[0].tolist() == [5.0, 5.0]


async def test_draining_leaves_nothing_behind() -> None:
    """After drain every request has its answer, also those that were still queued."""
    bench = Bench(batch_rows=2)
    tasks = [await bench.ask(2, mark) for mark in (1.0, 2.0, 3.0)]
    draining = asyncio.create_task(bench.batcher.drain())
    while not draining.done():
        await quiet()
        if bench.busy:
            await bench.finish()
    assert [(await task)[0][0] for task in tasks] == [1.0, 2.0, 3.0]


Step = tuple[str, int, float]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.integers(1, 14), st.sampled_from([0.005, 0.02, 0.1, FOREVER])),
        st.tuples(st.just("cancel"), st.integers(0, 30), st.just(0.0)),
        st.tuples(st.just("advance"), st.integers(1, 20), st.just(0.001)),
        st.tuples(st.just("finish"), st.just(0), st.just(0.0)),
        st.tuples(st.just("fail"), st.just(0), st.just(0.0)),
    ),
    max_size=40,
)


@settings(max_examples=100, deadline=None)
@given(STEPS)
def test_any_history_answers_each_request_once_and_with_its_own_rows(steps: list[Step]) -> None:
    """Whatever arrives, leaves, fails or is late: own rows or a named error, order of arrival, bounds never broken."""
    asyncio.run(_live_through(steps))


async def _live_through(steps: list[Step]) -> None:
    bench = Bench(batch_rows=10, queue_rows=30)
    asked: list[tuple[asyncio.Task[Logits], int, float]] = []
    for kind, number, value in steps:
        if kind == "ask":
            deadline = bench.clock.now() + value
            asked.append((await bench.ask(number, float(len(asked)), deadline), number, deadline))
        elif kind == "cancel" and number < len(asked):
            asked[number][0].cancel()
            await quiet()
        elif kind == "advance":
            await bench.clock.advance(number * value)
        elif bench.busy:
            await bench.finish(RuntimeError("planned") if kind == "fail" else None)
    while any(not task.done() for task, _, _ in asked):
        await bench.clock.advance(1)
        if bench.busy:
            await bench.finish()
    for mark, (task, rows, _) in enumerate(asked):
        if task.cancelled():
            continue
        error = task.exception()
        if error is None:
            assert [len(part) for part in task.result()] == [rows]
            assert set(task.result()[0]) == {float(mark)}
        else:
            assert isinstance(error, (QueueFull, DeadlineExceeded, EngineFailed))
    assert all(rows <= 10 or len(batch) == 1 for rows, batch in zip(bench.rows(), bench.batches, strict=True))
    order = [segment.prepared for batch in bench.batches for segment in batch]
    assert order == sorted(order)
    assert len(order) == len(set(order))
