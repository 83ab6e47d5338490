"""End to end over HTTP: requests a second of one server core, against the same stack around the plain backbone."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.bench import machine, ours
from benchmarks.bench.asked import COUNT, encoded, questions
from benchmarks.bench.contender import PeerAbsent
from benchmarks.bench.exposition import samples
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
    if why := ours.lacking("fp32"):
        return Web(shape.name, None, absent={BF16: why})
    run = _run(folder, shape, quick)
    store, bodies = _store(folder, run), {kind: _bodies(run, quick, kind) for kind in (JSON, MSGPACK)}
    lenient = _bodies(run, quick, strict=False)
    absent: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        targets = [stack.enter_context(_plain(folder, run, lenient))]
        servers = {}
        for precision, names in (("bf16", (BF16, BF16_BINARY)), ("fp32", (FP32, FP32_BINARY))):
            if why := ours.lacking(precision):
                absent |= dict.fromkeys(names, why)
                continue
            server = stack.enter_context(_native(folder, store, precision))
            for name, kind in zip(names, (JSON, MSGPACK), strict=True):
                servers[name] = server
                targets.append(Target(name, server.url, "/score", bodies[kind], kind, server.headers))
        for start in (mosec, litserve):
            try:
                targets.append(stack.enter_context(start(run.folder / "bundle", folder, lenient)))
            except PeerAbsent as missing:
                absent[start.__name__] = str(missing)
        with machine.on_cores(machine.client_cores()):
            trial, shares = _in_turn(targets, quick, [(each.name, PLAIN) for each in targets[1:]])
        first = next(iter(servers.values()))
        return Web(shape.name, trial, shares, stages(first), absent)


def workers(shape: Shape, folder: Path, quick: bool = False) -> Web:
    """One worker on one core, and two workers on two; the client is where there is room."""
    if why := ours.lacking("fp32") or ("" if len(machine.cores()) > 1 else "there is one core"):
        return Web(shape.name, None, absent={TWO: why})
    run = _run(folder, shape, quick)
    store, bodies = _store(folder, run), _bodies(run, quick)
    two = {machine.measured_core(), machine.cores()[-2]}
    with contextlib.ExitStack() as stack:
        targets = []
        for name, count, where in ((ONE, 1, {machine.measured_core()}), (TWO, 2, two)):
            with machine.on_cores(where):
                server = stack.enter_context(_native(folder, store, _best(), bound=False, workers=str(count)))
            targets.append(Target(name, server.url, "/score", bodies, JSON, server.headers))
        trial, shares = _in_turn(targets, quick, [(TWO, ONE)])
    return Web(shape.name, trial, shares)


def stages(server: Server) -> dict[str, float]:
    """Where the time of a request went, microseconds, from the server's own histogram."""
    sums, counts = (samples(server, f"espalier_stage_seconds_{part}", "stage") for part in ("sum", "count"))
    return {stage: 1e6 * total / counts[stage] for stage, total in sums.items() if counts.get(stage)}


def _best() -> str:
    return "fp32" if ours.lacking("bf16") else "bf16"


def _run(folder: Path, shape: Shape, quick: bool) -> Run:
    domains = 4 if quick else DOMAINS
    return make_run(folder / f"run-{shape.name}-{domains}", shape, domains)


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
    return Trial(COUNT, attempts), {n: sorted(s)[len(s) // 2] for n, s in shares.items()}


@contextlib.contextmanager
def _native(folder: Path, store: str, precision: str, *, bound: bool = True, **settings: str) -> Iterator[Server]:
    """A server of the native engine; bound to the measured core, or to where this thread is."""
    given: dict[str, Any] = {"engine": "native", "precision": precision, **quiet_settings(), **settings}
    core = machine.measured_core() if bound else None
    with serving(Workplace(folder), store, core=core, **given) as server:
        yield server


@contextlib.contextmanager
def _plain(folder: Path, run: Run, bodies: Sequence[bytes]) -> Iterator[Target]:
    store = folder / f"store-plain-{run.folder.name}"
    shutil.rmtree(store, ignore_errors=True)
    asyncio.run(publish_bundle(store.as_uri(), make_plain_bundle(run, folder / f"plain-{run.folder.name}")))
    given: dict[str, Any] = {"engine": "onnx", **quiet_settings()}
    with serving(Workplace(folder), store.as_uri(), core=machine.measured_core(), **given) as server:
        yield Target(PLAIN, server.url, "/score", bodies, JSON, server.headers)


def quiet_settings() -> dict[str, Any]:
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
    shutil.rmtree(store, ignore_errors=True)
    Workplace(folder).espalier("publish", str(run.folder), "--store", store.as_uri())
    return store.as_uri()


def _bodies(run: Run, quick: bool, kind: str = JSON, *, strict: bool = True) -> list[bytes]:
    """Strict for ours, which must score by adapters; the plain backbone has none."""
    asked = questions(len(run.domains), 8 if quick else REQUESTS, strict=strict)
    return [encoded(question, kind) for question in asked]
