"""Ray, and a hand that kills its processes in the middle of their work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import psutil

from training.cluster.engine import ShardOf, WorkerOf
from training.cluster.ray_engine import RayEngine

_HELD = "held"
_WAIT_S = 60.0


class KillingEngine(RayEngine):
    """Ray started here; one of its processes is killed as soon as some call of a worker has begun.

    Args:
        victims: number of the call, from 1 and over all restarts, to the place (shards first) of who is killed then.
        cpus: logical processors, one for each worker.
        object_store_bytes: of the Ray that is started.
    """

    def __init__(self, victims: Mapping[int, int], cpus: int, object_store_bytes: int = 100 * 2**20) -> None:
        super().__init__(None, cpus, object_store_bytes, start_timeout_s=120)
        self._victims = victims
        self._calls = 0
        self._pids: list[int] = []
        self.killed: list[int] = []

    def start(self, shards: int, shard_of: ShardOf, workers: int, worker_of: WorkerOf) -> list[dict[str, Any]]:
        """Make actors, and remember their processes."""
        places = super().start(shards, shard_of, workers, worker_of)
        self._pids = [place["pid"] for place in places]
        return places

    def begin(self, worker: int, method: str, *arguments: Any) -> None:
        """Call a worker; then kill whose turn it is."""
        super().begin(worker, method, *arguments)
        self._calls += 1
        if self._calls in self._victims:
            self.killed.append(self._pids[self._victims[self._calls]])
            os.kill(self.killed[-1], signal.SIGKILL)


class HeldEngine(RayEngine):
    """Ray started here, whose driver says so and stands still once so many rounds have begun: its kill is no race.

    Args:
        calls: rounds of workers, from 1.
        cpus: logical processors, one for each worker.
        object_store_bytes: of the Ray that is started.
    """

    def __init__(self, calls: int, cpus: int, object_store_bytes: int = 100 * 2**20) -> None:
        super().__init__(None, cpus, object_store_bytes, start_timeout_s=120)
        self._left = calls

    def begin(self, worker: int, method: str, *arguments: Any) -> None:
        """Call a worker, and count it."""
        super().begin(worker, method, *arguments)
        self._left -= 1

    def finished(self) -> tuple[int, Any]:
        """Wait for any worker, or for the end."""
        if self._left <= 0:
            print(_HELD, flush=True)
            sys.stdin.read()
        return super().finished()


def kill_held(command: Sequence[str], **popen: Any) -> list[psutil.Process] | None:
    """Start a driver that has a `HeldEngine`, and kill it where it stands still.

    Ray's agents, which look after a node and not after this training, go by themselves about a minute after a killed
    driver, and are not looked at.

    Args:
        command: of the driver.
        popen: more for `subprocess.Popen`.

    Returns:
        Its processes that are alive a minute later; None where it ended before it stood still.
    """
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **popen) as driver:
        assert driver.stdout is not None
        if not any(line.strip() == _HELD.encode() for line in driver.stdout):
            return None
        family = [process for process in psutil.Process(driver.pid).children(recursive=True) if not _agent(process)]
        driver.send_signal(signal.SIGKILL)
    if not family:
        return None
    psutil.wait_procs(family, timeout=_WAIT_S)
    return [process for process in family if process.is_running() and not _dead(process)]


def _agent(process: psutil.Process) -> bool:
    try:
        return "Agent" in process.name()
    except psutil.NoSuchProcess:
        return True


def _dead(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True
