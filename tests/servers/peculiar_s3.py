"""A small S3 endpoint whose peculiarities are switched on one by one: what other servers really do, and faults.

It holds one bucket in memory, checks no signature and counts the requests that it gets.
"""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

from tests.servers.s3 import S3Server, credentials

BUCKET = "bucket"
_METADATA = "x-amz-meta-writes"


class Peculiar:
    """The state of the endpoint: objects by path, requests by method, and its peculiarities.

    Attributes:
        bare_tags: If-Match is compared as it comes with an ETag that has no quotes (Ceph RGW).
        ignores: Names of conditional headers that are not looked at.
        knows: False answers 501 to a conditional write.
        refuses: Every If-Match fails.
        failures: Method to (status, body) of every reply.
        confuses: A lost race is answered by 500, as by Ceph RGW.
        forgets: A PUT is done, and answered by 500.
        loses_replies: A PUT is done, and the connection closed without a reply.
        truncates: Bodies of GET end after half of their length.
        flips: Bodies of GET have their first byte changed.
        boasts: Bytes that GET announces beyond those that it sends.
        stalls: No reply before the server is stopped.
    """

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.metadata: dict[str, str] = {}
        self.requests: Counter[str] = Counter()
        self.bare_tags = False
        self.ignores: set[str] = set()
        self.knows = True
        self.refuses = False
        self.failures: dict[str, tuple[int, bytes]] = {}
        self.confuses = False
        self.forgets = False
        self.loses_replies = False
        self.truncates = False
        self.flips = False
        self.boasts = 0
        self.stalls = False
        self.lock = threading.Lock()
        self.stopped = threading.Event()


@contextmanager
def serve_peculiar_s3() -> Iterator[tuple[S3Server, Peculiar]]:
    """Serve on a free port of the loopback, in threads of this process; stop at the end."""
    state = Peculiar()

    class Bound(_Reply):
        peculiar = state

    with ThreadingHTTPServer(("127.0.0.1", 0), Bound) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield S3Server(f"http://127.0.0.1:{server.server_port}", BUCKET, credentials()), state
        finally:
            state.stopped.set()
            server.shutdown()
            thread.join()


def _tag(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


class _Reply(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    peculiar: ClassVar[Peculiar]

    def do_GET(self) -> None:
        if not self._failed():
            content = self.peculiar.objects.get(self._path())
            self._answer(404 if content is None else 200, content or b"", "" if content is None else _tag(content))

    do_HEAD = do_GET

    def do_DELETE(self) -> None:
        if not self._failed():
            self.peculiar.objects.pop(self._path(), None)
            self._answer(204)

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        if self._failed():
            return
        peculiar, path = self.peculiar, self._path()
        with peculiar.lock:
            status = self._condition(peculiar.objects.get(path))
            if status == 200:
                peculiar.objects[path] = content
                peculiar.metadata[path] = self.headers.get(_METADATA, "")
        if peculiar.forgets or (peculiar.confuses and status == 412):
            status = 500
        if peculiar.loses_replies:
            self.close_connection = True
        else:
            self._answer(status, tag=_tag(content))

    def _condition(self, held: bytes | None) -> int:
        peculiar = self.peculiar
        conditions = {name: self.headers[name] for name in ("If-Match", "If-None-Match") if self.headers[name]}
        if conditions and not peculiar.knows:
            return 501
        for name, value in conditions.items():
            if name in peculiar.ignores:
                continue
            if name == "If-None-Match" and held is not None:
                return 412
            tag = "" if held is None else _tag(held)
            if name == "If-Match" and (peculiar.refuses or value != (tag if peculiar.bare_tags else f'"{tag}"')):
                return 412
        return 200

    def _failed(self) -> bool:
        self.peculiar.requests[self.command] += 1
        if self.peculiar.stalls:
            self.peculiar.stopped.wait()
            self.close_connection = True
            return True
        status, body = self.peculiar.failures.get(self.command, (0, b""))
        if status:
            self._answer(status, body)
        return bool(status)

    def _answer(self, status: int, body: bytes = b"", tag: str = "") -> None:
        self.send_response(status)
        if status != 204:
            more = self.peculiar.boasts if self.command == "GET" else 0
            self.send_header("Content-Length", str(len(body) + more))
        if tag:
            self.send_header("ETag", f'"{tag}"')
            self.send_header(_METADATA, self.peculiar.metadata.get(self._path(), ""))
            self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.command == "GET" and self.peculiar.flips and body:
            body = bytes([body[0] ^ 1]) + body[1:]
        if self.command == "GET" and self.peculiar.truncates:
            body = body[: len(body) // 2]
            self.close_connection = True
        self.wfile.write(body)

    def _path(self) -> str:
        return self.path.partition("?")[0].removeprefix(f"/{BUCKET}/")

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""
