"""A minute of load with a dye swap each 100 ms, five times, each time under another fault."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from adapters_store.store import AdapterStore
from adapters_store.urls import open_backend
from benchmarks.claims import servers
from benchmarks.claims.damage import Mangler
from benchmarks.claims.line import Line, at_least, at_most, exactly, measured
from benchmarks.claims.load import Outcome, Promise, Targets, backbone_scores, under_load
from benchmarks.claims.served import last_epoch_run
from benchmarks.claims.swaps import Dyes, make_dyes
from benchmarks.claims.workplace import Server, Workplace, serving
from benchmarks.forge import Run

SECONDS = 60.0
FALLBACKS = 0.01


@dataclass(frozen=True)
class Scene:
    """What a fault is played on.

    Args:
        work: the work folder, with the trained run and its dyes.
        seconds: length of the load.
        folder: empty, for servers.
    """

    work: Workplace
    run: Run
    dyes: Dyes
    seconds: float
    folder: Path

    def at(self, second: float) -> float:
        """A moment of the minute, shrunk with it."""
        return second * self.seconds / SECONDS

    def publish(self, url: str, environment: dict[str, str]) -> None:
        """The trained run goes into an empty store."""
        os.environ.update(environment)
        self.work.espalier("publish", str(self.run.folder), "--store", url)


@dataclass(frozen=True)
class Played:
    """How a scene ended.

    Args:
        outcome: what was seen.
        broken: the promises that the store does not keep.
        damaged: how many blobs reached the replica otherwise than they left the store, by what had become of them.
    """

    outcome: Outcome
    broken: list[Promise]
    damaged: Mapping[str, int] = field(default_factory=dict)


async def broken_promises(url: str, dyes: Dyes, promises: list[Promise]) -> list[Promise]:
    """Acknowledged publishes that are not in the store: no blob, or a generation that the record has not reached."""
    store = AdapterStore(open_backend(url), time.time)
    try:
        there = {p.revision for p in promises if await store.has(p.revision)}
        record = await store.domain(dyes.domain)
        reached = record.generation if record else 0
        return [p for p in promises if p.revision not in there or p.generation > reached]
    finally:
        await store.close()


def play(scene: Scene, url: str, targets: Targets, publisher: Server, fault: Callable[[], Awaitable[None]]) -> Played:
    """Load, swaps and the fault; then the judgement."""

    outcome = asyncio.run(under_load(targets, publisher, scene.dyes, scene.seconds, fault))
    outcome.judge(scene.dyes, backbone_scores(scene.run, scene.dyes))
    return Played(outcome, asyncio.run(broken_promises(url, scene.dyes, outcome.promises)))


def killed_valkey(scene: Scene) -> Played:
    """SIGKILL of the one Valkey, which is started again after five seconds."""
    with servers.valkey(scene.folder / "v", appendfsync="always") as valkey:
        scene.publish(valkey.url, {})

        async def fault() -> None:
            await asyncio.sleep(scene.at(15))
            valkey.kill()
            await asyncio.sleep(scene.at(5))
            await asyncio.to_thread(valkey.start)

        with serving(scene.work, valkey.url, cache_dir=str(scene.folder / "cache")) as server:
            return play(scene, valkey.url, Targets([server]), server, fault)


def failover(scene: Scene) -> Played:
    """SIGKILL of the primary under Sentinels, every write having waited for its replica."""
    with servers.watched(scene.folder / "w") as (url, primary):
        scene.publish(url, {})

        async def fault() -> None:
            await asyncio.sleep(scene.at(15))
            old = await asyncio.to_thread(primary)
            old.kill()
            await asyncio.sleep(scene.at(10))
            await asyncio.to_thread(old.start)  # comes back as the replica that a write waits for

        with serving(scene.work, url, cache_dir=str(scene.folder / "cache")) as server:
            return play(scene, url, Targets([server]), server, fault)


def stalled_s3(scene: Scene) -> Played:
    """The S3 server stands still for 20 s; connections are accepted and nothing is answered."""
    with servers.s3() as s3:
        url = s3.url("store", poll_s="1")
        scene.publish(url, dict(s3.environment))

        async def fault() -> None:
            await asyncio.sleep(scene.at(15))
            os.kill(s3.pid, signal.SIGSTOP)
            await asyncio.sleep(scene.at(20))
            os.kill(s3.pid, signal.SIGCONT)

        with serving(scene.work, url, environment=s3.environment, cache_dir=str(scene.folder / "cache")) as server:
            return play(scene, url, Targets([server]), server, fault)


def damaged_blobs(scene: Scene) -> Played:
    """Blobs reach the replica that scores with a flipped byte or cut short, one in ten; another one publishes."""
    with servers.valkey(scene.folder / "v") as valkey, Mangler(valkey.port) as mangler:
        scene.publish(valkey.url, {})

        async def fault() -> None:
            mangler.every = 10
            await asyncio.sleep(scene.at(50))
            mangler.every = 0

        with serving(scene.work, valkey.url) as first, serving(scene.work, mangler.url) as second:
            played = play(scene, valkey.url, Targets([second]), first, fault)
        return replace(played, damaged={"flipped": mangler.flipped, "cut": mangler.cut})


def restarted_replica(scene: Scene) -> Played:
    """The store goes, then one of two replicas is started anew from its disk cache; at last the store comes back."""
    with servers.valkey(scene.folder / "v", appendfsync="always") as valkey, contextlib.ExitStack() as stack:
        scene.publish(valkey.url, {})
        caches = [str(scene.folder / f"cache-{i}") for i in range(2)]
        first = stack.enter_context(serving(scene.work, valkey.url, cache_dir=caches[0]))
        second = stack.enter_context(contextlib.ExitStack())
        targets = Targets([first, second.enter_context(serving(scene.work, valkey.url, cache_dir=caches[1]))])
        port = int(targets.servers[1].url.rsplit(":", 1)[1])

        async def fault() -> None:
            await asyncio.sleep(scene.at(15))
            valkey.kill()
            await asyncio.sleep(scene.at(5))
            targets.servers = [first]
            await asyncio.sleep(0.5)  # what was sent to the other is answered
            await asyncio.to_thread(second.close)
            again = serving(scene.work, valkey.url, port=port, cache_dir=caches[1])
            targets.servers = [first, await asyncio.to_thread(second.enter_context, again)]
            await asyncio.sleep(scene.at(15))
            await asyncio.to_thread(valkey.start)

        return play(scene, valkey.url, targets, first, fault)


# Name, how it is played, and whether all that is asked for is on local disk, so that no fallback is allowed.
SCENES: tuple[tuple[str, Callable[[Scene], Played], bool], ...] = (
    ("SIGKILL and restart of Valkey", killed_valkey, True),
    ("Sentinel failover (WAIT 1)", failover, True),
    ("S3 stalled 20 s", stalled_s3, True),
    ("blobs flipped and truncated", damaged_blobs, False),
    ("store gone and a replica restarted", restarted_replica, True),
)


def lines(work: Workplace) -> Iterator[Line]:
    """Five lines a fault, what was damaged where something was, and how publishing went."""
    run = last_epoch_run(work)
    dyes = make_dyes(run, 40 if work.quick else 200)
    for name, scene, on_disk in SCENES:
        folder = work.folder / "faults"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        played = scene(Scene(work, run, dyes, 12.0 if work.quick else SECONDS, folder))
        yield from verdicts(name, played, on_disk)


def verdicts(name: str, played: Played, on_disk: bool) -> Iterator[Line]:
    """The lines of one fault."""
    seen = played.outcome
    total = len(seen.answers)
    for how, count in played.damaged.items():
        yield at_least(f"{name}: blobs {how} on their way to the replica", count, 1, digits=0)
    yield exactly(f"{name}: of {total} requests, not answered 200 within their deadline", seen.unanswered, 0)
    told = ", ".join(f"{count} {why}" for why, count in seen.fallbacks.items() if count) or "none"
    share = seen.fallbacks.total() / max(1, total)
    yield at_most(f"{name}: share by a fallback ({told})", share, 0.0 if on_disk else FALLBACKS, digits=4)
    yield exactly(f"{name}: answers of an unnamed or unknown revision", seen.strangers, 0)
    yield exactly(f"{name}: answers that are not what their revision says", seen.wrong, 0)
    acknowledged = len(seen.promises)
    yield exactly(f"{name}: of {acknowledged} acknowledged publishes, not there afterwards", len(played.broken), 0)
    statuses = ", ".join(f"{count} x {status or 'no answer'}" for status, count in sorted(seen.publishes.items()))
    yield measured(f"{name}: publishes", statuses)
