"""Half an hour at 60% of the knee with a publish each second: what grows.

Server and client are alone on a core each (`benchmarks.claims.alone`), so that the tail is the server's and not that of
whatever else the machine did for a while.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import httpx
import numpy as np
import psutil

from benchmarks.claims import servers
from benchmarks.claims.alone import SERVER_CORE, apart, let_the_client_go_first, named, undisturbed
from benchmarks.claims.line import Line, at_most, exactly, measured
from benchmarks.claims.served import last_epoch_run
from benchmarks.claims.swaps import Dyes, make_dyes
from benchmarks.claims.wire import Wire, score_body
from benchmarks.claims.workplace import Server, Workplace, serving

SECONDS, WINDOW_S, LOOK_S = 1800.0, 30.0, 5.0
SHARE_OF_KNEE = 0.60
CONNECTIONS = 16
ITEMS = 100


@dataclass
class Soaked:
    """What was seen: times are seconds since the load began.

    Args:
        waits: of each request, when it was due and the seconds until its answer.
        looks: time, resident bytes, file descriptors.
        refused: requests and publishes not answered with 2xx.
    """

    waits: list[tuple[float, float]] = field(default_factory=list)
    looks: list[tuple[float, int, int]] = field(default_factory=list)
    refused: int = 0
    published: int = 0


async def knee(server: Server, bodies: Iterator[bytes], seconds: float) -> float:
    """Requests a second that the server answers when it is never left without one."""
    count, until = 0, time.monotonic() + seconds

    async def work() -> None:
        nonlocal count
        async with Wire(server.url, server.headers) as wire:
            while time.monotonic() < until:
                await wire.post("/score", next(bodies))
                count += 1

    await asyncio.gather(*(work() for _ in range(CONNECTIONS)))
    return count / seconds


async def soak(server: Server, bodies: Iterator[bytes], dyes: Dyes, per_s: float, seconds: float) -> Soaked:
    """Steady requests that wait for no answer before the next is due, and a publish each second."""
    seen, start, number = Soaked(), time.monotonic() + 0.1, itertools.count()

    async def ask() -> None:
        async with Wire(server.url, server.headers) as wire:
            while (turn := next(number)) < per_s * seconds:
                due = start + turn / per_s
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                status, _ = await wire.post("/score", next(bodies))
                seen.waits.append((due - start, time.monotonic() - due))
                seen.refused += status != 200

    async def publish() -> None:
        revisions = itertools.cycle(dyes.bodies)
        async with httpx.AsyncClient(headers=server.headers, timeout=30) as client:
            for turn in range(int(seconds)):
                await asyncio.sleep(max(0.0, start + turn - time.monotonic()))
                revision = next(revisions)
                url = f"{server.url}/adapters/{dyes.domain}?revision={revision}"
                answer = await client.post(url, content=dyes.bodies[revision])
                seen.published += 1
                seen.refused += not answer.is_success

    async def look() -> None:
        process = psutil.Process(server.pid)
        while (now := time.monotonic() - start) < seconds:
            seen.looks.append((now, process.memory_info().rss, process.num_fds()))
            await asyncio.sleep(LOOK_S)

    await asyncio.gather(publish(), look(), *(ask() for _ in range(CONNECTIONS)))
    return seen


def growth(times: Sequence[float], values: Sequence[float]) -> float:
    """By how much a straight line through the last 80% rises over them, as a share of their median.

    The slope is the median of those between any two points (Theil 1950, Sen 1968): what grows shows in most of them,
    while a machine that was elsewhere for a moment, and the queue that this leaves, shows in a few.
    """
    x, y = np.array(times), np.array(values)
    kept = x >= x[0] + 0.2 * (x[-1] - x[0])
    x, y = x[kept], y[kept]
    first, second = np.triu_indices(len(x), 1)
    slope = np.median((y[second] - y[first]) / (x[second] - x[first]))
    return float(slope * np.ptp(x) / np.median(y))


def lines(work: Workplace) -> Iterator[Line]:
    """One server over Valkey."""
    run = last_epoch_run(work)
    dyes = make_dyes(run, 50 if work.quick else int(SECONDS))
    users, items = list(run.oracle.index["user"]), list(run.oracle.index["item"])
    rng = np.random.default_rng(5)
    bodies = itertools.cycle(
        [
            score_body(str(rng.choice(users)), run.domains[number % len(run.domains)], some)
            for number in range(500)
            if (some := [str(item) for item in rng.choice(items, ITEMS, replace=False)])
        ]
    )
    seconds, window_s = (40.0, 4.0) if work.quick else (SECONDS, WINDOW_S)
    with apart(), servers.valkey(servers.fresh(work.folder / "soak"), requirepass=work.password("soak")) as valkey:
        let_the_client_go_first(valkey.pid)
        work.espalier("publish", str(run.folder), "--store", valkey.url)
        feedback = str(work.folder / "soak-feedback")
        with serving(work, valkey.url, core=SERVER_CORE, feedback_dir=feedback) as server:
            asyncio.run(knee(server, bodies, 2.0))
            per_s = SHARE_OF_KNEE * asyncio.run(knee(server, bodies, 2.0 if work.quick else 10.0))
            with undisturbed(server) as permitted:
                seen = asyncio.run(soak(server, bodies, dyes, per_s, seconds))
    said = f"soak of {seconds:.0f} s at {per_s:.0f} requests/s"
    yield measured(f"{said}: how they ran", named(permitted))
    yield measured(f"{said}: requests, publishes", f"{len(seen.waits)}, {seen.published}")
    yield exactly(f"{said}: not answered 2xx", seen.refused, 0)
    times, resident, files = zip(*seen.looks, strict=True)
    yield at_most(f"{said}: growth of resident memory over the last 80%", 100 * growth(times, resident), 2, "%")
    starts = [float(start) for start in np.arange(0.0, seconds, window_s)]
    tails = [
        float(np.quantile([wait for due, wait in seen.waits if start <= due < start + window_s], 0.99))
        for start in starts
    ]
    each = " ".join(f"{1000 * tail:.1f}" for tail in tails)
    yield measured(f"{said}: p99 of each {window_s:g} s, ms", each)
    yield at_most(f"{said}: growth of p99 over the last 80%", 100 * growth(starts, tails), 10, "%")
    later = [count for at, count in zip(times, files, strict=True) if at >= 0.2 * seconds]
    slope = np.polyfit(np.arange(len(later)), later, 1)[0] * len(later)
    yield at_most(
        f"{said}: growth of file descriptors over the last 80% ({min(later)} to {max(later)})", round(slope), 0
    )
