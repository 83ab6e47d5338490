"""An S3 endpoint over HTTP for tests and benchmarks: moto, in a process of its own.

    with serve_s3() as server:
        backend = open_objects(server.url("store"), timeout_s=2)   # with server.env in the environment

As a program it serves until its standard input ends, so it never outlives the one that started it.
"""

from __future__ import annotations

import io
import logging
import os
import secrets
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class S3Server:
    """An S3 endpoint with one bucket.

    Args:
        endpoint: http://127.0.0.1:port
        bucket: Name of the bucket.
        env: Environment variables with the credentials.
        pid: Of the server, to be stalled by SIGSTOP and woken by SIGCONT; 0 where there is none to stall.
    """

    endpoint: str
    bucket: str
    env: dict[str, str] = field(repr=False)
    pid: int = 0

    def url(self, prefix: str, *, endpoint: str | None = None, scheme: str = "s3", **options: object) -> str:
        """The URL of a store in this bucket; `endpoint` may be that of a proxy before it."""
        query = {"endpoint": endpoint or self.endpoint, "region": "us-east-1", **options}
        return f"{scheme}://{self.bucket}/{prefix}?" + "&".join(
            f"{k}={quote(str(v), safe='')}" for k, v in query.items()
        )


def credentials(access: str = "test", secret: str = "test") -> dict[str, str]:
    """The environment of a client; what else the shell may say of AWS is blanked by the caller, or not there."""
    return {"AWS_ACCESS_KEY_ID": access, "AWS_SECRET_ACCESS_KEY": secret, "AWS_REGION": "us-east-1"}


@contextmanager
def serve_s3() -> Iterator[S3Server]:
    """Start moto on a free port of the loopback with one new bucket; stop it at the end."""
    command = [sys.executable, "-m", "tests.servers.s3"]
    environment = {**os.environ, **credentials()}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stdout is not None
            words = server.stdout.readline().split()
            if len(words) != 2:
                raise RuntimeError("moto did not start: see its message above")
            yield S3Server(words[0], words[1], credentials(), server.pid)
        finally:
            server.kill()


Environ = dict[str, Any]
App = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]


class OneAtATime:
    """A WSGI application whose requests follow each other.

    moto checks a condition and writes in two steps. In threads two writers could both pass the check, which no real
    endpoint lets happen.
    """

    def __init__(self, app: App) -> None:
        self._app = app
        self._lock = threading.Lock()

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Read the body, which may stall, and only then take the lock."""
        if environ.get("CONTENT_LENGTH"):
            length = int(environ["CONTENT_LENGTH"])
            body = environ["wsgi.input"].read(length)
            if len(body) < length:
                start_response("400 Bad Request", [("Content-Length", "0")])
                return []
            environ["wsgi.input"] = io.BytesIO(body)
        with self._lock:
            return list(self._app(environ, start_response))


def main() -> None:
    """Serve until standard input ends; prints the endpoint and the bucket."""
    import boto3
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    app = OneAtATime(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=MotoRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint, bucket = f"http://127.0.0.1:{server.server_port}", f"espalier-{secrets.token_hex(4)}"
    boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket=bucket)
    print(endpoint, bucket, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
