"""`espalier demo`: it ends whole."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from benchmarks.forge import Run
from service.token_writing import add_token
from tests.cli.serving import environment, file_store, free_port, wait_closed, wait_ready

SCRIPT = "import sys; from pathlib import Path; from cli.demo import serve; serve(Path(sys.argv[1]), *sys.argv[2:])"


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGHUP], ids=lambda each: each.name)
def test_a_stop_of_the_demo_stops_its_server(random_run: Run, tmp_path: Path, ending: signal.Signals) -> None:
    """Law: no server is left behind, and a stop is no error."""
    store, port = asyncio.run(file_store(tmp_path / "store", random_run)), free_port()
    add_token(tmp_path / "tokens.yaml", "demo", ["score"])
    (tmp_path / "run").symlink_to(random_run.folder)
    demo = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path), store, str(port), str(tmp_path / "tokens.yaml")],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    servers: list[psutil.Process] = []
    try:
        wait_ready(demo, f"http://127.0.0.1:{port}")
        servers = psutil.Process(demo.pid).children()
        demo.send_signal(ending)
        out, _ = demo.communicate(timeout=60)
        wait_closed("127.0.0.1", port)
    finally:
        demo.kill()
        for server in servers:
            if server.is_running():
                server.kill()
    assert (demo.returncode, len(servers)) == (0, 1)
    assert "Stopped." in out
