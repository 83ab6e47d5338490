"""Tracing against a real receiver of OTLP over HTTP, and without one; and that it costs nothing while it is off."""

from __future__ import annotations

import asyncio
import io
import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from benchmarks.forge import Run
from service.logs import open_log
from service.metrics import STAGES
from service.refusals import SettingsInvalid
from service.tracing import EXPORT_S, Tracing, open_tracing, traces_url
from tests.service.collector import Received, attributes, collector
from tests.service.live import Live, espalier

PATIENT: dict[str, Any] = {"cold_wait_ms": 60_000, "deadline_ms": 60_000, "log_share": 1.0}
USER, ITEM = "user-4711-of-nobody", "item-4711-of-nobody"
BODY = {"user_id": USER, "domain_id": "theme-1", "item_ids": [ITEM, "item-1"]}
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00"
CONTEXT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-(00|01)")


@asynccontextmanager
async def traced(run: Run, received: Received, share: float = 0.0) -> AsyncIterator[Live]:
    """A service that sends its spans to a collector; they have arrived when it ends."""
    log = open_log(stream=io.StringIO())
    async with (
        open_tracing(received.url, share=share, replica="replica-1", log=log) as tracing,
        espalier(run, **PATIENT, tracing=tracing) as live,
    ):
        yield live


async def test_a_request_of_a_sampled_trace_is_a_span_with_its_stages_below(random_run: Run) -> None:
    """Law: the span continues the caller's trace, names what scored, and has a child for each stage within its time."""
    with collector() as received:
        async with traced(random_run, received) as live:
            headers = {"traceparent": SAMPLED, "tracestate": "vendor=1", "X-Request-Id": "find-me"}
            answer = await live.client.post("/score", json=BODY, headers=headers)
            (line,) = [line for line in live.lines if line["event"] == "request"]
    (root,) = [span for span in received.trace(TRACE) if span.parent_span_id.hex() == PARENT]
    assert CONTEXT.fullmatch(answer.headers["traceparent"]).groups() == (TRACE, root.span_id.hex(), "01")  # type: ignore[union-attr]
    told = {"http.route": "/score", "http.response.status_code": 200, "espalier.request_id": "find-me"}
    told |= {"espalier.domain": "theme-1", "espalier.alias": "live", "espalier.rows": 2}
    assert told.items() <= attributes(list(root.attributes)).items()
    assert (root.name, root.kind, root.trace_state) == ("POST /score", root.SPAN_KIND_SERVER, "vendor=1")
    stages = [span for span in received.trace(TRACE) if span is not root]
    assert {span.name for span in stages} == set(STAGES)
    for span in stages:
        assert span.parent_span_id == root.span_id
        assert root.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
        assert span.end_time_unix_nano <= root.end_time_unix_nano
    assert abs(root.start_time_unix_nano / 1e9 - time.time()) < 60.0
    assert line["trace_id"] == TRACE
    assert {"service.name": "espalier", "service.instance.id": "replica-1"}.items() <= received.resources[0].items()
    assert set(received.paths) == {"/v1/traces"}


async def test_no_span_names_a_user_or_an_item(random_run: Run) -> None:
    """Law: what leaves for the collector holds no id of the request's body."""
    with collector() as received:
        async with traced(random_run, received, share=1.0) as live:
            await live.client.post("/score", json=BODY)
            await live.client.post("/score", json=BODY | {"strict": True})
            await live.client.post("/score", json=BODY | {"context": {USER: ITEM}})
    assert len({span.trace_id for span in received.spans}) == 3
    sent = b"".join(span.SerializeToString() for span in received.spans)
    assert USER.encode() not in sent
    assert ITEM.encode() not in sent


