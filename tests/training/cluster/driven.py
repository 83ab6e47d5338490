"""A driver of its own, for the test that kills it: python -m tests.training.cluster.driven DATA OUT SETTINGS CALLS."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from benchmarks.killing import HeldEngine
from tests.training.cluster.tasks import encoded, on_cluster, task_of

if __name__ == "__main__":
    data, out, settings, calls = sys.argv[1:]
    task = task_of(*encoded(Path(data)), **json.loads(settings))
    on_cluster(task, Path(out), HeldEngine(int(calls), cpus=2), workers=2)
