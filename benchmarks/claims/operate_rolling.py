"""Replicas that come and go behind HAProxy, which follows their readiness and never sends a request twice."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.claims import servers
from benchmarks.claims.line import Line, at_most, exactly, measured, not_measurable
from benchmarks.claims.load import Outcome, Targets, backbone_scores, under_load
from benchmarks.claims.served import last_epoch_run
from benchmarks.claims.swaps import Dyes, make_dyes
from benchmarks.claims.workplace import ROOT, Server, Workplace, free_port, new_token, wait_ready
from benchmarks.forge import Run

CHECK_MS = 100
DRAIN_DELAY_S = 1.0
SECONDS = 20.0
_CONFIG = """\
global
    maxconn 2000
defaults
    mode http
    retries 0
    timeout connect 1s
    timeout client 30s
    timeout server 30s
frontend entry
    bind 127.0.0.1:{port}
    default_backend replicas
backend replicas
    balance roundrobin
    option httpchk
    http-check send meth GET uri /healthz/ready
    http-check expect status 200
    default-server check inter {check_ms}ms fall 1 rise 1
{servers}
"""


@dataclass
class Replica:
    """One `espalier serve` that can be stopped by SIGTERM and started again on its port.

    Args:
        store: URL.
        tokens: the file of tokens that all replicas share.
        folder: for its log and cache.
    """

    store: str
    tokens: Path
    folder: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it is ready."""
        command = [str(Path(sys.executable).with_name("espalier")), "serve"]
        command += ["--port", str(self.port), "--tokens", str(self.tokens)]
        given = {
            "ESPALIER_STORE": self.store,
            "ESPALIER_DRAIN_DELAY_S": str(DRAIN_DELAY_S),
            "ESPALIER_CACHE_DIR": str(self.folder / str(self.port)),
        }
        log = self.folder / f"replica-{self.port}.log"
        with log.open("ab") as sink:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=sink, stderr=sink, env={**os.environ, **given})
        wait_ready(f"http://127.0.0.1:{self.port}", self.process, log, 60)

    def stop(self) -> tuple[int, float]:
        """SIGTERM; exit status, and the seconds until it ended."""
        assert self.process is not None
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60), time.monotonic() - began


@contextlib.contextmanager
def behind_haproxy(binary: str, replicas: list[Replica], folder: Path) -> Iterator[str]:
    """The replicas started, and the URL of a proxy in front of them."""
    port = free_port()
    lines = "\n".join(f"    server r{i} 127.0.0.1:{replica.port}" for i, replica in enumerate(replicas))
    config = folder / "haproxy.cfg"
    config.write_text(_CONFIG.format(port=port, check_ms=CHECK_MS, servers=lines))
    with contextlib.ExitStack() as stack, (folder / "haproxy.log").open("wb") as log:
        for replica in replicas:
            replica.start()
            stack.callback(_end, replica)
        proxy = subprocess.Popen([binary, "-db", "-f", str(config)], stdout=log, stderr=log)
        stack.callback(proxy.wait)
        stack.callback(proxy.terminate)
        url = f"http://127.0.0.1:{port}"
        wait_ready(url, proxy, folder / "haproxy.log", 30)
        yield url


def _end(replica: Replica) -> None:
    assert replica.process is not None
    if replica.process.poll() is None:
        replica.process.kill()
        replica.process.wait()


@dataclass(frozen=True)
class Scene:
    """What is played on: a store with the trained run, its dyes, and a load of so many seconds."""

    binary: str
    work: Workplace
    run: Run
    dyes: Dyes
    seconds: float

    def play(
        self, count: int, act: Callable[[list[Replica], list[tuple[int, float]]], Awaitable[None]]
    ) -> tuple[Outcome, list[tuple[int, float]]]:
        """Load and dye swaps through the proxy while `act` stops and starts replicas; what they ended with."""
        folder = servers.fresh(self.work.folder / "rolling")
        folder.mkdir()
        tokens, ended = folder / "tokens.yaml", list[tuple[int, float]]()
        token = new_token(self.work, tokens)
        with servers.valkey(folder / "v", requirepass=self.work.password("rolling")) as valkey:
            self.work.espalier("publish", str(self.run.folder), "--store", valkey.url)
            replicas = [Replica(valkey.url, tokens, folder) for _ in range(count)]
            with behind_haproxy(self.binary, replicas, folder) as url:
                entry = Server(url, 0, token, 0.0)
                fault = act(replicas, ended)
                outcome = asyncio.run(under_load(Targets([entry]), entry, self.dyes, self.seconds, lambda: fault))
                outcome.judge(self.dyes, backbone_scores(self.run, self.dyes))
        return outcome, ended


async def one_leaves(replicas: list[Replica], ended: list[tuple[int, float]]) -> None:
    """SIGTERM of the first."""
    await asyncio.sleep(3)
    ended.append(await asyncio.to_thread(replicas[0].stop))


async def each_restarts(replicas: list[Replica], ended: list[tuple[int, float]]) -> None:
    """One after the other ends and comes back, the next when it is ready again."""
    for replica in replicas:
        await asyncio.sleep(2)
        ended.append(await asyncio.to_thread(replica.stop))
        await asyncio.to_thread(replica.start)
    await asyncio.sleep(1)


def lines(work: Workplace) -> Iterator[Line]:
    """Both scenes."""
    binary = shutil.which("haproxy")
    if binary is None:
        yield not_measurable("replicas behind a proxy", "0 failed", "haproxy is not installed (Debian: haproxy)")
        return
    run = last_epoch_run(work)
    scene = Scene(binary, work, run, make_dyes(run), 8.0 if work.quick else SECONDS)
    for what, count, act in (
        ("SIGTERM of one of 2 replicas under load", 2, one_leaves),
        ("rolling restart of 3 replicas in a dye storm", 3, each_restarts),
    ):
        outcome, ended = scene.play(count, act)
        yield measured(f"{what}: requests, publishes", f"{len(outcome.answers)}, {dict(outcome.publishes)}")
        yield exactly(f"{what}: requests not answered 200 in time", outcome.unanswered, 0)
        reasons = f" ({', '.join(sorted(outcome.fallbacks))})" if outcome.fallbacks else ""
        yield exactly(f"{what}: answers by a fallback{reasons}", sum(outcome.fallbacks.values()), 0)
        yield exactly(f"{what}: answers that are not what their revision says", outcome.wrong + outcome.strangers, 0)
        refused = sum(number for status, number in outcome.publishes.items() if status not in (200, 201, 202))
        yield exactly(f"{what}: publishes refused or unanswered", refused, 0)
        yield exactly(f"{what}: exit statuses of what was stopped", sorted({status for status, _ in ended}), [0])
        yield at_most(f"{what}: longest end", max(seconds for _, seconds in ended), DRAIN_DELAY_S + 10, " s", 1)
