"""A server that speaks as much of the API as a load test asks for, and misbehaves on demand."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.servers.certificates import Certificates

LIVE, STRANGER = "a" * 64, "f" * 64


@dataclass
class Behaviour:
    """How the stub answers.

    Args:
        stall_at: after so many answers it stands still once.
        stall_s: for so long, for everyone.
        stranger_at: the number of the one answer that names a revision which never was live; 0 for none.
    """

    stall_at: int = 0
    stall_s: float = 0.0
    stranger_at: int = 0
    answered: int = 0
    gate: threading.Lock = field(default_factory=threading.Lock)

    def next(self) -> int:
        """Number of this answer; stands still where it has to."""
        with self.gate:
            self.answered += 1
            if self.answered == self.stall_at:
                time.sleep(self.stall_s)
            return self.answered


@contextmanager
def stub(behaviour: Behaviour, certificates: Certificates | None = None) -> Iterator[str]:
    """A running stub, over TLS where it is given certificates; its address."""

    class Answers(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # else the second small write waits for the client's acknowledgement
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            row = {"domain": "women", "effective_live": LIVE, "canary": None}
            self._reply({"adapters": [row], "next": None})

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            number = behaviour.next()
            revision = STRANGER if number == behaviour.stranger_at else LIVE
            served = {"revision": revision, "alias": "live", "fallback": None}
            scores = [0.5] * len(asked["item_ids"])
            self._reply({"scores": scores, "domain_id": asked["domain_id"], "served": served})

        def _reply(self, content: Any) -> None:
            body = json.dumps(content).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    class Server(ThreadingHTTPServer):
        def handle_error(self, *given: Any) -> None:
            """A client that refuses a certificate is no error of the stub."""

    with Server(("127.0.0.1", 0), Answers) as server:
        if certificates is not None:
            server.socket = certificates.server_side().wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http{'s' if certificates else ''}://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()


def stub_catalogue(folder: Path) -> Path:
    """A catalogue of the one domain that the stub serves."""
    lists = {"domains": ["women"], "cold": [], "users": ["1", "2"], "items": ["x", "y", "z"]}
    path = folder / "catalogue.json"
    path.write_text(json.dumps({"schema": 1, **lists, "dyes": {}}))
    return path
