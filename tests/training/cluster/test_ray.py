"""Shards and workers as real actors of Ray, killed with SIGKILL. Slow: each test starts a Ray of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.killing import KillingEngine, kill_held
from tests.training.cluster.tasks import SETTINGS, ClusterFitted, Task, different, expected_entries, on_cluster, task_of
from training.cluster.errors import ClusterUnreachable, PartitionError
from training.cluster.ray_engine import RayEngine
from training.dataset import EncodedDataset, Split

ROOT = Path(__file__).resolve().parents[3]
TINY: dict[str, Any] = {"inner": {"steps": 4}, "epochs": 2, "regularization": {"others": 1, "packed": 1}}
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def task(rows: tuple[EncodedDataset, Split]) -> Task:
    """Four batches a visit, two epochs."""
    return task_of(*rows, **TINY)


@pytest.fixture(scope="module")
def undisturbed(task: Task, tmp_path_factory: pytest.TempPathFactory) -> ClusterFitted:
    """The same in one process, two workers and one shard."""
    return on_cluster(task, tmp_path_factory.mktemp("undisturbed"), workers=2)


def events(folder: Path) -> Sequence[dict[str, Any]]:
    """What the log holds so far, a line that is being written left out."""
    path = folder / "cluster.log"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def test_killed_worker_and_shard_change_nothing(task: Task, undisturbed: ClusterFitted, tmp_path: Path) -> None:
    """Law: SIGKILL of a worker and of a shard in mid-epoch: the run ends with the bits of one that was left alone."""
    engine = KillingEngine({3: 1, 12: 0}, cpus=2)  # worker 0 in regularization of epoch 1; shard 0 later
    found = on_cluster(task, tmp_path, engine, workers=2)
    assert len(engine.killed) == 2
    assert [event["event"] for event in events(tmp_path)].count("lost") == 2
    assert different(undisturbed.fitted.state, found.fitted.state) == []
    assert sorted(found.standing.ledger.entries) == expected_entries(task, 2)
    assert any(event["event"] == "again" for event in events(tmp_path))


def test_killed_driver_takes_its_cluster_along_and_is_resumed(
    task: Task, undisturbed: ClusterFitted, small_world: Path, tmp_path: Path
) -> None:
    """Law: SIGKILL of the driver in mid-epoch ends its actors and its Ray; resumed, it ends with the same bits."""
    settings = json.dumps({**SETTINGS, **TINY})
    calls = str(2 * 5)  # both workers: dn, dr and judge of epoch 1, then dn and, in its midst, dr of epoch 2
    command = [sys.executable, "-m", "tests.training.cluster.driven", str(small_world), str(tmp_path), settings, calls]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert kill_held(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL) == []
    found = on_cluster(task, tmp_path, workers=2)
    assert different(undisturbed.fitted.state, found.fitted.state) == []
    assert sorted(found.standing.ledger.entries) == expected_entries(task, 2)
    assert any(event["event"] == "again" for event in events(tmp_path))


def test_what_keeps_a_process_from_starting_is_told() -> None:
    """Law: an error of ours while a process is made comes back as it is, not as a death that a restart would mend."""

    def shard_of(index: int) -> Any:
        raise PartitionError(f"shard {index} does not see the run folder")

    engine = RayEngine(None, 1, 100 * 2**20, 120)
    try:
        with pytest.raises(PartitionError, match="shard 0 does not see the run folder"):
            engine.start(1, shard_of, 0, lambda index, link: None)
    finally:
        engine.stop()


def test_no_cluster_at_an_address_is_an_error_of_ours(task: Task, tmp_path: Path) -> None:
    """Law: an address where no Ray answers is refused with the address in the message, and nothing stays behind."""
    with pytest.raises(ClusterUnreachable, match=r"127\.0\.0\.1:1"):
        on_cluster(task, tmp_path, RayEngine("127.0.0.1:1", 1, 100 * 2**20, 5), workers=2)
