"""A store on a real Ceph RGW, where Ceph is installed."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from urllib.parse import quote

from benchmarks.claims.servers import KEYS, Store
from benchmarks.claims.workplace import ROOT

# run as a program of its own, for nothing of tests/ is imported here
PROGRAM = """
import sys
from pathlib import Path
from tests.servers.ceph import missing_programs, serve_ceph
missing = missing_programs()
if missing:
    sys.exit(print("missing", *missing))
with serve_ceph(Path(sys.argv[1])) as server:
    keys = [server.env[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION")]
    print("started", server.endpoint, server.bucket, *keys, flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def ceph_store() -> Iterator[Store | str]:
    """An empty store on a Ceph started for it, or in words what this machine lacks."""
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, folder], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as server,
    ):
        assert server.stdout is not None
        said, *words = server.stdout.readline().split()
        if said == "missing":
            yield f"install the Debian packages that `make test-ceph` names (no {', '.join(words)})"
            return
        endpoint, bucket, *keys = words
        url = f"s3://{bucket}/claims?endpoint={quote(endpoint, safe='')}&region={keys[2]}"
        yield Store("Ceph RGW", url, dict(zip(KEYS, keys, strict=True)))
        assert server.stdin is not None
        server.stdin.close()
