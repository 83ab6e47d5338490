"""Laws of what is answered beside FastAPI: faster, and in nothing else different."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import httpx
import pytest
import pytest_asyncio
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from benchmarks.forge import Run
from service.access_log import AccessLog
from service.account import Account
from service.clock import LoopClock
from service.direct import DirectApp
from service.edge import Edge, tell_problem
from service.logs import open_log
from service.metrics import STAGES, Metrics
from service.scorer import ScoreRequest
from tests.service.live import Live, espalier

pytestmark = pytest.mark.asyncio(loop_scope="module")

BODY: dict[str, Any] = {"user_id": 7, "domain_id": "theme-1", "item_ids": ["item-1", "item-2", "item-3"]}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def live(random_run: Run) -> AsyncIterator[Live]:
    """A service with patience, so that no cold start becomes a fallback."""
    async with espalier(random_run, cold_wait_ms=60_000, deadline_ms=60_000, header_bytes=4096) as opened:
        yield opened


@asynccontextmanager
async def small_app() -> AsyncIterator[tuple[httpx.AsyncClient, io.StringIO, Metrics]]:
    """Two routes that fail, answered directly within a real edge; its client, log and metrics."""
    stream = io.StringIO()
    log = open_log(stream=stream)
    metrics, clock = Metrics(log), LoopClock()
    access = AccessLog(log, metrics.registry, share=0.0, clock=clock)
    edge = partial(Edge, metrics=metrics, log=log, access=access, clock=clock, header_bytes=4096)

    async def fail(request: Request) -> Response:
        raise KeyError("a secret")

    async def refuse(request: Request) -> Response:
        raise HTTPException(418)

    app = DirectApp(edge, redirect_slashes=False)
    app.add_direct_route("POST", "/fail", fail)
    app.add_direct_route("GET", "/refuse", refuse)
    app.add_exception_handler(HTTPException, tell_problem)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        yield client, stream, metrics


async def test_scoring_asks_no_layer_of_fastapi(random_run: Run) -> None:
    """Law: FastAPI builds its layers for the first request that comes to it, and a POST /score never does."""
    async with espalier(random_run, cold_wait_ms=60_000, deadline_ms=60_000) as live:
        scored = await live.client.post("/score", json=BODY)
        before = live.app.middleware_stack
        other = await live.client.get("/score")
        after = live.app.middleware_stack
    assert (scored.status_code, other.status_code) == (200, 405)
    assert (before is None, after is None) == (True, False)


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (BODY, {}),
        (BODY, {"X-Request-Id": "esp_no-id"}),
        (BODY | {"domain_id": "nobody", "strict": True}, {}),
        (BODY | {"domain_id": "segment-a"}, {}),
        (BODY | {"user_id": None}, {}),
        (BODY, {"Authorization": "Bearer nobody"}),
        (BODY, {"X-Deadline-Ms": "soon"}),
        (BODY, {"X-Padding": "a" * 5000}),
        (BODY, {"Content-Type": "text/plain"}),
    ],
    ids=["scored", "bad-id", "unknown", "auxiliary", "shape", "token", "deadline", "headers", "media-type"],
)
async def test_an_answer_is_the_one_that_fastapi_would_pass_on(
    live: Live, body: dict[str, Any], headers: dict[str, str]
) -> None:
    """Law: status, headers and body of an answer are those of the same request through every layer of FastAPI."""
    given = {"Authorization": "Bearer admin", "X-Request-Id": "same", "Content-Type": "application/json", **headers}
    layered = httpx.ASGITransport(partial(FastAPI.__call__, live.app))
    async with httpx.AsyncClient(transport=layered, base_url="http://test") as client:
        through = await client.post("/score", content=json.dumps(body), headers=given)
    direct = await live.client.post("/score", content=json.dumps(body), headers=given)
    assert told(direct) == told(through)


def told(answer: httpx.Response) -> tuple[int, dict[str, str], Any]:
    """What of an answer must not differ; an id that was drawn does."""
    content, headers = answer.json(), dict(answer.headers)
    if headers["x-request-id"] != "same":
        content["request_id"], headers["x-request-id"] = "drawn", "drawn"
    return answer.status_code, headers, content


async def test_only_the_same_method_and_path_are_answered_directly(live: Live) -> None:
    """Law: whatever differs is FastAPI's to refuse, and counted by the template as before."""
    assert (await live.client.get("/score")).headers["allow"] == "POST"
    assert (await live.client.post("/score/", json=BODY)).status_code == 404
    assert (await live.client.post("/Score", json=BODY)).status_code == 404
    assert (await live.client.post("/score?x=1", json=BODY)).status_code == 200
    shown = (await live.client.get("/metrics")).text
    assert 'espalier_requests_total{route="/score",status="405"} 1.0' in shown
    assert 'espalier_requests_total{route="unmatched",status="404"} 2.0' in shown


async def test_an_error_of_a_direct_route_is_told_by_the_edge() -> None:
    """Law: an unexpected error is a 500 that names nothing and stands in the log, an HTTPException its own problem."""
    async with small_app() as (client, stream, metrics):
        failed = await client.post("/fail", headers={"X-Request-Id": "find-me"})
        refused = await client.get("/refuse")
        shown = metrics.exposition().decode()
    assert (failed.status_code, failed.json()["type"]) == (500, "urn:espalier:problem:internal-error")
    assert "secret" not in failed.text
    assert (refused.status_code, refused.headers["content-type"]) == (418, "application/problem+json")
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["route"] for line in lines if line.get("request_id") == "find-me"] == ["/fail", "/fail"]
    assert 'espalier_requests_total{route="/fail",status="500"} 1.0' in shown
    assert 'espalier_requests_total{route="/refuse",status="418"} 1.0' in shown


async def test_the_stages_of_a_request_do_not_overlap(live: Live) -> None:
    """Law: lookup, gather, queue, engine and reply share no moment, so that they add up; rows are gathered once."""
    account, clock = Account(), LoopClock()
    began = clock.now()
    await live.replica.scorer.score(ScoreRequest(**BODY, deadline=began + 60.0, account=account))
    ended = clock.now()
    spans = sorted((start, stop, name) for name, start, stop in account.stages)
    assert {name for _, _, name in spans} == set(STAGES) - {"parse", "encode"}
    assert sum(name == "gather" for _, _, name in spans) == 1
    edges = [began, *(moment for start, stop, _ in spans for moment in (start, stop)), ended]
    assert edges == sorted(edges)
    assert sum(account.seconds().values()) <= ended - began
