"""Ray, and a hand that kills its processes in the middle of their work."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from typing import Any

from training.cluster.engine import ShardOf, WorkerOf
from training.cluster.ray_engine import RayEngine


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
