"""The access log: a line for a share of the requests, each fault within bounds, nobody's id."""

from __future__ import annotations

import io
import json
from typing import Any

from benchmarks.forge import Run, digest
from service.access_log import AccessLog
from service.account import Account
from service.logs import open_log
from service.metrics import STAGES, Metrics
from tests.service.clockwork import ManualClock
from tests.service.live import Live, adapter, espalier

PATIENT: dict[str, Any] = {"cold_wait_ms": 60_000, "deadline_ms": 60_000}
USER, ITEM = "user-4711-of-nobody", "item-4711-of-nobody"
BODY = {"user_id": USER, "domain_id": "theme-1", "item_ids": [ITEM, "item-1"]}


def opened(share: float, *draws: float) -> tuple[AccessLog, io.StringIO, ManualClock, Metrics]:
    """An access log with what it is drawn from, its stream, its clock and its metrics."""
    stream, clock = io.StringIO(), ManualClock()
    log = open_log(stream=stream)
    metrics = Metrics(log)
    drawn = iter(draws)
    return (
        AccessLog(log, metrics.registry, share=share, clock=clock, draw=lambda: next(drawn, 0.999)),
        stream,
        clock,
        metrics,
    )


def requests(live: Live) -> list[dict[str, Any]]:
    """The lines of requests so far."""
    return [line for line in live.lines if line["event"] == "request"]


async def test_a_scored_request_is_told_with_what_scored_it_and_no_user_or_item(random_run: Run) -> None:
    """Law: route, status, token, domain, rows, revision and time by stage; users and items are never in the log."""
    async with espalier(random_run, **PATIENT, log_share=1.0) as live:
        answer = await live.client.post("/score", json=BODY, headers={"X-Request-Id": "find-me"})
        (line,) = requests(live)
        assert USER not in live.log.getvalue()
        assert ITEM not in live.log.getvalue()
    assert answer.json()["unknown_user"]
    told = {"route": "/score", "method": "POST", "status": 200, "request_id": "find-me", "by": "admin", "rows": 2}
    served = answer.json()["served"]
    told |= {"domain": "theme-1", "alias": "live", "generation": 1, "backbone": served["backbone"]}
    assert told.items() <= line.items()
    assert line["revision"] == digest((random_run.folder / "adapters" / "theme-1.safetensors").read_bytes())
    assert line["stages"].keys() == set(STAGES)
    assert 0.0 < sum(line["stages"].values()) <= line["seconds"]
    assert "fallback" not in line


async def test_a_fallback_and_a_refusal_are_told_by_name(random_run: Run) -> None:
    """Law: the line says why the live revision did not score, and which error refused the request."""
    async with espalier(random_run, **PATIENT, log_share=1.0) as live:
        await live.client.post("/score", json=BODY | {"domain_id": "nobody-knows"})
        await live.client.post("/score", json=BODY | {"domain_id": "nobody-knows", "strict": True})
        await live.client.get("/adapters/theme-1")
        fell_back, refused, read = requests(live)
    assert (fell_back["fallback"], "revision" in fell_back) == ("unknown_domain", False)
    assert (refused["status"], refused["error"], refused["domain"]) == (404, "UnknownDomain", "nobody-knows")
    assert (read["route"], read["by"]) == ("/adapters/{domain}", "admin")


async def test_without_a_share_only_faults_are_told(random_run: Run) -> None:
    """Law: log_share 0 leaves out what was answered and what the caller did wrong, and keeps what we did wrong."""
    async with espalier(random_run, **PATIENT, log_share=0.0) as live:
        await live.client.post("/score", json=BODY)
        await live.client.post("/score", json={})
        await live.client.post("/score", json=BODY, headers={"X-Deadline-Ms": "0.001"})
        (line,) = requests(live)
    assert (line["status"], line["error"], line["level"]) == (504, "DeadlineExceeded", "warning")


async def test_no_body_of_any_route_reaches_the_log(random_run: Run) -> None:
    """Law: a malformed body is refused without being quoted in the log."""
    async with espalier(random_run, **PATIENT, log_share=1.0) as live:
        await live.client.post("/score", json=BODY | {USER: 1})
        await live.client.post("/score", content=f'{{"user_id": "{USER}", '.encode())
        await live.client.post("/score", json=BODY | {"context": {USER: ITEM}})
        assert len(requests(live)) == 3
        assert USER not in live.log.getvalue()
        assert ITEM not in live.log.getvalue()


def test_the_share_decides() -> None:
    """Law: a request gets a line if its draw is below the share."""
    access, *_ = opened(0.25, 0.0, 0.24, 0.25, 0.9)
    assert [access.wants(200) for _ in range(4)] == [True, True, False, False]
    assert not access.wants(499)


async def test_faults_are_told_within_a_bound_and_the_rest_is_counted() -> None:
    """Law: a flood of faults writes so many lines at once and so many a second; the metric counts those left out."""
    access, stream, clock, metrics = opened(0.0)
    for _ in range(300):
        if access.wants(503):
            access.tell(route="/score", method="POST", status=503, seconds=0.1, request_id="r", account=Account())
    assert len(stream.getvalue().splitlines()) == 200
    assert b"espalier_log_lines_dropped_total 100.0" in metrics.exposition()
    await clock.advance(2.0)
    assert sum(access.wants(503) for _ in range(300)) == 100


def test_a_stage_that_is_gone_through_twice_is_told_as_one() -> None:
    """Law: seconds of one stage add up, as when a request is scored again by the backbone."""
    account = Account()
    for began, ended in ((0.0, 0.25), (1.0, 1.5)):
        account.stage("engine", began, ended)
    access, stream, *_ = opened(1.0)
    access.tell(route="/score", method="POST", status=200, seconds=2.0, request_id="r", account=account)
    assert json.loads(stream.getvalue())["stages"] == {"engine": 0.75}


async def test_a_publish_is_told_as_a_request_too(random_run: Run) -> None:
    """Law: every route has lines, with the template of its path."""
    async with espalier(random_run, **PATIENT, log_share=1.0) as live:
        await live.publish("theme-1", adapter(random_run, "theme-1", "avg"))
        (line,) = requests(live)
    assert (line["route"], line["by"], line["status"]) == ("/adapters/{domain}", "admin", 201)
