"""Other servers around the same plain backbone, on the measured core."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx

from benchmarks.bench import machine
from benchmarks.bench.contender import PeerAbsent
from benchmarks.bench.load import Target
from benchmarks.bench.plain_service import BUNDLE
from benchmarks.claims.workplace import ROOT, free_port

PATIENCE_S = 60.0


@contextlib.contextmanager
def mosec(bundle: Path, folder: Path, bodies: Sequence[bytes]) -> Iterator[Target]:
    """mosec: its front in Rust, one Python worker with dynamic batches.

    Raises:
        PeerAbsent: it is not installed, or does not start.
    """
    port = free_port()
    options = ["--address", "127.0.0.1", "--port", str(port), "--timeout", "60000"]
    with _started("mosec", options, port, bundle, folder, "/inference", bodies) as target:
        yield target


@contextlib.contextmanager
def litserve(bundle: Path, folder: Path, bodies: Sequence[bytes]) -> Iterator[Target]:
    """LitServe: one API server, one worker with dynamic batches.

    Raises:
        PeerAbsent: it is not installed, or does not start.
    """
    port = free_port()
    with _started("litserve", [str(port)], port, bundle, folder, "/predict", bodies) as target:
        yield target


@contextlib.contextmanager
def _started(
    name: str, options: Sequence[str], port: int, bundle: Path, folder: Path, path: str, bodies: Sequence[bytes]
) -> Iterator[Target]:
    if importlib.util.find_spec(name) is None:
        raise PeerAbsent(f"{name} is not installed: pip install -c constraints.txt {name}")
    command = [sys.executable, "-m", f"benchmarks.bench.{name}_app", *options]
    with (folder / f"{name}.log").open("ab") as log, machine.on_cores({machine.measured_core()}):
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=log, stderr=log, env={**os.environ, BUNDLE: str(bundle)}, start_new_session=True
        )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait(process, f"{url}{path}", bodies[0], folder / f"{name}.log")
        yield Target(name, url, path, bodies)
    finally:
        # its workers are in its own session, so all of them end
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait(process: subprocess.Popen[bytes], url: str, body: bytes, log: Path) -> None:
    """Until it answers a real request with 200."""
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            headers = {"Content-Type": "application/json"}
            if httpx.post(url, content=body, headers=headers, timeout=PATIENCE_S).status_code == 200:
                return
        time.sleep(0.1)
    raise PeerAbsent(f"it does not answer: {log.read_text(errors='replace')[-500:]}")
