"""`Pace`: what background loads may take of a core."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from service.pace import Pace
from service.threads import ACCOUNT, WorkerThread
from tests.service.clockwork import ManualClock


class Loads:
    """Background loads so far, which call a worker thread as the service's do.

    Args:
        pace: that gives them their turns.
        cost_s: processor time of each.
    """

    def __init__(self, pace: Pace, cost_s: float) -> None:
        self._pace, self._cost_s = pace, cost_s
        self.spent_s = 0.0
        self.count = 0

    async def again_and_again(self) -> None:
        """As fast as their turns come."""
        while True:
            async with self._pace.turn():
                await asyncio.create_task(self._load())  # tasks that a turn starts are of its account, too

    async def _load(self) -> None:
        account = ACCOUNT.get()
        assert account is not None
        account.spent_s += self._cost_s
        self.spent_s += self._cost_s
        self.count += 1


@asynccontextmanager
async def running(loads: Loads, tasks: int = 1) -> AsyncIterator[None]:
    """Several tasks that load, until the block ends."""
    started = [asyncio.create_task(loads.again_and_again()) for _ in range(tasks)]
    try:
        yield
    finally:
        for task in started:
            task.cancel()
        await asyncio.gather(*started, return_exceptions=True)


async def passed(clock: ManualClock, seconds: float) -> None:
    """Let time pass in steps of a millisecond, and everything run that is due."""
    for _ in range(round(1000 * seconds)):
        await clock.advance(0.001)


async def test_loads_take_their_share_while_requests_are_scored() -> None:
    """Law: over a second of scoring, loads spend their share of a core and the burst, one load more at most."""
    clock = ManualClock()
    loads = Loads(Pace(clock, busy=lambda: True, share=0.1), 0.003)
    async with running(loads, 4):
        await passed(clock, 1.0)
    assert 0.09 <= loads.spent_s <= 0.1 + 0.02 + 2 * 0.003


async def test_what_others_spend_delays_no_load() -> None:
    """Law: a worker thread that is kept busy by publishes and cold domains leaves loads their whole share."""
    clock, thread = ManualClock(), WorkerThread("loader")
    loads = Loads(Pace(clock, busy=lambda: True, share=0.1), 0.003)
    async with running(loads):
        for _ in range(20):
            await thread.run(lambda: sum(range(100_000)))
            await passed(clock, 0.05)
    thread.close()
    assert loads.spent_s >= 0.09


async def test_calls_of_a_turn_count_against_it() -> None:
    """Law: what a turn's calls on a worker thread take is owed; what others call there is not."""
    clock, thread = ManualClock(), WorkerThread("loader")
    pace = Pace(clock, busy=lambda: True, share=0.0001)

    def work() -> None:
        until = time.thread_time() + 0.1
        while time.thread_time() < until:
            pass

    async with pace.turn():
        await thread.run(work)
    after = Loads(pace, 0.0)
    async with running(after):
        await passed(clock, 0.45)
        assert after.count == 0
    thread.close()
    fresh = Loads(Pace(clock, busy=lambda: True, share=0.0001), 1.0)
    async with running(fresh):
        await passed(clock, 0.002)
    assert fresh.count == 1


async def test_a_load_that_waits_for_the_store_holds_up_no_other() -> None:
    """Law: while one load hangs, others get their turns."""
    clock = ManualClock()
    pace = Pace(clock, busy=lambda: True, share=0.1)
    loads = Loads(pace, 0.003)
    async with pace.turn(), running(loads):
        await passed(clock, 1.0)
        assert loads.count > 20


async def test_nobody_waits_where_nobody_scores() -> None:
    """Law: without requests loads have no bound and no order."""
    clock = ManualClock()
    pace = Pace(clock, busy=lambda: False, share=0.1)
    loads = Loads(pace, 1.0)
    async with pace.turn(), pace.turn():
        pass
    for _ in range(10):
        async with pace.turn():
            loads.count += 1
    assert loads.count == 10
    assert clock.now() == ManualClock().now()


async def test_loads_begin_however_costly_those_before_were() -> None:
    """Law: where each load takes far more than the share, one begins each half second all the same."""
    clock = ManualClock()
    loads = Loads(Pace(clock, busy=lambda: True, share=0.01), 1.0)
    async with running(loads):
        await passed(clock, 5.0)
    assert 9 <= loads.count <= 11
