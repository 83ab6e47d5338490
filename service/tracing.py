"""Spans of requests by OpenTelemetry, sent to a collector as OTLP over HTTP; off unless an endpoint is set.

The library is imported when tracing is opened, and only then: without an endpoint it need not be installed, and a
request costs one comparison with None. A span of a request is begun with its headers, because the answer carries its
context; the spans of its stages are made from the times in its account once the answer has left. They leave on a thread
of the library's own, from a bounded queue; the event loop never waits for the collector.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from structlog.typing import FilteringBoundLogger

from service.account import Account
from service.logs import Forward
from service.refusals import SettingsInvalid

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.context import Context
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span

TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"
PATH = "/v1/traces"
EXPORT_S = 5.0  # one batch, all its retries included
CLOSE_S = 2.0
_GIVE_UP_S = 0.5
_QUEUE_SPANS = 4096
_BATCH_SPANS = 512
_EVERY_MS = 2000.0
_PARENT_CHARACTERS = 128
_STATE_CHARACTERS = 512
_NS = 1_000_000_000
_FAULTS = 500


class RequestSpan:
    """The span of one request while it is answered.

    Args:
        tracing: whose.
        span: of the library; one that records nothing where the request is not sampled.
        offset_ns: between `Clock.now()` and the epoch.
    """

    __slots__ = ("_offset_ns", "_span", "_tracing", "traceparent")

    def __init__(self, tracing: Tracing, span: Span, offset_ns: int) -> None:
        self._tracing = tracing
        self._span = span
        self._offset_ns = offset_ns
        context = span.get_span_context()
        self.traceparent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags & 1:02x}"

    @property
    def trace_id(self) -> str | None:
        """Of a request that is sampled, in hex."""
        return f"{self._span.get_span_context().trace_id:032x}" if self._span.is_recording() else None

    def end(self, *, route: str, method: str, status: int, request_id: str, account: Account, ended: float) -> None:
        """The answer has left: name what happened and add a span for each stage.

        Args:
            route: template of the route.
            method: of HTTP.
            status: answered.
            request_id: as answered.
            account: of the request.
            ended: `Clock.now()` seconds.
        """
        span = self._span
        if not span.is_recording():
            return
        for name, began, stage_ended in account.stages:
            self._tracing.stage(span, name, self._ns(began), self._ns(stage_ended))
        span.update_name(f"{method} {route}")
        known: dict[str, str | int | None] = {
            "http.request.method": method,
            "http.route": route,
            "http.response.status_code": status,
            "espalier.request_id": request_id,
            "espalier.domain": account.domain,
            "espalier.rows": account.rows,
            "espalier.revision": account.revision,
            "espalier.alias": account.alias,
            "espalier.fallback": account.fallback,
            "error.type": account.error,
        }
        span.set_attributes({name: value for name, value in known.items() if value is not None})
        if status >= _FAULTS:
            self._tracing.fault(span)
        span.end(self._ns(ended))

    def _ns(self, at: float) -> int:
        return int(at * _NS) + self._offset_ns


class Tracing:
    """Begins spans; opened by `open_tracing`.

    Args:
        exporter: takes the spans, on a thread of the library's.
        share: of the requests traced whose caller does not decide.
        resource: attributes of this process.
    """

    def __init__(self, exporter: SpanExporter, *, share: float, resource: dict[str, str]) -> None:
        from opentelemetry import trace
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._closed = False
        self._exporter = exporter
        self._processor = BatchSpanProcessor(
            exporter,
            max_queue_size=_QUEUE_SPANS,
            max_export_batch_size=_BATCH_SPANS,
            schedule_delay_millis=_EVERY_MS,
        )
        provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(share)), resource=Resource.create(resource), shutdown_on_exit=False
        )
        provider.add_span_processor(self._processor)
        self._tracer = provider.get_tracer("espalier")
        self._trace = trace
        self._propagator = TraceContextTextMapPropagator()
        self._root = trace.set_span_in_context(trace.INVALID_SPAN)

    def begin(self, headers: Headers, began: float) -> RequestSpan:
        """Begin the span of a request, under the caller's if its headers name one.

        Args:
            headers: of the request.
            began: `Clock.now()` seconds.
        """
        now_ns = time.time_ns()
        parent = self._parent(headers) if TRACEPARENT in headers else self._root
        span = self._tracer.start_span("request", context=parent, kind=self._trace.SpanKind.SERVER, start_time=now_ns)
        return RequestSpan(self, span, now_ns - int(began * _NS))

    def _parent(self, headers: Headers) -> Context:
        """The caller's context; none where it is not well-formed or there are two of them."""
        contexts = headers.getlist(TRACEPARENT)
        states = headers.getlist(TRACESTATE)
        # the library would log each that is too long, which lets a stranger fill the log
        if len(contexts) != 1 or len(contexts[0]) > _PARENT_CHARACTERS:
            return self._root
        if sum(len(state) + 1 for state in states) > _STATE_CHARACTERS:
            states = []
        return self._propagator.extract({TRACEPARENT: contexts, TRACESTATE: states}, self._root)

    def stage(self, parent: Span, name: str, began_ns: int, ended_ns: int) -> None:
        """Add the span of a stage that is over."""
        context = self._trace.set_span_in_context(parent)
        self._tracer.start_span(name, context=context, start_time=began_ns).end(ended_ns)

    def fault(self, span: Span) -> None:
        """The request failed by the service's fault."""
        span.set_status(self._trace.StatusCode.ERROR)

    async def close(self, within_s: float = CLOSE_S) -> None:
        """Send what is left, or give it up after this many seconds; a second time does nothing."""
        if self._closed:
            return
        self._closed = True
        loop = asyncio.get_running_loop()
        sent = asyncio.Event()

        def finish() -> None:
            self._processor.shutdown()  # type: ignore[no-untyped-call]  # the library leaves its type out
            with suppress(RuntimeError):  # the loop is closed: nobody waits any longer
                loop.call_soon_threadsafe(sent.set)

        # a daemon: whatever the collector does, the process ends
        threading.Thread(target=finish, name="espalier-tracing-close", daemon=True).start()
        with suppress(TimeoutError):
            await asyncio.wait_for(sent.wait(), within_s)
        if not sent.is_set():
            self._exporter.shutdown()
            with suppress(TimeoutError):  # what waited to try again ends now, and says so while it is heard
                await asyncio.wait_for(sent.wait(), _GIVE_UP_S)


