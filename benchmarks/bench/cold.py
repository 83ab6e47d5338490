"""A domain's first 100 scores, cold from Redis or from the local prepared blob, against the same scores warm."""

from __future__ import annotations

import asyncio
import shutil
import statistics
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.bench import machine, ours
from benchmarks.bench.asked import COUNT, encoded, questions
from benchmarks.bench.exposition import samples
from benchmarks.bench.load import JSON, Target, once
from benchmarks.bench.rounds import ROUNDS, Seconds, Trial, ratio
from benchmarks.bench.served import make_run
from benchmarks.bench.shapes import Shape
from benchmarks.bench.web import quiet_settings
from benchmarks.claims import servers
from benchmarks.claims.workplace import Server, Workplace, serving

COLD, WARM = "cold", "warm"
Source = Literal["redis", "prepared"]
WARM_TURNS = 9
OUTCOMES = "espalier_prepared_blobs_total"
PATIENCE_S = 10.0


@dataclass(frozen=True)
class Cold:
    """One network and precision, measured.

    Args:
        shape: name of the network.
        precision: of the native engine.
        source: where the cold adapter comes from.
        trial: seconds of a request of 100 items; a round is a domain, its warm seconds are a median.
        loads: domains that were loaded in the last attempt.
        blobs: how many of these loads took a prepared blob, as the server counts them.
        absent: why there is none.
    """

    shape: str
    precision: str
    source: str
    trial: Trial | None = None
    loads: int = 0
    blobs: int = 0
    absent: str = ""


@dataclass(frozen=True)
class _Setting:
    """What a server is started with.

    Args:
        work: folder of its files.
        store: URL.
        settings: of the service.
        domains: to load.
    """

    work: Workplace
    store: str
    settings: dict[str, Any]
    domains: int

    def serving(self, **more: Any) -> AbstractContextManager[Server]:
        """A server on the measured core."""
        return serving(self.work, self.store, core=machine.measured_core(), **{**self.settings, **more})


def first_scores(shape: Shape, precision: str, source: Source, folder: Path, quick: bool = False) -> Cold:
    """Each round is another domain: its first request, then the same again; one domain before warms what is shared."""
    if why := ours.lacking(precision):
        return Cold(shape.name, precision, source, absent=why)
    domains = 4 if quick else 2 * ROUNDS + 1
    run = make_run(folder / f"cold-{shape.name}-{domains}", shape, domains)
    work, used = Workplace(folder), 0
    with servers.valkey(servers.fresh(folder / "valkey")) as valkey:
        work.espalier("publish", str(run.folder), "--store", valkey.url)
        settings = {"engine": "native", "precision": precision, **quiet_settings()}
        setting = _Setting(work, valkey.url, settings, domains)

        def attempt() -> Seconds:
            nonlocal used
            if source == "redis":
                with setting.serving() as server:
                    return _rounds(server, domains)
            seconds, used = _from_blobs(setting, folder / f"cache-{shape.name}-{precision}")
            return seconds

        attempts = [attempt()]
        if ratio(attempts[0], WARM, COLD).unsteady:
            attempts.append(attempt())
    trial = Trial(COUNT, attempts)
    return Cold(shape.name, precision, source, trial, domains, used)


def _from_blobs(setting: _Setting, cache: Path) -> tuple[Seconds, int]:
    """Load all domains with a disk cache, restart on it, and load them again; how many then took a prepared blob."""
    shutil.rmtree(cache, ignore_errors=True)
    with setting.serving(cache_dir=str(cache)) as server:
        _rounds(server, setting.domains)
        _wait_for_blobs(server, setting.domains)
    with setting.serving(cache_dir=str(cache)) as server:
        seconds = _rounds(server, setting.domains)
        return seconds, int(samples(server, OUTCOMES, "outcome").get("used", 0))


def _wait_for_blobs(server: Server, domains: int) -> None:
    """Until as many are kept as were loaded: they are written behind the load, and a stop leaves the rest out."""
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        outcomes = samples(server, OUTCOMES, "outcome")
        if outcomes.get("kept", 0) + outcomes.get("skipped", 0) >= domains:
            return
        time.sleep(0.2)


def _rounds(server: Server, domains: int) -> Seconds:
    """Cold and warm seconds of every domain but the first."""
    found: Seconds = {COLD: [], WARM: []}
    for i, question in enumerate(questions(domains, domains, strict=True)):
        bodies = [encoded(question)] * (1 + WARM_TURNS)
        with machine.on_cores(machine.client_cores()):
            first, *again = asyncio.run(once(Target(COLD, server.url, "/score", bodies, JSON, server.headers)))
        if i:
            found[COLD].append(first)
            found[WARM].append(statistics.median(again))
    return found
