"""`Pace`: what background loads may take of a core."""

from __future__ import annotations

import asyncio

from service.pace import Pace
from tests.service.clockwork import ManualClock


class Thread:
    """A loader thread as far as a pace sees it."""

    def __init__(self) -> None:
        self.spent_s = 0.0
        self.loads = 0


async def load_again_and_again(pace: Pace, thread: Thread, cost_s: float) -> None:
    """Loads that cost so much each, as fast as their turns come."""
    while True:
        async with pace.turn():
            thread.spent_s += cost_s
            thread.loads += 1
            await asyncio.sleep(0)


async def passed(clock: ManualClock, seconds: float) -> None:
    """Let time pass in steps of a millisecond, and everything run that is due."""
    for _ in range(round(1000 * seconds)):
        await clock.advance(0.001)


async def test_loads_take_their_share_while_requests_are_scored() -> None:
    """Law: over a second of scoring, loads spend their share of a core and the burst, one load more at most."""
    clock, thread = ManualClock(), Thread()
    pace = Pace(clock, spent=lambda: thread.spent_s, busy=lambda: True, share=0.1)
    loads = [asyncio.create_task(load_again_and_again(pace, thread, 0.003)) for _ in range(4)]
    await passed(clock, 1.0)
    assert 0.09 <= thread.spent_s <= 0.1 + 0.02 + 2 * 0.003
    for task in loads:
        task.cancel()
    await asyncio.gather(*loads, return_exceptions=True)


async def test_what_others_spent_counts() -> None:
    """Law: what the thread spent for publishes and cold domains delays a load, but for a bounded time."""
    clock, thread = ManualClock(), Thread()
    pace = Pace(clock, spent=lambda: thread.spent_s, busy=lambda: True, share=0.1)
    thread.spent_s = 7.0
    load = asyncio.create_task(load_again_and_again(pace, thread, 1.0))
    await passed(clock, 0.45)
    assert thread.loads == 0
    await passed(clock, 0.1)
    assert thread.loads == 1
    load.cancel()
    await asyncio.gather(load, return_exceptions=True)


async def test_a_load_that_waits_for_the_store_holds_up_no_other() -> None:
    """Law: while one load hangs, others get their turns."""
    clock, thread = ManualClock(), Thread()
    pace = Pace(clock, spent=lambda: thread.spent_s, busy=lambda: True, share=0.1)
    async with pace.turn():
        load = asyncio.create_task(load_again_and_again(pace, thread, 0.003))
        await passed(clock, 1.0)
        assert thread.loads > 20
    load.cancel()
    await asyncio.gather(load, return_exceptions=True)


async def test_nobody_waits_where_nobody_scores() -> None:
    """Law: without requests loads have no bound and no order."""
    clock, thread = ManualClock(), Thread()
    pace = Pace(clock, spent=lambda: thread.spent_s, busy=lambda: False, share=0.1)
    async with pace.turn(), pace.turn():
        thread.spent_s += 10.0
    async with pace.turn():
        pass


async def test_loads_begin_however_much_others_go_on_spending() -> None:
    """Law: while cold domains take more than the whole share all the time, one load begins each half second."""
    clock, thread = ManualClock(), Thread()
    pace = Pace(clock, spent=lambda: thread.spent_s, busy=lambda: True, share=0.01)
    thread.spent_s += 1.0
    load = asyncio.create_task(load_again_and_again(pace, thread, 0.001))
    for _ in range(100):
        await passed(clock, 0.05)
        thread.spent_s += 0.005
    assert 8 <= thread.loads <= 10
    load.cancel()
    await asyncio.gather(load, return_exceptions=True)
