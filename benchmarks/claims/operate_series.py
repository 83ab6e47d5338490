"""69,102 domains scored at least once: how many series a replica shows, and how long its /metrics takes."""

from __future__ import annotations

import asyncio
import itertools
import json
import statistics
import time
from collections.abc import Iterator, Sequence

import httpx

from adapters_store.store import AdapterStore
from adapters_store.urls import open_backend
from benchmarks.claims import servers
from benchmarks.claims.fleet import Fleet
from benchmarks.claims.line import Line, at_most, exactly, measured
from benchmarks.claims.served import last_epoch_run
from benchmarks.claims.wire import Wire, score_body
from benchmarks.claims.workplace import Server, Workplace, serving

DOMAINS = 69_102
PART = 5000
PIECE = 4000
CONNECTIONS = 16
SCRAPES = 15
SERIES = 2000
SCRAPE_MS = 100.0
ONLY_ONCE = 3  # every so many domains one is scored twice, so that exact counts differ


async def fill(url: str, fleet: Fleet) -> None:
    """Publish every domain."""
    store = AdapterStore(open_backend(url, timeout_s=30), time.time)
    for start in range(0, fleet.size, PIECE):
        domains = fleet.domains[start : start + PIECE]
        await fleet.publish(store, domains, list(fleet.artifacts(1, domains)))
    await store.close()


async def score_all(server: Server, fleet: Fleet, domains: Sequence[str]) -> int:
    """Score every one of some domains once, and each third once more; answers other than 200."""
    user = str(next(iter(fleet.run.oracle.index["user"])))
    items = [str(item) for item in itertools.islice(fleet.run.oracle.index["item"], 2)]
    waiting = itertools.chain(domains, domains[::ONLY_ONCE])
    failed = 0

    async def work() -> None:
        nonlocal failed
        async with Wire(server.url, server.headers) as wire:
            for domain in waiting:
                status, _ = await wire.post("/score", score_body(user, domain, items))
                failed += status != 200

    await asyncio.gather(*(work() for _ in range(CONNECTIONS)))
    return failed


def scrape(server: Server) -> tuple[int, float]:
    """Series shown, and the milliseconds until the last byte was here."""
    began = time.perf_counter()
    answer = httpx.get(f"{server.url}/metrics", headers=server.headers, timeout=30)
    taken_ms = 1000 * (time.perf_counter() - began)
    answer.raise_for_status()
    return sum(bool(line) and not line.startswith("#") for line in answer.text.splitlines()), taken_ms


def lines(work: Workplace) -> Iterator[Line]:
    """A replica of two workers, whose counts are gathered, with the whole fleet; one of a single worker with a part."""
    fleet = Fleet(last_epoch_run(work), 500 if work.quick else DOMAINS)
    with servers.valkey(servers.fresh(work.folder / "series"), requirepass=work.password("series")) as valkey:
        work.espalier("publish", str(fleet.run.folder), "--store", valkey.url)
        asyncio.run(fill(valkey.url, fleet))
        for workers, count in ((2, fleet.size), (1, min(fleet.size, PART))):
            with serving(work, valkey.url, workers=str(workers), memory_bytes=str(6 << 30)) as server:
                said = f"{count} domains scored, {workers} worker{'s' if workers > 1 else ''}"
                domains = fleet.domains[:count]
                yield exactly(f"{said}: other answers than 200", asyncio.run(score_all(server, fleet, domains)), 0)
                shown = [scrape(server) for _ in range(SCRAPES)]
                times = [taken_ms for _, taken_ms in shown]
                yield at_most(f"{said}: series of a replica", shown[-1][0], SERIES - 1, digits=0)
                yield at_most(f"{said}: /metrics, slowest of {SCRAPES}", max(times), SCRAPE_MS, " ms", 1)
                yield measured(f"{said}: /metrics, median", f"{statistics.median(times):.1f} ms")
                found = [counted(server, domains[number]) for number in (0, 1, ONLY_ONCE, count - 1)]
                expected = [2, 1, 2, 2 if (count - 1) % ONLY_ONCE == 0 else 1]
                yield exactly(f"{said}: requests that four domains' own counters show", found, expected)


def counted(server: Server, domain: str) -> int:
    """Requests of a domain since the replica started, by its exact counter."""
    answer = httpx.get(f"{server.url}/adapters/{domain}/stats", headers=server.headers, timeout=30).raise_for_status()
    return int(json.loads(answer.text)["requests"])