async def test_the_caller_decides_whether_its_trace_is_sampled(random_run: Run) -> None:
    """Law: parent-based: a context that says no is carried on and sends nothing, whatever the share; one that says
    yes is sent though the share is 0; without a context the share decides."""
    with collector() as received:
        async with traced(random_run, received, share=1.0) as live:
            no = await live.client.post("/score", json=BODY, headers={"traceparent": UNSAMPLED})
            own = await live.client.post("/score", json=BODY)
        async with traced(random_run, received, share=0.0) as live:
            none = await live.client.post("/score", json=BODY)
    assert CONTEXT.fullmatch(no.headers["traceparent"]).group(1, 3) == (TRACE, "00")  # type: ignore[union-attr]
    drawn, sampled = CONTEXT.fullmatch(own.headers["traceparent"]).group(1, 3)  # type: ignore[union-attr]
    assert sampled == "01"
    assert {span.trace_id.hex() for span in received.spans} == {drawn}
    assert CONTEXT.fullmatch(none.headers["traceparent"]).group(3) == "00"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "context",
    ["", "nonsense", f"ff-{TRACE}-{PARENT}-01", f"00-{'0' * 32}-{PARENT}-01", SAMPLED + "0" * 200, f"{SAMPLED}-more"],
)
async def test_a_malformed_context_begins_a_trace_of_its_own(random_run: Run, context: str) -> None:
    """Law: what is no W3C context is ignored, logged by nobody, and the request is answered."""
    with collector() as received:
        async with traced(random_run, received) as live:
            headers = {"traceparent": context, "tracestate": "x=" + "y" * 600}
            answer = await live.client.post("/score", json=BODY, headers=headers)
            assert [line["event"] for line in live.lines if line["level"] != "info"] == []
    assert answer.status_code == 200
    assert CONTEXT.fullmatch(answer.headers["traceparent"]).group(1) != TRACE  # type: ignore[union-attr]


async def test_a_fault_marks_its_span(random_run: Run) -> None:
    """Law: a 5xx is an error of the span, by its class; a refusal of the caller's fault is none."""
    with collector() as received:
        async with traced(random_run, received, share=1.0) as live:
            await live.client.post("/score", json=BODY, headers={"X-Deadline-Ms": "0.001", "traceparent": SAMPLED})
            await live.client.post("/score", json={}, headers={"traceparent": SAMPLED.replace(TRACE, "1" * 32)})
    late = next(span for span in received.trace(TRACE) if span.parent_span_id.hex() == PARENT)
    wrong = next(span for span in received.trace("1" * 32) if span.parent_span_id.hex() == PARENT)
    assert late.status.code == late.status.STATUS_CODE_ERROR
    assert attributes(list(late.attributes))["error.type"] == "DeadlineExceeded"
    assert wrong.status.code == wrong.status.STATUS_CODE_UNSET


async def test_without_tracing_no_context_is_answered(random_run: Run) -> None:
    """Law: off means off: the header is neither read nor written."""
    async with espalier(random_run, **PATIENT) as live:
        answer = await live.client.post("/score", json=BODY, headers={"traceparent": SAMPLED})
    assert "traceparent" not in answer.headers


async def test_a_collector_that_never_answers_delays_neither_the_loop_nor_the_end() -> None:
    """Law: spans are sent beside the event loop, and closing gives up after its bound."""
    with socket.create_server(("127.0.0.1", 0), backlog=16) as deaf:
        stream = io.StringIO()
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        async with open_tracing(url, share=1.0, replica="replica-1", log=open_log(stream=stream)) as tracing:
            assert tracing is not None
            longest, before = 0.0, time.monotonic()
            for _ in range(3000):  # beyond the size of a batch, so that one is sent now
                spans(tracing)
            for _ in range(50):
                await asyncio.sleep(0.002)
                longest, before = max(longest, time.monotonic() - before - 0.002), time.monotonic()
            closing = time.monotonic()
            await tracing.close(within_s=0.2)
            closed_s = time.monotonic() - closing
    assert closed_s < EXPORT_S - 0.5  # whoever waited for the collector waited for as long as an export may take
    assert longest < EXPORT_S - 0.5


