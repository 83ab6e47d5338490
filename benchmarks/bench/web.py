"""End to end over HTTP: requests a second of one server core, against the same stack around the plain backbone."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from benchmarks.bench import machine, ours
from benchmarks.bench.asked import encoded, questions
from benchmarks.bench.contender import PeerAbsent
from benchmarks.bench.load import JSON, MSGPACK, Target, burst, once
from benchmarks.bench.peers_web import litserve, mosec
from benchmarks.bench.rounds import ROUNDS, Seconds, Trial, ratio
from benchmarks.bench.served import make_plain_bundle, make_run
from benchmarks.bench.shapes import Shape
from benchmarks.claims.store_features import publish_bundle
from benchmarks.claims.workplace import Server, Workplace, serving
from benchmarks.forge import Run

PLAIN = "same HTTP stack, plain backbone in ONNX Runtime"
BF16, BF16_BINARY = "native bf16, JSON", "native bf16, binary body"
FP32, FP32_BINARY = "native fp32, JSON", "native fp32, binary body"
ONE, TWO = "one worker", "two workers"
DOMAINS, REQUESTS = 32, 256
WINDOW_S = 3.0


@dataclass(frozen=True)
class Web:
    """One network, measured.

    Args:
        shape: name of the network.
        trial: seconds a request; None where it could not be measured.
        client_share: of one core that the client took, median over windows, by name.
        stages: of one request of the first of ours, microseconds by the clock on the wall, by stage.
        absent: who could not take part, and why.
    """

    shape: str
    trial: Trial | None
    client_share: dict[str, float] = field(default_factory=dict)
    stages: dict[str, float] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)


def one_core(shape: Shape, folder: Path, quick: bool = False) -> Web:
    """All servers on one core, asked in turn from another."""
    run = make_run(folder / f"run-{shape.name}", shape, 4 if quick else DOMAINS)
    bodies = {kind: _bodies(run, kind, quick) for kind in (JSON, MSGPACK)}
    absent: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        targets = [_plain(stack, folder, run, bodies[JSON])]
        servers = {}
        for precision, names in (("bf16", (BF16, BF16_BINARY)), ("fp32", (FP32, FP32_BINARY))):
            if precision == "bf16" and not {"avx512_bf16", ours.AMX} & set(ours.instruction_sets()):
                absent |= dict.fromkeys(names, "the processor has no bfloat16 products, or the extension is missing")
                continue
            server = stack.enter_context(_native(folder, _store(folder, run), precision))
            for name, kind in zip(names, (JSON, MSGPACK), strict=True):
                servers[name] = server
                targets.append(Target(name, server.url, "/score", bodies[kind], kind, server.headers))
        for start in (mosec, litserve):
            try:
                targets.append(stack.enter_context(start(run.folder / "bundle", folder, bodies[JSON])))
            except PeerAbsent as why:
                absent[start.__name__] = str(why)
        with machine.on_cores(machine.client_cores()):
            trial, shares = _in_turn(targets, quick, [(each.name, PLAIN) for each in targets[1:]])
        first = next(iter(servers.values()))
        return Web(shape.name, trial, shares, stages(first), absent)


def workers(shape: Shape, folder: Path, quick: bool = False) -> Web:
    """One worker on one core, and two workers on two; the client is where there is room."""
    if len(machine.cores()) < 2:
        return Web(shape.name, None, absent={TWO: "there is one core"})
    run = make_run(folder / f"run-{shape.name}", shape, 4 if quick else DOMAINS)
    store, bodies = _store(folder, run), _bodies(run, JSON, quick)
    two = {machine.measured_core(), machine.cores()[-2]}
    with contextlib.ExitStack() as stack:
        targets = []
        for name, count, where in ((ONE, 1, {machine.measured_core()}), (TWO, 2, two)):
            with machine.on_cores(where):
                server = stack.enter_context(_native(folder, store, _best(), workers=str(count), core=None))
            targets.append(Target(name, server.url, "/score", bodies, JSON, server.headers))
        trial, shares = _in_turn(targets, quick, [(TWO, ONE)])
    return Web(shape.name, trial, shares)


def stages(server: Server) -> dict[str, float]:
    """Where the time of a request went, microseconds, from the server's own histogram."""
    text = httpx.get(f"{server.url}/metrics", headers=server.headers).raise_for_status().text
    found: dict[str, dict[str, float]] = {"sum": {}, "count": {}}
    pattern = r'^espalier_stage_seconds_(sum|count)\{[^}]*stage="(\w+)"[^}]*\} (\S+)$'
    for part, stage, value in re.findall(pattern, text, re.MULTILINE):
        found[part][stage] = found[part].get(stage, 0.0) + float(value)
    counts = found["count"]
    return {stage: 1e6 * total / counts[stage] for stage, total in found["sum"].items() if counts.get(stage)}


