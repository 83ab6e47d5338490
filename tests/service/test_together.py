"""Workers that count together: real socket pairs, one hub, no clocks of the wall."""

from __future__ import annotations

import asyncio
import io
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.channel import Channel, Counted, Join, Message, Told
from service.domain_counts import COLUMNS
from service.hub import Hub
from service.logs import open_log
from service.metrics import Metrics
from service.refusals import NotReady
from service.socket_peers import PeersOverSocket
from service.socket_together import WAIT_S, TogetherOverSocket
from service.totals import Totals
from tests.service.clockwork import ManualClock, quiet, turns_until


class Worker:
    """One worker's end: its metrics, and how it hears the supervisor."""

    def __init__(self, channel: Channel, clock: ManualClock) -> None:
        self.channel = channel
        self.deaf = False
        self.together = TogetherOverSocket(channel, clock)
        self.peers = PeersOverSocket(channel, clock, lambda: None, others=self._heard)
        self.metrics = Metrics(open_log(stream=io.StringIO()), together=self.together, wall=lambda: 0.0)

    def scored(self, domain: str, rows: int = 10, *, known: bool = True, fallback: str | None = None) -> None:
        """A request was scored and answered."""
        alias = "live" if fallback is None else None
        scores = np.full(rows, 0.5)
        self.metrics.scored(domain, scores, known=known, alias=alias, fallback=fallback, tried=False, made_s=None)
        self.metrics.rows(rows)

    def _heard(self, message: Message) -> None:
        if not self.deaf:
            self.together.heard(message)


class Replica:
    """A hub and its workers in one event loop."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.hub = Hub(
            lambda number, message: self._ends[number].send(message), Totals(2, now=clock.now, wall=lambda: 0.0)
        )
        self.stopped = False
        self._ends: dict[int, Channel] = {}
        self._relays: dict[int, asyncio.Task[None]] = {}
        self._stack = AsyncExitStack()

    async def worker(self, number: int) -> Worker:
        """A worker that has joined and counts."""
        ours, theirs = socket.socketpair()
        self._ends[number] = await Channel.over(ours)
        channel = await Channel.over(theirs)
        self._stack.push_async_callback(channel.close)
        worker = Worker(channel, self.clock)
        worker.peers.hear()
        self._stack.push_async_callback(worker.peers.stop_hearing)
        self._relays[number] = asyncio.create_task(self._relay(number, self._ends[number]))
        self._stack.callback(self._relays[number].cancel)
        channel.send(Join())
        worker.together.start(worker.metrics)
        await quiet()
        return worker

    async def ended(self, number: int, worker: Worker) -> None:
        """The end of a worker's process, whatever it said before."""
        await worker.channel.close()
        await self._relays[number]
        await self._ends[number].close()

    async def close(self) -> None:
        """End every worker."""
        await self._stack.aclose()
        for end in self._ends.values():
            await end.close()

    async def _relay(self, number: int, end: Channel) -> None:
        async for message in end.messages():
            if not self.stopped:
                self.hub.received(number, message)
        self.hub.gone(number)


@pytest.fixture
async def replica() -> AsyncIterator[Replica]:
    """No worker yet."""
    opened = Replica(ManualClock())
    yield opened
    await opened.close()


