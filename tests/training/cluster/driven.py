"""A driver of its own, for the test that kills it: python -m tests.training.cluster.driven DATA OUT SETTINGS."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.training.cluster.tasks import encoded, on_cluster, task_of
from training.cluster.ray_engine import RayEngine

if __name__ == "__main__":
    data, out, settings = sys.argv[1:]
    on_cluster(
        task_of(*encoded(Path(data)), **json.loads(settings)),
        Path(out),
        RayEngine(None, cpus=2, object_store_bytes=100 * 2**20, start_timeout_s=120),
        workers=2,
    )
