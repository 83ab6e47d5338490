"""A driver on a running Ray, for its test: python -m tests.training.cluster.joined DATA OUT SETTINGS HOST:PORT."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.training.cluster.tasks import encoded, on_cluster, task_of
from training.cluster.ray_engine import RayEngine

if __name__ == "__main__":
    data, out, settings, address = sys.argv[1:]
    task = task_of(*encoded(Path(data)), **json.loads(settings))
    engine = RayEngine(address, cpus=1, object_store_bytes=100 * 2**20, start_timeout_s=120)
    on_cluster(task, Path(out), engine, workers=1)
