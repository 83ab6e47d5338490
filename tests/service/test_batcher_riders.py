"""Laws of riders: scored in a request's batch when that costs no response, told exactly once, never in the way."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.batcher import Logits
from service.errors import DeadlineExceeded, EngineFailed, QueueFull
from tests.service.clockwork import quiet
from tests.service.test_batcher import FOREVER, Bench, request

SHADOW = 1000.0  # marks a rider's segment


class Passengers:
    """Riders that keep what they are told, and whether their request had its answer by then."""

    def __init__(self, rows: int) -> None:
        self.segments = request(rows, SHADOW)
        self.told: list[tuple[Logits | None, bool]] = []
        self.answered_first: bool | None = None
        self.task: asyncio.Task[Logits] | None = None

    def arrived(self, logits: Logits | None, *, failed: bool = False) -> None:
        """See Riders."""
        self.told.append((logits, failed))
        self.answered_first = self.task is not None and self.task.done()


async def ask(bench: Bench, rows: int, riders: Passengers, deadline: float = FOREVER) -> asyncio.Task[Logits]:
    """Submit a request with riders."""
    task = asyncio.create_task(bench.batcher.submit(request(rows), deadline, riders))
    riders.task = task
    await quiet()
    return task


async def test_riders_are_scored_in_the_same_batch_and_told_after_the_answer() -> None:
    """Law: one run scores both; the request's answer is its own rows, and is out before the riders hear of theirs."""
    bench, riders = Bench(), Passengers(4)
    task = await ask(bench, 3, riders)
    assert bench.rows() == [7]
    await bench.finish()
    assert [part.tolist() for part in await task] == [[0.0] * 3]
    [(logits, failed)] = riders.told
    assert logits is not None
    assert [part.tolist() for part in logits] == [[SHADOW] * 4]
    assert (failed, riders.answered_first) == (False, True)


async def test_a_batch_that_fails_with_riders_is_run_without_them() -> None:
    """Law: the engine's failure is the riders', not the requests': these are answered by a second run."""
    bench, riders = Bench(), Passengers(4)
    task, other = await ask(bench, 3, riders), None
    await bench.finish(RuntimeError("the shadow's fault"))
    assert riders.told == [(None, True)]
    assert bench.rows() == [7, 3]
    await bench.finish()
    assert [part.tolist() for part in await task] == [[0.0] * 3]
    other = await ask(bench, 2, Passengers(1))
    await bench.finish(RuntimeError("once"))
    await bench.finish(RuntimeError("and without them too"))
    with pytest.raises(EngineFailed, match="and without them too"):
        await other


async def test_riders_are_left_where_a_deadline_is_near() -> None:
    """Law: where the batch would take half of what is left to the nearest deadline, no rider goes along."""
    bench = Bench()
    first = await bench.ask(100)
    await bench.clock.advance(1.0)
    await bench.finish()
    await first
    near, far = Passengers(20), Passengers(20)
    task = await ask(bench, 20, near, deadline=bench.clock.now() + 0.7)
    assert near.told == [(None, False)]
    assert bench.rows()[-1] == 20
    await bench.finish()
    await task
    task = await ask(bench, 20, far, deadline=bench.clock.now() + 0.9)
    assert bench.rows()[-1] == 40
    await bench.finish()
    await task


async def test_riders_count_against_the_rows_of_a_batch() -> None:
    """Law: requests whose riders would not fit go with the next batch."""
    bench = Bench(batch_rows=10)
    await bench.ask(1)
    for _ in range(2):
        await ask(bench, 3, Passengers(3))
    await bench.clock.advance(1)
    await bench.finish()
    assert bench.rows() == [1, 6]
    await bench.finish()
    assert bench.rows() == [1, 6, 6]
    await bench.finish()


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.integers(1, 14), st.sampled_from([0.005, 0.02, FOREVER])),
        st.tuples(st.just("cancel"), st.integers(0, 20), st.just(0.0)),
        st.tuples(st.just("advance"), st.integers(1, 20), st.just(0.001)),
        st.tuples(st.just("finish"), st.just(0), st.just(0.0)),
        st.tuples(st.just("fail"), st.just(0), st.just(0.0)),
    ),
    max_size=25,
)


@settings(max_examples=50, deadline=None)
@given(STEPS)
def test_any_history_tells_riders_once_and_answers_as_without_them(steps: list[tuple[str, int, float]]) -> None:
    """Law: whatever happens, riders hear exactly once, and a request has its own rows or a named error."""
    asyncio.run(_live_through(steps))


async def _live_through(steps: list[tuple[str, int, float]]) -> None:
    bench = Bench(batch_rows=10, queue_rows=30)
    asked: list[tuple[asyncio.Task[Logits], int, Passengers]] = []
    for kind, number, value in steps:
        if kind == "ask":
            riders = Passengers(number)
            asked.append((await ask(bench, number, riders, bench.clock.now() + value), number, riders))
        elif kind == "cancel" and number < len(asked):
            asked[number][0].cancel()
            await quiet()
        elif kind == "advance":
            await bench.clock.advance(number * value)
        elif bench.busy:
            await bench.finish(RuntimeError("planned") if kind == "fail" else None)
    while bench.busy or any(not task.done() for task, _, _ in asked):
        await bench.clock.advance(1)
        if bench.busy:
            await bench.finish()
    for task, rows, riders in asked:
        assert len(riders.told) == 1
        if task.cancelled():
            continue
        if task.exception() is None:
            assert [part.tolist() for part in task.result()] == [[0.0] * rows]
        else:
            assert isinstance(task.exception(), (QueueFull, DeadlineExceeded, EngineFailed))