async def test_a_collector_that_is_away_is_told_in_the_log_and_nothing_else_happens() -> None:
    """Law: the library's warnings become lines of ours; requests go on."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    stream = io.StringIO()
    async with open_tracing(url, share=1.0, replica="replica-1", log=open_log(stream=stream)) as tracing:
        assert tracing is not None
        spans(tracing)
        await tracing.close(within_s=0.3)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert lines
    assert {line["logger"].partition(".")[0] for line in lines} == {"opentelemetry"}


async def test_a_header_that_cannot_be_read_is_told_without_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: the library quotes what it cannot read of the collector's headers; our log never does."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "Authorization: Bearer key-of-the-collector")
    stream = io.StringIO()
    async with open_tracing("http://127.0.0.1:9", share=1.0, replica="r", log=open_log(stream=stream)):
        pass
    assert "key-of-the-collector" not in stream.getvalue()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    (line,) = [line for line in lines if line["logger"] == "opentelemetry.util.re"]
    assert "OTEL_EXPORTER_OTLP_HEADERS" in line["event"]


def spans(tracing: Tracing) -> None:
    """Make the span of one request."""
    from starlette.datastructures import Headers

    from service.account import Account

    begun = tracing.begin(Headers(), time.monotonic())
    told: dict[str, Any] = {"route": "/score", "method": "POST", "status": 200, "request_id": "r"}
    begun.end(**told, account=Account(), ended=time.monotonic())


def python(code: str) -> subprocess.CompletedProcess[str]:
    """Run code in an interpreter of its own."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)


def test_a_service_without_an_endpoint_never_imports_what_makes_or_sends_spans() -> None:
    """Law: tracing that is off costs no import, so the extra need not be installed. What else there is of the library
    is imported by FastAPI (its API) and redis-py (the metrics of its SDK, where it is installed), not by us."""
    code = """
import sys, service.server, cli.main
ours = ("opentelemetry.sdk.trace", "opentelemetry.exporter", "google.protobuf")
print([name for name in sys.modules if name.startswith(ours)])
"""
    done = python(code)
    assert done.stdout.strip() == "[]", done.stderr


def test_a_missing_library_is_named_with_the_extra_that_brings_it() -> None:
    """Law: an endpoint without OpenTelemetry stops the start and says what to install."""
    code = """
import asyncio, io, sys
sys.modules["opentelemetry"] = None
from service.logs import open_log
from service.tracing import open_tracing
async def main():
    async with open_tracing("http://127.0.0.1:1", share=0, replica="r", log=open_log(stream=io.StringIO())):
        pass
try:
    asyncio.run(main())
except Exception as error:
    print(type(error).__name__, error)
"""
    said = python(code).stdout
    assert said.startswith("SettingsInvalid the service cannot start: otlp_endpoint is set")
    assert "pip install 'espalier[tracing]'" in said


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        ("http://collector:4318", "http://collector:4318/v1/traces"),
        ("https://collector/otlp/", "https://collector/otlp/v1/traces"),
        ("http://collector:4318/v1/traces", "http://collector:4318/v1/traces"),
    ],
)
def test_the_endpoint_is_a_base_url(endpoint: str, url: str) -> None:
    """Law: traces go to /v1/traces below it, as the protocol says."""
    assert traces_url(endpoint) == url


@pytest.mark.parametrize(
    "endpoint", ["collector:4318", "grpc://collector", "http://me:hunter2@collector", "http://c?k=hunter2"]
)
def test_an_endpoint_with_a_secret_or_of_another_kind_is_refused_without_being_shown(endpoint: str) -> None:
    """Law: a secret in the URL could stand in a library's error, so it has to stand elsewhere."""
    with pytest.raises(SettingsInvalid, match="otlp_endpoint must be a URL") as refused:
        traces_url(endpoint)
    assert "hunter2" not in str(refused.value)