@asynccontextmanager
async def open_tracing(
    endpoint: str | None, *, share: float, replica: str, log: FilteringBoundLogger
) -> AsyncIterator[Tracing | None]:
    """Tracing to a collector for as long as the service runs; None, and nothing is imported, without an endpoint.

    Args:
        endpoint: base URL of the collector, such as http://collector:4318; its path for traces may stand behind it.
        share: of the requests traced whose caller does not decide.
        replica: names this process.
        log: told what the library warns of.

    Raises:
        SettingsInvalid: the endpoint is no such URL, or OpenTelemetry is not installed.
    """
    if endpoint is None:
        yield None
        return
    check_tracing(endpoint)
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    url = traces_url(endpoint)
    resource = {"service.name": "espalier", "service.instance.id": replica}
    with _forwarded(log):
        tracing = Tracing(OTLPSpanExporter(endpoint=url, timeout=EXPORT_S), share=share, resource=resource)
        try:
            yield tracing
        finally:
            await tracing.close()


def check_tracing(endpoint: str | None) -> None:
    """Whether traces could be sent; the collector is not asked.

    Raises:
        SettingsInvalid: the endpoint is none, or what sends traces is not installed.
    """
    if endpoint is None:
        return
    traces_url(endpoint)
    try:
        import opentelemetry.exporter.otlp.proto.http.trace_exporter
        import opentelemetry.sdk.trace  # noqa: F401  # looked for, not used
    except ImportError as error:
        raise SettingsInvalid(
            f"the service cannot start: otlp_endpoint is set, but OpenTelemetry is not installed ({error.name}): "
            "pip install 'espalier[tracing]', or leave otlp_endpoint out"
        ) from error


def traces_url(endpoint: str) -> str:
    """Where a collector takes traces.

    Raises:
        SettingsInvalid: the endpoint is no URL of HTTP, or carries a secret that an error message could show.
    """
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SettingsInvalid("the service cannot start: otlp_endpoint must be a URL such as http://collector:4318")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise SettingsInvalid(
            "the service cannot start: otlp_endpoint must be a URL without user, password and query; "
            "what a collector asks for stands in the variable OTEL_EXPORTER_OTLP_HEADERS"
        )
    base = endpoint.rstrip("/")
    return base if base.endswith(PATH) else base + PATH


@contextmanager
def _forwarded(log: FilteringBoundLogger) -> Iterator[None]:
    logger: Any = logging.getLogger("opentelemetry")
    forward = Forward(log)
    forward.addFilter(_without_headers)
    logger.addHandler(forward)
    try:
        yield
    finally:
        logger.removeHandler(forward)


def _without_headers(record: logging.LogRecord) -> bool:
    if record.name == "opentelemetry.util.re":  # it quotes the header that it cannot read, and headers hold keys
        record.msg = "OTEL_EXPORTER_OTLP_HEADERS has a part that is no name=value; it is left out"
        record.args = ()
    return True
