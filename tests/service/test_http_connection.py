"""The connection and the edge on a real server: header bounds, refused bodies, request ids, unexpected errors."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
import pytest
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from service.access_log import AccessLog
from service.clock import LoopClock
from service.edge import Edge, tell_problem
from service.limits import read_body
from service.logs import open_log
from service.metrics import Metrics
from tests.service.live import exchange, listening, settings_of

LIMIT_BYTES = 1 << 20


@dataclass(frozen=True)
class Live:
    """A small app behind our edge on a real server."""

    port: int
    log: io.StringIO
    metrics: Metrics

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"


async def take(request: Request) -> Response:
    """Reads a bounded body and says its size."""
    body = await read_body(request.receive, request.headers, LIMIT_BYTES, 0.2)
    return Response(str(len(body)))


async def fail(request: Request) -> Response:
    """Fails in a way that nobody expected."""
    raise KeyError("a secret")


@asynccontextmanager
async def edge(**given: object) -> AsyncIterator[Live]:
    """The app over a server with these settings."""
    stream = io.StringIO()
    log = open_log(stream=stream)
    metrics = Metrics(log)
    app = FastAPI(redirect_slashes=False)
    app.add_route("/take", take, methods=["POST"])
    app.add_route("/fail", fail, methods=["GET"])
    app.add_exception_handler(HTTPException, tell_problem)
    clock = LoopClock()
    access = AccessLog(log, metrics.registry, share=0.0, clock=clock)
    app.add_middleware(Edge, metrics=metrics, log=log, access=access, clock=clock, header_bytes=4096, linger_s=1.0)
    async with listening(app, settings_of(**given)) as port:
        yield Live(port, stream, metrics)


async def test_a_sane_request_id_is_kept_and_any_other_replaced() -> None:
    """A client can follow its request; it cannot write what it likes into our log."""
    async with edge() as live, httpx.AsyncClient(base_url=live.url) as client:
        kept = await client.post("/take", headers={"X-Request-Id": "trace-1.a:b_c"})
        replaced = await client.post("/take", headers={"X-Request-Id": 'x" level=error'})
        drawn = await client.post("/take")
        token = await client.post("/take", headers={"X-Request-Id": "esp_" + "x" * 43})
    assert kept.headers["x-request-id"] == "trace-1.a:b_c"
    assert replaced.headers["x-request-id"].isalnum()
    assert token.headers["x-request-id"].isalnum()
    assert drawn.headers["x-request-id"] != replaced.headers["x-request-id"]


async def test_an_oversized_body_gets_its_413_though_the_client_sends_all_of_it() -> None:
    """The refusal leaves at once, and the connection is not reset under a client that is still sending."""
    async with edge() as live, httpx.AsyncClient(base_url=live.url) as client:
        answer = await client.post("/take", content=bytes(32 << 20))
    assert answer.status_code == 413
    assert answer.headers["connection"] == "close"
    assert answer.json()["type"].endswith("body-too-large")


async def test_an_oversized_stream_gets_its_413() -> None:
    """A body without an announced length is cut at the limit."""

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield bytes(256 << 10)

    async with edge() as live, httpx.AsyncClient(base_url=live.url) as client:
        answer = await client.post("/take", content=endless())
    assert answer.status_code == 413


async def test_a_slow_body_gets_408() -> None:
    """A client that stops sending does not hold its place."""
    head = b"POST /take HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc"
    async with edge() as live:
        answer = await exchange(live.port, head)
    assert answer.startswith(b"HTTP/1.1 408")


async def test_a_client_that_leaves_during_its_body_is_counted_and_nothing_fails() -> None:
    """A disconnect is no error of ours."""
    head = b"POST /take HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc"
    async with edge() as live:
        _, writer = await asyncio.open_connection("127.0.0.1", live.port)
        writer.write(head)
        await writer.drain()
        writer.close()
        await writer.wait_closed()
    # the server ends only when every request has ended
    assert b'status="499"' in live.metrics.exposition()
    assert live.log.getvalue() == ""


async def test_headers_over_the_limit_get_431() -> None:
    """Complete headers that are too large are told so as a problem."""
    async with edge() as live, httpx.AsyncClient(base_url=live.url) as client:
        answer = await client.post("/take", headers={"X-Padding": "a" * 5000})
    assert answer.status_code == 431
    assert answer.headers["content-type"] == "application/problem+json"


async def test_trailers_are_dropped() -> None:
    """Headers behind a chunked body reach nobody, however many there are."""
    head = b"POST /take HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n3\r\nabc\r\n0\r\n"
    async with edge() as live:
        answer = await exchange(live.port, head + b"X-Trailer: a\r\n" * 1000 + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(b"3")


async def test_headers_that_never_end_are_cut_off() -> None:
    """Memory for headers is bounded before they are complete."""
    async with edge(header_bytes=8192) as live:
        answer = await exchange(live.port, b"GET / HTTP/1.1\r\nX: ", *[b"a" * 4096] * 8)
    assert answer.startswith(b"HTTP/1.1 431")


@pytest.mark.parametrize("start", [b"", b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: "])
async def test_headers_that_do_not_come_close_the_connection(start: bytes) -> None:
    """A silent connection is not kept for ever, whether or not it began a request."""
    async with edge(header_read_s=0.1) as live:
        assert await asyncio.wait_for(exchange(live.port, start), 10) == b""


async def test_a_second_request_on_a_connection_has_its_own_header_time() -> None:
    """Slow headers are cut off behind an answered request too."""
    request = b"POST /take HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\na"
    async with edge(header_read_s=0.2) as live:
        answer = await asyncio.wait_for(exchange(live.port, request, request, b"POST /ta"), 10)
    assert answer.count(b"HTTP/1.1 200") == 2


async def test_a_refused_request_without_a_body_keeps_its_connection() -> None:
    """Only unread bytes are a reason to close."""
    async with edge() as live, httpx.AsyncClient(base_url=live.url) as client:
        answer = await client.get("/nowhere")
    assert answer.status_code == 404
    assert "connection" not in answer.headers


async def test_an_expected_continue_is_not_asked_for_when_the_body_is_refused() -> None:
    """A client that waits for 100 Continue hears the refusal instead."""
    head = b"POST /take HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 9999999\r\n\r\n"
    async with edge() as live:
        answer = await exchange(live.port, head, until=b"}")
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"100 Continue" not in answer


async def test_an_unexpected_error_is_a_500_that_the_log_explains() -> None:
    """The client learns the request's id, the log the cause; the log holds no local variables."""
    async with edge() as live, httpx.AsyncClient(base_url=live.url) as client:
        answer = await client.get("/fail", headers={"X-Request-Id": "find-me"})
    assert answer.status_code == 500
    assert "secret" not in answer.text
    line, told = map(json.loads, live.log.getvalue().splitlines())
    assert line["request_id"] == told["request_id"] == "find-me"
    assert (told["event"], told["status"], told["error"]) == ("request", 500, "KeyError")
    assert line["exception"][0]["exc_type"] == "KeyError"
    assert "locals" not in json.dumps(line["exception"])


async def test_requests_are_counted_by_template_and_status() -> None:
    """A path that no route has is one label, whatever it says."""
    async with edge() as live, httpx.AsyncClient(base_url=live.url) as client:
        for path in ("/a", "/b/c", "/take"):
            await client.get(path)
        shown = live.metrics.exposition().decode()
    assert 'espalier_requests_total{route="unmatched",status="404"} 2.0' in shown
    assert 'espalier_requests_total{route="/take",status="405"} 1.0' in shown
