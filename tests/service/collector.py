"""A collector of traces as tests need it: OTLP over HTTP on a free port, decoded by the protocol's own definitions."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span


@dataclass
class Received:
    """What came so far.

    Args:
        spans: in order of arrival.
        resources: attributes of the processes that sent them.
        paths: asked for.
        answers: status of the next answers; 200 when there is none left.
    """

    port: int = 0
    spans: list[Span] = field(default_factory=list)
    resources: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    arrived: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        """Base URL, as a service is told it."""
        return f"http://127.0.0.1:{self.port}"

    def trace(self, trace_id: str) -> list[Span]:
        """The spans of one trace."""
        return [span for span in self.spans if span.trace_id.hex() == trace_id]


def attributes(values: list[KeyValue]) -> dict[str, str | int]:
    """Attributes by name."""
    return {
        each.key: each.value.int_value if each.value.HasField("int_value") else each.value.string_value
        for each in values
    }


@contextmanager
def collector() -> Iterator[Received]:
    """A collector that listens until the end."""
    received = Received()

    class Collecting(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status = received.answers.pop(0) if received.answers else 200
            received.paths.append(self.path)
            if status == 200:
                for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                    received.resources.append(attributes(list(resource.resource.attributes)))  # type: ignore[arg-type]
                    received.spans.extend(span for scope in resource.scope_spans for span in scope.spans)
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()
            received.arrived.set()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Collecting)
    server.daemon_threads = True
    received.port = server.server_address[1]
    listening = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    listening.start()
    try:
        yield received
    finally:
        server.shutdown()
        server.server_close()
        listening.join()
