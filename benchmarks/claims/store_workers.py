"""What was published is what is scored: by all workers of a replica at once, by another replica soon after."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator

import numpy as np
from redis import Redis

from benchmarks.claims import servers
from benchmarks.claims.line import Line, at_most, exactly
from benchmarks.claims.served import last_epoch_run, publish_run
from benchmarks.claims.swaps import Dyes, make_dyes
from benchmarks.claims.wire import Wire, score_body
from benchmarks.claims.workplace import ClaimError, Server, Workplace, free_port, serving
from benchmarks.forge import Run

WORKERS = 4
SCORED = ("request", "/score", 200)
PAIRS = 200
WIPES = 5
RECONCILE_S = 5.0
PATIENCE_S = 60.0


async def publish(server: Server, dyes: Dyes, revision: str) -> int:
    """POST one dye over a connection of its own; its status."""
    async with Wire(server.url, server.headers) as wire:
        path = f"/adapters/{dyes.domain}?revision={revision}"
        status, _ = await wire.post(path, dyes.bodies[revision], "application/octet-stream")
        return status


async def scored_by(server: Server, dyes: Dyes) -> str | None:
    """The revision that one request over a connection of its own is scored by."""
    async with Wire(server.url, server.headers) as wire:
        answer = await wire.score(dyes.requests[0][0], dyes.domain, dyes.requests[0][1])
        revision: str | None = answer["served"]["revision"]
        return revision


async def publish_then_score(server: Server, dyes: Dyes, pairs: int) -> tuple[int, int]:
    """Publishes answered 201, and scores right after one that were not by it: as many at once as there are workers."""
    created = stale = 0
    revisions = list(dyes.bodies)
    for turn in range(pairs):
        revision = revisions[turn % len(revisions)]
        created += await publish(server, dyes, revision) == 201
        scored = await asyncio.gather(*(scored_by(server, dyes) for _ in range(WORKERS)))
        stale += sum(each != revision for each in scored)
    return created, stale


async def seconds_to(server: Server, dyes: Dyes, revision: str, since: float) -> float:
    """Seconds from `since` until a replica scores by a revision.

    Raises:
        ClaimError: it does not within a minute.
    """
    user, items = dyes.requests[0]
    body = score_body(user, dyes.domain, items)
    async with Wire(server.url, server.headers) as wire:
        while time.monotonic() - since < PATIENCE_S:
            _, answer = await wire.post("/score", body)
            if json.loads(answer)["served"]["revision"] == revision:
                return time.monotonic() - since
            await asyncio.sleep(0.002)
    raise ClaimError(f"the other replica did not score by {revision} within {PATIENCE_S:.0f} s")


async def spread(first: Server, second: Server, dyes: Dyes, times: int) -> list[float]:
    """Seconds from sending a publish to one replica until the other scores by it, many times over."""
    found = []
    revisions = list(dyes.bodies)
    for turn in range(times):
        revision, since = revisions[(turn + 1) % len(revisions)], time.monotonic()
        await publish(first, dyes, revision)
        found.append(await seconds_to(second, dyes, revision, since))
    return found


def workers_that_answered(log: bytes) -> int:
    """Workers whose own log has a line of a score that they answered 200."""
    found = set()
    for line in log.splitlines():
        with contextlib.suppress(ValueError):  # what else came to stderr
            said = json.loads(line)
            if isinstance(said, dict) and (said.get("event"), said.get("route"), said.get("status")) == SCORED:
                found.add(said["worker"])
    return len(found)


def wipe_streams(valkey: servers.Valkey) -> int:
    """Delete every stream behind the store's back; how many there were."""
    client = Redis(port=valkey.port, protocol=2)
    try:
        keys = list(client.scan_iter(_type="STREAM", count=1000))
        return len(keys) and int(client.delete(*keys))
    finally:
        client.close()


async def spread_after_wipes(
    valkey: servers.Valkey, first: Server, second: Server, dyes: Dyes, times: int
) -> tuple[int, list[float]]:
    """Seconds until a replica that missed a publish scores by it: the streams were wiped before it could read them.

    Returns:
        How many streams were wiped, and the seconds from when the replica ran again.
    """
    wiped, found = 0, []
    now = await scored_by(second, dyes)
    for turn in range(times):
        revision = next(r for r in list(dyes.bodies)[turn:] if r != now)
        os.kill(second.pid, signal.SIGSTOP)
        try:
            await publish(first, dyes, revision)
            wiped += wipe_streams(valkey)
        finally:
            os.kill(second.pid, signal.SIGCONT)
        found.append(await seconds_to(second, dyes, revision, time.monotonic()))
        now = revision
    return wiped, found


def lines(work: Workplace) -> Iterator[Line]:
    """Workers of one replica, then two replicas on one Redis."""
    run = last_epoch_run(work)
    pairs = 20 if work.quick else PAIRS
    dyes = make_dyes(run, 40 if work.quick else PAIRS)
    port = free_port()
    log = work.folder / f"serve-{port}.log"
    log.unlink(missing_ok=True)  # an earlier server may have had this port
    with serving(work, publish_run(work, run), port=port, workers=str(WORKERS), log_share="1") as server:
        created, stale = asyncio.run(publish_then_score(server, dyes, pairs))
    yield exactly(f"{WORKERS} workers: publishes answered 201", created, pairs)
    scored = f"stale scores of {WORKERS * pairs} after a 201"
    yield exactly(f"{WORKERS} workers, a new connection a request: {scored}", stale, 0)
    answered = workers_that_answered(log.read_bytes())
    yield exactly(f"{WORKERS} workers: those that answered one of these scores, by their logs", answered, WORKERS)
    yield from two_replicas(work, run, dyes, pairs)


def two_replicas(work: Workplace, run: Run, dyes: Dyes, times: int) -> Iterator[Line]:
    """The feed's lines."""
    folder = work.folder / "two-replicas"
    with servers.valkey(servers.fresh(folder)) as valkey:
        work.espalier("publish", str(run.folder), "--store", valkey.url)
        soon = str(RECONCILE_S)
        with (
            serving(work, valkey.url, reconcile_s=soon) as first,
            serving(work, valkey.url, reconcile_s=soon) as second,
        ):
            seconds = asyncio.run(spread(first, second, dyes, times))
            wiped, after = asyncio.run(spread_after_wipes(valkey, first, second, dyes, 2 if work.quick else WIPES))
    claim = f"2 replicas on one Redis: publish sent -> the other scores by it, p99 of {len(seconds)}"
    yield at_most(f"{claim} (median {np.median(seconds):.3f} s)", float(np.quantile(seconds, 0.99)), 1.0, " s")
    claim = f"the same for a replica whose streams were wiped unread ({wiped} streams), worst of {len(after)}"
    yield at_most(
        f"{claim}, reconcile_s = {RECONCILE_S:g}", max(after) if wiped else float("nan"), RECONCILE_S + 1, " s"
    )
