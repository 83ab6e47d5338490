"""A training process killed with SIGKILL, again and again, and what it leaves in the end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from tests.training.small import SETTINGS, contents

ROOT = Path(__file__).resolve().parents[2]


def start(arguments: Sequence[str]) -> subprocess.Popen[str]:
    """`espalier train all`, its lines on a pipe."""
    command = [sys.executable, "-m", "cli.main", "train", "all", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def kill_after(arguments: Sequence[str], epochs: int) -> list[str]:
    """Kill the process as soon as it has said that this many epochs are over; the lines it said."""
    with start(arguments) as process:
        assert process.stdout is not None
        lines: list[str] = []
        for line in process.stdout:
            lines.append(line)
            if sum(" epoch " in said for said in lines) == epochs:
                break
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL, "".join(lines)
    return lines


@pytest.mark.timeout(300)
def test_killed_run_ends_as_an_uninterrupted_one(small_world: Path, finished: Path, tmp_path: Path) -> None:
    """Law: a run killed at any moment and resumed ends with the bytes of one that was not: stages 1, 2 and 3."""
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({**SETTINGS, "data": str(small_world)}))
    arguments = ["--config", str(config), "--out", str(tmp_path / "run")]
    first = kill_after(arguments, epochs=1)
    assert first[-1].startswith("pretrain epoch 1")
    arguments.append("--resume")
    for epochs in (2, 5, 5):
        kill_after(arguments, epochs)
    with start(arguments) as process:
        said = process.communicate()[0]
    assert process.returncode == 0, said
    assert "pretrain epoch" not in said
    assert contents(tmp_path / "run") == contents(finished)
