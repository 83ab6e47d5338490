"""`--ray HOST:PORT`: a training on a Ray that was running before, and runs on afterwards."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks.claims.workplace import free_port
from tests.training.cluster.tasks import different, figures, in_one_process, on_cluster, task_of
from training.dataset import EncodedDataset, Split

ray_util = pytest.importorskip("ray.util", reason="Ray is not installed: pip install 'espalier[cluster]'")

ROOT = Path(__file__).resolve().parents[3]
RAY = Path(sys.executable).with_name("ray")
SETTINGS: dict[str, Any] = {"framework": "dn", "inner": {"steps": 2}, "epochs": 1}
pytestmark = pytest.mark.timeout(300)


class Head:
    """`ray start --head` on free ports, with a folder and a token of its own; `stop` ends what it started, and no more.

    Args:
        folder: for its sockets and logs.
    """

    def __init__(self, folder: Path) -> None:
        self.address = f"{ray_util.get_node_ip_address()}:{free_port()}"
        ports = {"--port": self.address.rpartition(":")[2]}
        ports |= {f"--{name}-port": str(free_port()) for name in ("ray-client-server", "dashboard-agent-listen")}
        options = {**ports, "--min-worker-port": "0", "--max-worker-port": "0", "--num-cpus": "1"}
        options |= {
            "--object-store-memory": str(100 * 2**20),
            "--include-dashboard": "false",
            "--temp-dir": str(folder),
        }
        command = [str(RAY), "start", "--head", "--block", "--disable-usage-stats"]
        # workers are started by the head, not by the driver: they find this checkout by the path that it is given
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "OMP_NUM_THREADS": "1",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        }
        self._process = subprocess.Popen(
            [*command, *(f"{name}={value}" for name, value in options.items())],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self._process.stdout is not None
        said = []
        for line in self._process.stdout:
            said.append(line)
            if "Ray runtime started" in line:
                return
        raise AssertionError("".join(said))

    def processes(self) -> Sequence[psutil.Process]:
        """What it started and what those started."""
        return psutil.Process(self._process.pid).children(recursive=True)

    def stop(self) -> None:
        """End it."""
        family = self.processes()
        self._process.terminate()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
        for left in psutil.wait_procs(family, timeout=20)[1]:
            left.kill()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process.wait(20)


@pytest.fixture
def head() -> Iterator[Head]:
    """A cluster of one node with one CPU. Its folder has a short name: sockets lie in it."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True))
        started = Head(Path(folder))
        stack.callback(started.stop)
        yield started


def test_a_running_cluster_trains_as_one_process_and_stays(
    rows: tuple[EncodedDataset, Split], small_world: Path, head: Head, tmp_path: Path
) -> None:
    """Law: one worker on a Ray that somebody else started learns the single process's bits; the actors end with the
    training, the cluster does not."""
    raylets = {process.pid for process in head.processes() if "raylet" in process.name()}
    arguments = [str(small_world), str(tmp_path / "spread"), json.dumps(SETTINGS), head.address]
    command = [sys.executable, "-m", "tests.training.cluster.joined", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=head.environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    log = (tmp_path / "spread" / "cluster.log").read_text()
    started = next(event for event in map(json.loads, log.splitlines()) if event["event"] == "start")
    actors = {place["pid"] for place in (*started["shards"], *started["workers"])}
    # the cluster ends the actors of a driver that has left, a moment after it
    psutil.wait_procs([process for process in head.processes() if process.pid in actors], timeout=20)
    left = {process.pid for process in head.processes()}
    assert raylets
    assert raylets <= left
    assert not left & actors
    task = task_of(*rows, **SETTINGS)
    alone = in_one_process(task, tmp_path / "alone")
    spread = on_cluster(task, tmp_path / "spread", workers=1)  # what is finished is read, and not trained again
    assert (tmp_path / "spread" / "cluster.log").read_text() == log
    assert different(alone.state, spread.fitted.state) == []
    assert figures(spread.fitted.history) == figures(alone.history)
