"""A driver of its own, for the test that kills it: python -m tests.training.cluster.driven DATA OUT SETTINGS CALLS.

It says `held` once CALLS rounds have begun, and from then on takes nothing in: when it is killed is no race.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tests.training.cluster.tasks import encoded, on_cluster, task_of
from training.cluster.ray_engine import RayEngine


class HeldEngine(RayEngine):
    """Ray started here, whose driver waits for its end once so many rounds have begun.

    Args:
        calls: rounds of workers, from 1.
    """

    def __init__(self, calls: int) -> None:
        super().__init__(None, cpus=2, object_store_bytes=100 * 2**20, start_timeout_s=120)
        self._left = calls

    def begin(self, worker: int, method: str, *arguments: Any) -> None:
        """Call a worker, and count it."""
        super().begin(worker, method, *arguments)
        self._left -= 1

    def finished(self) -> tuple[int, Any]:
        """Wait for any worker, or for the end."""
        if self._left <= 0:
            print("held", flush=True)
            sys.stdin.read()
        return super().finished()


if __name__ == "__main__":
    data, out, settings, calls = sys.argv[1:]
    on_cluster(task_of(*encoded(Path(data)), **json.loads(settings)), Path(out), HeldEngine(int(calls)), workers=2)
