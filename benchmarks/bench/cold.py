"""A domain's first 100 scores, cold from Redis or from the local prepared blob, against the same scores warm."""

from __future__ import annotations

import asyncio
import shutil
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks.bench import machine, ours
from benchmarks.bench.asked import encoded, questions
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


@dataclass(frozen=True)
class Cold:
    """One network and precision, measured.

    Args:
        shape: name of the network.
        precision: of the native engine.
        source: where the cold adapter comes from.
        trial: seconds of a request of 100 items; a round is a domain, its warm seconds are a median.
        absent: why there is none.
    """

    shape: str
    precision: str
    source: str
    trial: Trial | None = None
    absent: str = ""


def first_scores(shape: Shape, precision: str, source: Source, folder: Path, quick: bool = False) -> Cold:
    """Each round is another domain: its first request, then the same again; one domain before warms what is shared."""
    if precision == "bf16" and not {"avx512_bf16", ours.AMX} & set(ours.instruction_sets()):
        return Cold(shape.name, precision, source, absent="no bfloat16 products, or the extension is missing")
    domains = 4 if quick else 2 * ROUNDS + 1
    run = make_run(folder / f"cold-{shape.name}", shape, domains)
    work = Workplace(folder)
    cache = folder / f"cache-{shape.name}-{precision}"
    with servers.valkey(servers.fresh(folder / "valkey")) as valkey:
        work.espalier("publish", str(run.folder), "--store", valkey.url)
        settings = {"engine": "native", "precision": precision, **quiet_settings()}
        core = machine.measured_core()

        def attempt() -> Seconds:
            shutil.rmtree(cache, ignore_errors=True)
            if source == "redis":
                with serving(work, valkey.url, core=core, **settings) as server:
                    return _rounds(server, domains)
            cached = {**settings, "cache_dir": str(cache)}
            with serving(work, valkey.url, core=core, **cached) as server:
                _rounds(server, domains)  # leaves prepared blobs on the disk
                _settle(server)
            with serving(work, valkey.url, core=core, **cached) as server:
                return _rounds(server, domains)

        return Cold(shape.name, precision, source, Trial(len(questions(1, 1)[0]["item_ids"]), _attempts(attempt)))


def _attempts(attempt: Callable[[], Seconds]) -> list[Seconds]:
    attempts = [attempt()]
    if ratio(attempts[0], WARM, COLD).unsteady:
        attempts.append(attempt())
    return attempts


def _rounds(server: Server, domains: int) -> Seconds:
    """Cold and warm seconds of every domain but the first."""
    found: Seconds = {COLD: [], WARM: []}
    for i, question in enumerate(questions(domains, domains)):
        bodies = [encoded(question)] * (1 + WARM_TURNS)
        with machine.on_cores(machine.client_cores()):
            first, *again = asyncio.run(once(Target(COLD, server.url, "/score", bodies, JSON, server.headers)))
        if i:
            found[COLD].append(first)
            found[WARM].append(statistics.median(again))
    return found


def _settle(server: Server) -> None:
    """Blobs are written behind the load: answered requests later they are on the disk, as stopping waits for them."""
    asyncio.run(once(Target(WARM, server.url, "/score", [encoded(questions(1, 1)[0])] * 20, JSON, server.headers)))