def read(shown: bytes) -> dict[str, float]:
    """Sample with the values of its labels -> value."""
    families = text_string_to_metric_families(shown.decode())
    return {
        sample.name + "".join(f"/{value}" for _, value in sorted(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


async def test_whichever_worker_is_asked_shows_the_sum(replica: Replica) -> None:
    """Law: a scrape of one worker is the sum over all, counts by domain included, and says who answered."""
    workers = [await replica.worker(number) for number in (1, 2, 3)]
    for number, worker in enumerate(workers, start=1):
        worker.scored("women", rows=number)
        worker.metrics.request("/score", 200)
    workers[2].scored("men")
    for worker in workers:
        shown = read(await worker.metrics.shown())
        assert shown["espalier_rows_total"] == 16
        assert shown["espalier_requests_total//score/200"] == 3
        assert shown["espalier_score_count"] == 16
        assert shown["espalier_domain_requests_total/women"] == 3
        assert shown["espalier_domain_rows_total/men"] == 10
        assert shown["espalier_domain_rows_total/other"] == 0
        assert [shown[f"espalier_worker_up/{number}"] for number in (1, 2, 3)] == [1, 1, 1]
        assert shown["espalier_build_info/0.1.0"] == 1


async def test_counts_of_a_domain_are_exact_at_once_over_all_workers(replica: Replica) -> None:
    """Law: what any worker scored before the question is in the answer; nothing is in it twice."""
    one, two = await replica.worker(1), await replica.worker(2)
    for number in range(1, 30):
        one.scored("women")
        two.scored("women", fallback="loading")
        two.scored("made-up", known=False, fallback="unknown_domain")
        stats = await (one, two)[number % 2].metrics.domain_stats("women")
        assert (stats.requests, stats.rows) == (2 * number, 20 * number)
        assert stats.fallbacks == {"loading": number}
        assert stats.exact
    assert (await one.metrics.domain_stats("made-up")).requests == 29


async def test_a_worker_that_does_not_answer_holds_nobody_up(replica: Replica) -> None:
    """Law: after a bounded wait a scrape leaves; the deaf one counts with what it said last, and is shown as down."""
    one, two = await replica.worker(1), await replica.worker(2)
    two.scored("women", rows=7)
    await one.metrics.shown()
    two.deaf = True
    two.scored("women", rows=100)
    scraping = asyncio.create_task(one.metrics.shown())
    await quiet()
    assert not scraping.done()
    await replica.clock.advance(WAIT_S)
    await turns_until(scraping.done)
    shown = read(scraping.result())
    assert shown["espalier_rows_total"] == 7
    assert (shown["espalier_worker_up/1"], shown["espalier_worker_up/2"]) == (1, 0)
    asking = asyncio.create_task(one.metrics.domain_stats("women"))
    await quiet()
    await replica.clock.advance(WAIT_S)
    await turns_until(asking.done)
    assert not asking.result().exact
    two.deaf = False
    assert read(await one.metrics.shown())["espalier_rows_total"] == 107


async def test_no_counter_falls_when_a_worker_ends(replica: Replica) -> None:
    """Law: what a worker counted stays after its end; one that ended in order has told all, so counts stay exact."""
    one, two = await replica.worker(1), await replica.worker(2)
    two.scored("women", rows=7)
    two.metrics.queue(5)
    assert read(await one.metrics.shown())["espalier_queue_rows"] == 5
    two.scored("women", rows=3)
    two.together.stop()
    await replica.ended(2, two)
    shown = read(await one.metrics.shown())
    assert shown["espalier_rows_total"] == shown["espalier_domain_rows_total/women"] == 10
    assert shown["espalier_queue_rows"] == 0
    assert shown["espalier_worker_up/2"] == 0
    successor = await replica.worker(2)
    successor.scored("women", rows=1)
    shown = read(await successor.metrics.shown())
    assert shown["espalier_rows_total"] == shown["espalier_domain_rows_total/women"] == 11
    assert shown["espalier_worker_up/2"] == 1
    assert (await one.metrics.domain_stats("women")).exact


async def test_a_killed_worker_loses_at_most_a_second_and_counts_say_so(replica: Replica) -> None:
    """Law: counts by domain are told each second; what a killed worker had not told is lost, and `exact` is false."""
    one, two = await replica.worker(1), await replica.worker(2)
    two.scored("women", rows=7)
    await replica.clock.advance(1.0)
    two.scored("women", rows=100)
    await replica.ended(2, two)
    stats = await one.metrics.domain_stats("women")
    assert (stats.rows, stats.exact) == (7, False)
    assert read(await one.metrics.shown())["espalier_domain_rows_total/women"] == 7


async def test_a_worker_that_ends_while_it_is_waited_for_ends_the_waiting(replica: Replica) -> None:
    """Law: nobody waits for the dead."""
    one, two = await replica.worker(1), await replica.worker(2)
    two.deaf = True
    scraping = asyncio.create_task(one.metrics.shown())
    await quiet()
    assert not scraping.done()
    await replica.ended(2, two)
    await turns_until(scraping.done)
    assert read(scraping.result())["espalier_worker_up/2"] == 0


async def test_without_the_supervisor_a_scrape_fails_instead_of_showing_less(replica: Replica) -> None:
    """Law: one worker's own counters would look like a restart of the replica: a bounded wait, then an error."""
    one = await replica.worker(1)
    replica.stopped = True
    scraping = asyncio.create_task(one.metrics.shown())
    await quiet()
    await replica.clock.advance(2 * WAIT_S)
    await turns_until(scraping.done)
    with pytest.raises(NotReady, match="supervisor"):
        scraping.result()


async def test_a_worker_of_another_build_breaks_nothing(replica: Replica) -> None:
    """Law: what the supervisor cannot read (a worker that was started after an upgrade) is left out, and it goes on."""
    one, two = await replica.worker(1), await replica.worker(2)
    two.channel.send(Counted({"women": [1, 2]}))
    two.channel.send(Told(7, b"no report"))
    two.scored("men", rows=3)
    shown = read(await one.metrics.shown())
    assert shown["espalier_domain_rows_total/men"] == shown["espalier_rows_total"] == 3
    assert "espalier_domain_rows_total/women" not in shown


async def test_many_new_domains_reach_the_supervisor_in_lines_that_fit(replica: Replica) -> None:
    """Law: the largest fleet is told in pieces; no line breaks the channel."""
    one, two = await replica.worker(1), await replica.worker(2)
    long = "d" * 120
    for number in range(5000):
        one.scored(f"{long}{number}", rows=1)
    one.together.add({f"{long}{number}": [1] * len(COLUMNS) for number in range(5000)})
    stats = await two.metrics.domain_stats(f"{long}4999")
    assert (stats.requests, stats.exact) == (2, True)
    shown = read(await two.metrics.shown())
    assert shown["espalier_domain_requests_total/other"] == 10_000 - 4
