"""69,102 domains in one Redis: publishing them, flipping a release of all on two replicas, scoring them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from redis import Redis

from adapters_store.errors import NotStaged
from adapters_store.releases import Release
from adapters_store.store import AdapterStore
from adapters_store.urls import open_backend
from benchmarks.claims import servers
from benchmarks.claims.fleet import Fleet
from benchmarks.claims.line import Line, at_least, at_most, exactly, measured
from benchmarks.claims.served import last_epoch_run
from benchmarks.claims.wire import Wire
from benchmarks.claims.workplace import Server, Workplace, serving

DOMAINS = 69_102
PIECE = 4000
SAMPLE = 64
CONNECTIONS = 8
FLIP_S = 2.0
ITEMS = 100
ROUNDS, ROUND_S = 7, 4.0


@dataclass
class Watch:
    """What a steady load on the fleet saw.

    Args:
        backbone: answers by the backbone alone.
        total: all answers.
        stop: ends the load.
    """

    backbone: int = 0
    total: int = 0
    stop: asyncio.Event = field(default_factory=asyncio.Event)


async def fill(fleet: Fleet, valkey: servers.Valkey, piece: int) -> list[float]:
    """Publish the fleet piece by piece; before each, the same bytes go in as plain pipelined SETs, and out again.

    Returns:
        Rate of publishing over that of the SETs, a piece.
    """
    store = AdapterStore(open_backend(valkey.url, timeout_s=30), time.time)
    client = Redis(port=valkey.port, protocol=2)
    ratios = []
    try:
        for start in range(0, fleet.size, piece):
            domains = fleet.domains[start : start + piece]
            contents = list(fleet.artifacts(1, domains))
            plain = await asyncio.to_thread(set_pipelined, client, contents)
            ratios.append(plain / await fleet.publish(store, domains, contents))
    finally:
        client.close()
        await store.close()
    return ratios


def set_pipelined(client: Redis, contents: Sequence[bytes]) -> float:
    """Seconds that pipelined SETs of these bytes take; they are removed afterwards."""
    began = time.perf_counter()
    for start in range(0, len(contents), 500):
        with client.pipeline(transaction=False) as pipeline:
            for number, content in enumerate(contents[start : start + 500], start):
                pipeline.set(f"plain:{number}", content)
            pipeline.execute()
    seconds = time.perf_counter() - began
    client.unlink(*(f"plain:{number}" for number in range(len(contents))))
    return seconds


async def put_release(fleet: Fleet, store: AdapterStore, build: int, piece: int) -> tuple[str, Release]:
    """Another build of every adapter, stored but not live, and the release that names them."""
    named: dict[str, str] = {}
    for start in range(0, fleet.size, piece):
        domains = fleet.domains[start : start + piece]
        named.update(zip(domains, await store.put_many(fleet.artifacts(build, domains)), strict=True))
    release = Release(divisions={fleet.run.natural_division: named})
    return await store.put_release(release), release


async def until_staged(store: AdapterStore, limit_s: float) -> float:
    """Seconds until every replica has prepared what is staged.

    Raises:
        NotStaged: they have not within the limit.
    """
    began = time.monotonic()
    while time.monotonic() - began < limit_s:
        wanted = (await store.staged()).release
        reports = await store.replica_reports()
        if len(reports) == 2 and all(r.release == wanted and r.of and r.staged == r.of for r in reports):
            return time.monotonic() - began
        await asyncio.sleep(0.25)
    raise NotStaged(f"not staged within {limit_s:.0f} s: {[(r.staged, r.of) for r in reports]}")


async def until_served(
    replicas: Sequence[Server], fleet: Fleet, expected: dict[str, str | None], since: float
) -> float:
    """Seconds from `since` until a sample of domains is scored by what is expected on all replicas."""
    user, items = next(iter(fleet.run.oracle.index["user"])), list(fleet.run.oracle.index["item"])[:1]
    for server in replicas:
        async with Wire(server.url, server.headers) as wire:
            for domain, revision in expected.items():
                while (await wire.score(user, domain, items))["served"]["revision"] != revision:
                    await asyncio.sleep(0.005)
                    if time.monotonic() - since > 60:
                        return float("inf")
    return time.monotonic() - since


async def steady(server: Server, fleet: Fleet, watch: Watch) -> None:
    """Score one domain after the other until told to stop."""
    user, items = next(iter(fleet.run.oracle.index["user"])), list(fleet.run.oracle.index["item"])[:10]
    async with Wire(server.url, server.headers) as wire:
        for domain in itertools.cycle(fleet.domains[:: max(1, fleet.size // 997)]):
            if watch.stop.is_set():
                return
            served = (await wire.score(user, domain, items))["served"]
            watch.total += 1
            watch.backbone += served["revision"] is None
            await asyncio.sleep(0.01)


async def flip_and_back(fleet: Fleet, url: str, replicas: Sequence[Server], piece: int) -> Iterator[Line]:
    """Stage, flip and roll back a release of the whole fleet under load."""
    store = AdapterStore(open_backend(url, timeout_s=30), time.time)
    try:
        revision, release = await put_release(fleet, store, 2, piece)
        sample = fleet.domains[:: max(1, fleet.size // SAMPLE)]
        singles = {domain: (await effective_live(store, domain)) for domain in sample}
        await store.stage(revision, "claims")
        staged_s = await until_staged(store, 3600)
        watch = Watch()
        load = [asyncio.create_task(steady(server, fleet, watch)) for server in replicas]
        since = time.monotonic()
        await store.flip(revision, "claims")
        flip_s = await until_served(replicas, fleet, {d: release.revision_of(d) for d in sample}, since)
        since = time.monotonic()
        await store.roll_back_release(revision, "claims")
        back_s = await until_served(replicas, fleet, singles, since)
        watch.stop.set()
        await asyncio.gather(*load)
    finally:
        await store.close()
    return iter(
        [
            measured(f"staging a release of {fleet.size} domains on 2 replicas", f"{staged_s:.0f} s"),
            at_most("release flip: until both replicas score a sample of the fleet by it", flip_s, FLIP_S, " s"),
            at_most("release roll-back: until both score it by what was live before", back_s, FLIP_S, " s"),
            exactly(f"answers by the backbone alone, of {watch.total} during both", watch.backbone, 0),
        ]
    )


async def effective_live(store: AdapterStore, domain: str) -> str | None:
    """What is live while no release is."""
    record = await store.domain(domain)
    return record.live.revision if record and record.live else None


async def rate(server: Server, fleet: Fleet, domains: Sequence[str], seconds: float) -> float:
    """Requests of 100 items a second, closed loop, over some domains in turn."""
    user, items = next(iter(fleet.run.oracle.index["user"])), list(fleet.run.oracle.index["item"])[:ITEMS]
    turn, count, until = itertools.cycle(domains), 0, time.monotonic() + seconds

    async def work() -> None:
        nonlocal count
        async with Wire(server.url, server.headers) as wire:
            while time.monotonic() < until:
                await wire.score(user, next(turn), items)
                count += 1

    await asyncio.gather(*(work() for _ in range(CONNECTIONS)))
    return count / seconds


async def warm(server: Server, fleet: Fleet) -> int:
    """Score every domain until its own adapter does; how many do not."""
    user, items = next(iter(fleet.run.oracle.index["user"])), list(fleet.run.oracle.index["item"])[:1]
    left = iter(fleet.domains)
    cold = 0

    async def work() -> None:
        nonlocal cold
        async with Wire(server.url, server.headers) as wire:
            for domain in left:
                for _ in range(20):
                    if (await wire.score(user, domain, items))["served"]["fallback"] is None:
                        break
                    await asyncio.sleep(0.05)
                else:
                    cold += 1

    await asyncio.gather(*(work() for _ in range(CONNECTIONS)))
    return cold


def lines(work: Workplace) -> Iterator[Line]:
    """Publishing, memory, the release, throughput."""
    run = last_epoch_run(work)
    fleet = Fleet(run, 500 if work.quick else DOMAINS)
    piece = 100 if work.quick else PIECE
    folder = servers.fresh(work.folder / "fleet")
    with servers.valkey(folder, appendfsync="everysec") as valkey, contextlib.ExitStack() as stack:
        work.espalier("publish", str(run.folder), "--store", valkey.url)
        ratios = asyncio.run(fill(fleet, valkey, piece))
        claim = f"{fleet.size} domains in one Redis: publish rate over pipelined SETs of the same bytes"
        yield at_least(f"{claim}, median of {len(ratios)} alternating pieces", statistics.median(ratios), 0.25)
        replicas = [stack.enter_context(serving(work, valkey.url, memory_bytes=str(12 << 30))) for _ in range(2)]
        cold = [asyncio.run(warm(server, fleet)) for server in replicas]
        yield exactly("domains that do not become resident on 2 replicas", sum(cold), 0)
        told = Redis(port=valkey.port, protocol=2).info("memory")
        sizes = ", ".join(f"{server.resident_bytes / 2**20:.0f} MiB" for server in replicas)
        yield measured(
            "memory with all resident: Redis; the replicas", f"{told['used_memory'] / 2**20:.0f} MiB; {sizes}"
        )
        pairs = [
            (
                asyncio.run(rate(replicas[0], fleet, few, seconds(work))),
                asyncio.run(rate(replicas[0], fleet, fleet.domains, seconds(work))),
            )
            for few in [fleet.domains[:10]] * (2 if work.quick else ROUNDS)
        ]
        claim = f"throughput over all domains relative to 10, median of {len(pairs)} alternating rounds"
        yield at_least(
            f"{claim} ({statistics.median(p[0] for p in pairs):.0f}/s with 10)",
            statistics.median(b / a for a, b in pairs),
            0.80,
        )
        yield from asyncio.run(flip_and_back(fleet, valkey.url, replicas, piece))
        sizes = ", ".join(f"{server.resident_bytes / 2**20:.0f} MiB" for server in replicas)
        yield measured("memory of the replicas with both builds prepared", sizes)


def seconds(work: Workplace) -> float:
    """Length of one throughput round."""
    return 1.0 if work.quick else ROUND_S
