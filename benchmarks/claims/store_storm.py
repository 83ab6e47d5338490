"""200 publishes a second through the feed, beside steady scoring: how much the slow tail of scoring grows.

Server and client are alone on a core each (`benchmarks.claims.alone`); some windows in the ordinary class are printed
beside, without a bound.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from adapters_store.store import AdapterStore
from adapters_store.urls import open_backend
from benchmarks.claims import servers
from benchmarks.claims.alone import SERVER_CORE, apart, let_the_client_go_first, named, undisturbed
from benchmarks.claims.fleet import Fleet
from benchmarks.claims.line import Line, at_least, at_most, exactly, measured
from benchmarks.claims.served import last_epoch_run
from benchmarks.claims.wire import Wire, score_body
from benchmarks.claims.workplace import ROOT, ClaimError, Server, Workplace, serving
from benchmarks.forge import Run

DOMAINS = 100
PER_S = 200
LEAST_PER_S = 190
BATCH = 20
WINDOWS, WINDOW_S = 7, 30.0
ORDINARY_WINDOWS = 3
SHARE_OF_KNEE = 0.30
BOUND = 1.25
NOISE = 0.10  # of the median, between the quartiles: then all windows are played once more
CONNECTIONS = 16
ITEMS = 100
BUILDS = 8


class Requests:
    """The bodies of the steady load, in turn over all domains."""

    def __init__(self, fleet: Fleet) -> None:
        oracle, rng = fleet.run.oracle, np.random.default_rng(3)
        users, items = list(oracle.index["user"]), list(oracle.index["item"])
        bodies = [
            score_body(str(rng.choice(users)), domain, [str(i) for i in rng.choice(items, ITEMS, replace=False)])
            for domain in fleet.domains
        ]
        self.bodies = itertools.cycle(bodies)


async def knee(server: Server, requests: Requests, seconds: float) -> float:
    """Requests a second that the server answers when it is never left without one."""
    count, until = 0, time.monotonic() + seconds

    async def work() -> None:
        nonlocal count
        async with Wire(server.url, server.headers) as wire:
            while time.monotonic() < until:
                await wire.post("/score", next(requests.bodies))
                count += 1

    await asyncio.gather(*(work() for _ in range(CONNECTIONS)))
    return count / seconds


async def window(server: Server, requests: Requests, per_s: float, seconds: float) -> tuple[float, int]:
    """Steady requests at a rate that does not wait for answers.

    Returns:
        99th percentile of the time from when a request was due to its answer, ms; and how many were not answered 200.
    """
    start, waits, failed = time.monotonic() + 0.05, list[float](), 0
    number = itertools.count()

    async def work() -> None:
        nonlocal failed
        async with Wire(server.url, server.headers) as wire:
            while (turn := next(number)) < per_s * seconds:
                due = start + turn / per_s
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                status, _ = await wire.post("/score", next(requests.bodies))
                waits.append(time.monotonic() - due)
                failed += status != 200

    await asyncio.gather(*(work() for _ in range(CONNECTIONS)))
    return 1000 * float(np.quantile(waits, 0.99)), failed


@contextlib.contextmanager
def storm(work: Workplace, url: str, fleet: Fleet) -> Iterator[None]:
    """Publishes from a process of its own, until the block ends."""
    command = [
        "nice",
        sys.executable,
        "-m",
        "benchmarks.claims.store_storm",
        url,
        str(fleet.run.folder),
        str(fleet.size),
    ]
    with (work.folder / "storm.log").open("ab") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            if not process.stdout.readline():
                raise ClaimError(f"the storm did not start: {(work.folder / 'storm.log').read_text()[-2000:]}")
            yield
        finally:
            process.stdin.close()
            process.wait(30)
            process.stdout.close()


async def publish_for_ever(url: str, fleet: Fleet) -> None:
    """Make one build after the other live, twenty domains each 100 ms, until standard input ends."""
    store = AdapterStore(open_backend(url, timeout_s=30), time.time)
    domains = fleet.domains
    builds = [await store.put_many(fleet.artifacts(build, domains)) for build in range(1, BUILDS + 1)]
    let_the_client_go_first(os.getpid())
    print("started", flush=True)
    ended = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
    start = time.monotonic()
    for turn in itertools.count():
        if ended.done():
            break
        await asyncio.sleep(max(0.0, start + turn * BATCH / PER_S - time.monotonic()))
        lap, first = divmod(turn * BATCH, len(domains))
        revisions = builds[lap % BUILDS]
        await store.change_many(
            [
                store.activation(
                    domains[i % len(domains)], fleet.run.natural_division, revisions[i % len(domains)], "storm"
                )
                for i in range(first, first + BATCH)
            ]
        )
    await store.close()


async def generations(url: str, fleet: Fleet) -> int:
    """Changes of all domains so far."""
    store = AdapterStore(open_backend(url, timeout_s=30), time.time)
    try:
        found, _ = await store.stamped_domains(fleet.domains)
        return sum(stamped.record.generation for stamped in found.values())
    finally:
        await store.close()


@dataclass
class Rounds:
    """Windows in turn: p99 in ms of each.

    Args:
        still: nothing is published.
        stormy: 200 changes a second are.
        published: publishes a second of each of those.
        failed: requests that were not answered 200.
    """

    still: list[float] = field(default_factory=list)
    stormy: list[float] = field(default_factory=list)
    published: list[float] = field(default_factory=list)
    failed: int = 0

    @property
    def ratio(self) -> float:
        """Median p99 in the storm over that without any."""
        return statistics.median(self.stormy) / statistics.median(self.still)

    @property
    def noisy(self) -> bool:
        """Whether the quartiles of the windows compared with are too far apart to believe one series."""
        low, middle, high = statistics.quantiles(self.still, n=4)
        return high - low > NOISE * middle

    @property
    def each(self) -> str:
        """All windows, as a line prints them."""
        return "; ".join(" ".join(f"{tail:.2f}" for tail in tails) for tails in (self.still, self.stormy))

    def play(
        self, work: Workplace, url: str, fleet: Fleet, server: Server, requests: Requests, per_s: float, count: int
    ) -> None:
        """So many windows of each kind more."""
        seconds = 4.0 if work.quick else WINDOW_S
        for _ in range(count):
            self._window(self.still, server, requests, per_s, seconds)
            with storm(work, url, fleet):
                before = asyncio.run(generations(url, fleet))
                self._window(self.stormy, server, requests, per_s, seconds)
                self.published.append((asyncio.run(generations(url, fleet)) - before) / seconds)

    def _window(self, tails: list[float], server: Server, requests: Requests, per_s: float, seconds: float) -> None:
        tail, bad = asyncio.run(window(server, requests, per_s, seconds))
        tails.append(tail)
        self.failed += bad


def lines(work: Workplace) -> Iterator[Line]:
    """Windows in turn, without a storm and with one."""
    run = last_epoch_run(work)
    fleet = Fleet(run, DOMAINS)
    count, least = (2, 1) if work.quick else (WINDOWS, ORDINARY_WINDOWS)
    with apart(), servers.valkey(servers.fresh(work.folder / "storm")) as valkey:
        let_the_client_go_first(valkey.pid)
        work.espalier("publish", str(run.folder), "--store", valkey.url)
        asyncio.run(first_build(valkey.url, fleet))
        with serving(work, valkey.url, core=SERVER_CORE) as server:
            requests = Requests(fleet)
            asyncio.run(knee(server, requests, 2.0))  # all domains become resident
            most = asyncio.run(knee(server, requests, 2.0 if work.quick else 10.0))
            per_s = SHARE_OF_KNEE * most
            with undisturbed(server) as permitted:
                rounds = Rounds()
                rounds.play(work, valkey.url, fleet, server, requests, per_s, count)
                first = rounds.ratio
                if rounds.noisy:
                    rounds.play(work, valkey.url, fleet, server, requests, per_s, count)
            ordinary = Rounds()
            ordinary.play(work, valkey.url, fleet, server, requests, per_s, least)
    yield measured("knee of the server on one core, requests of 100 items", f"{most:.0f}/s; load {per_s:.0f}/s")
    published = statistics.median(rounds.published)
    yield at_least("publishes a second during the storm, median of the windows", published, LEAST_PER_S, digits=0)
    yield exactly("requests not answered 200 in all windows", rounds.failed + ordinary.failed, 0)
    yield measured("in the ordinary class, p99 of each window, ms: without; in the storm", ordinary.each)
    yield measured("in the ordinary class, median p99 in the storm over that without", f"{ordinary.ratio:.3f}")
    said = named(permitted)
    yield measured(f"{said}, p99 of each window, ms: without; in the storm", rounds.each)
    if len(rounds.stormy) > count:
        yield measured(f"p99 in the storm over that without, the first {count} windows alone (noisy)", f"{first:.3f}")
    told = f"{statistics.median(rounds.stormy):.2f} ms against {statistics.median(rounds.still):.2f} ms"
    yield at_most(
        f"{said}: median p99 of {len(rounds.stormy)} windows in the storm over that without ({told})",
        rounds.ratio,
        BOUND,
    )


async def first_build(url: str, fleet: Fleet) -> None:
    """The fleet as it is before any storm."""
    store = AdapterStore(open_backend(url, timeout_s=30), time.time)
    await fleet.publish(store, fleet.domains, list(fleet.artifacts(1, fleet.domains)))
    await store.close()


if __name__ == "__main__":
    asyncio.run(publish_for_ever(sys.argv[1], Fleet(Run(Path(sys.argv[2])), int(sys.argv[3]))))