def _best() -> str:
    return "bf16" if {"avx512_bf16", ours.AMX} & set(ours.instruction_sets()) else "fp32"


def _in_turn(
    targets: Sequence[Target], quick: bool, watched: Sequence[tuple[str, str]]
) -> tuple[Trial, dict[str, float]]:
    """Windows in alternation, once more if unsteady."""
    rounds, seconds = (3, 0.3) if quick else (ROUNDS, WINDOW_S)
    shares: dict[str, list[float]] = {target.name: [] for target in targets}

    def attempt() -> Seconds:
        found: Seconds = {target.name: [] for target in targets}
        for _ in range(rounds):
            for target in targets:
                seen = asyncio.run(burst(target, seconds))
                found[target.name].append(seen.seconds)
                shares[target.name].append(seen.client_share)
        return found

    for target in targets:
        asyncio.run(once(target))  # every domain becomes resident, on some worker
        asyncio.run(burst(target, seconds))
    attempts = [attempt()]
    if any(ratio(attempts[0], name, base).unsteady for name, base in watched):
        attempts.append(attempt())
    return Trial(len(questions(1, 1)[0]["item_ids"]), attempts), {n: sorted(s)[len(s) // 2] for n, s in shares.items()}


@contextlib.contextmanager
def _native(folder: Path, store: str, precision: str, core: int | None = -1, **settings: str) -> Iterator[Server]:
    given = {"engine": "native", "precision": precision, **quiet_settings(), **settings}
    chosen = machine.measured_core() if core == -1 else core
    with serving(Workplace(folder), store, core=chosen, **given) as server:
        yield server


def _plain(stack: contextlib.ExitStack, folder: Path, run: Run, bodies: Sequence[bytes]) -> Target:
    store = folder / f"store-plain-{run.folder.name}"
    if not store.exists():
        asyncio.run(publish_bundle(store.as_uri(), make_plain_bundle(run, folder / f"plain-{run.folder.name}")))
    given = {"engine": "onnx", **quiet_settings()}
    server = stack.enter_context(serving(Workplace(folder), store.as_uri(), core=machine.measured_core(), **given))
    return Target(PLAIN, server.url, "/score", bodies, JSON, server.headers)


def quiet_settings() -> dict[str, str]:
    """Settings of a server that is measured: nothing else to do in between, and time to load what is cold."""
    return {
        "feed": "false",
        "reconcile_s": "3600",
        "prewarm_s": "0",
        "cold_wait_ms": "60000",
        "deadline_ms": "60000",
        "log_share": "0",
        "engine_threads": "1",
    }


def _store(folder: Path, run: Run) -> str:
    store = folder / f"store-{run.folder.name}"
    if not store.exists():
        Workplace(folder).espalier("publish", str(run.folder), "--store", store.as_uri())
    return store.as_uri()


def _bodies(run: Run, kind: str, quick: bool) -> list[bytes]:
    count = 8 if quick else REQUESTS
    return [encoded(question, kind) for question in questions(len(run.domains), count)]
