"""Laws of POST /feedback: strict, private, acknowledged from disk; scoring remembers what it needs."""

from __future__ import annotations

import io
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from adapters_store.memory import MemoryBackend
from adapters_store.store import AdapterStore
from benchmarks.forge import Run
from service.app import create_app
from service.clock import LoopClock
from service.feedback.events import MOST_EVENTS
from service.feedback.room import open_feedback
from service.logs import open_log
from service.metrics import Metrics
from service.replica import Replica
from service.routes.feedback import BODY_BYTES
from tests.service.feedback.parts import lines_of
from tests.service.live import book_of, fill, settings_of

TOKENS = {"app": ["score"], "reader": ["read"]}
SCORE = {"user_id": 7, "domain_id": "theme-1", "item_ids": ["item-1", "item-2"], "context": {"hour": 5}}
WHOSE = {"user_id": "7", "domain_id": "theme-1"}


@asynccontextmanager
async def service(run: Run, folder: Path | None, **given: object) -> AsyncIterator[httpx.AsyncClient]:
    """A service with its feedback, asked through ASGI with the token `app`."""
    settings = settings_of(feedback_dir=folder, **given)
    log = open_log(stream=io.StringIO())
    metrics, store = Metrics(log), AdapterStore(MemoryBackend(), time.time)
    await fill(store, run, ["theme-1"])
    replica = await Replica.open(store, config=settings.replica, observer=metrics, clock=LoopClock())
    await replica.start()
    try:
        async with open_feedback(settings, metrics.registry, log) as feedback:
            app = create_app(
                replica, settings=settings, tokens=book_of(TOKENS), metrics=metrics, log=log, feedback=feedback
            )
            transport, headers = httpx.ASGITransport(app), {"Authorization": "Bearer app"}
            async with httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers) as client:
                yield client
    finally:
        await replica.stop()
        await store.close()


async def test_a_scored_item_gets_its_label(random_run: Run, tmp_path: Path) -> None:
    """Law: an event that names the response is stored with what the response held, in a file, when the 200 leaves."""
    async with service(random_run, tmp_path / "f") as client:
        scored = (await client.post("/score", json=SCORE)).json()
        events = [
            {"request_id": scored["request_id"], "item_id": "item-2", "label": 1},
            {**WHOSE, "item_id": 3, "label": 0},
        ]
        reply = await client.post("/feedback", json={"events": events})
        assert reply.status_code == 200, reply.text
        assert (reply.json()["accepted"], reply.json()["matched"]) == (2, 1)
        matched, other = lines_of(tmp_path / "f")
        metrics = (await client.get("/metrics")).text
    assert (matched["user_id"], matched["domain_id"], matched["context"]) == ("7", "theme-1", {"hour": 5})
    assert (matched["score"], matched["by"]) == (scored["scores"][1], "app")
    assert (matched["revision"], matched["alias"]) == (scored["served"]["revision"], "live")
    assert (other["item_id"], other.get("matched")) == ("3", None)
    assert 'espalier_feedback_events_total{outcome="matched"} 1.0' in metrics
    names = [path.name for path in (tmp_path / "f").rglob("*.ndjson")]
    assert len(names) == 1
    assert ".open" not in names[0], "the segment is closed when the service ends"


EVENT = {**WHOSE, "item_id": "a", "label": 1}


WRONG: list[tuple[Any, str]] = [
    ({**EVENT, "label": 2}, "events[1].label"),
    ({**EVENT, "label": True}, "events[1].label"),
    ({**EVENT, "label": "1"}, "events[1].label"),
    ({**EVENT, "weight": 1}, "events[1].weight"),
    ({**WHOSE, "label": 1}, "events[1].item_id"),
    ({"item_id": "a", "label": 1}, "events[1].request_id"),
    ({"item_id": "a", "label": 1, "user_id": 7}, "events[1].domain_id"),
    ({"item_id": "a", "label": 1, "request_id": "r", "domain_id": "women"}, "events[1].user_id"),
    ({**EVENT, "domain_id": "../x"}, "events[1].domain_id"),
    ({**EVENT, "item_id": "x" * 257}, "events[1].item_id"),
    ({**EVENT, "item_id": ""}, "events[1].item_id"),
    ({**EVENT, "item_id": 2**63}, "events[1].item_id"),
    ({**EVENT, "request_id": "a b"}, "events[1].request_id"),
    ({**EVENT, "request_id": "a\n"}, "events[1].request_id"),
    (7, "events[1]"),
]


async def test_a_wrong_event_is_refused_by_its_place(random_run: Run, tmp_path: Path) -> None:
    """Law: one wrong event refuses all of the request, with 422 and the place of the fault; nothing is written."""
    async with service(random_run, tmp_path / "f") as client:
        for event, field in WRONG:
            reply = await client.post("/feedback", json={"events": [EVENT, event, EVENT]})
            assert (reply.status_code, reply.json()["field"]) == (422, field), reply.text
        for body, field in (({"events": 7}, "events"), ({"event": []}, "event"), ({}, "events")):
            reply = await client.post("/feedback", json=body)
            assert (reply.status_code, reply.json()["field"]) == (422, field), reply.text
    assert lines_of(tmp_path / "f") == []


async def test_limits_and_scopes(random_run: Run, tmp_path: Path) -> None:
    """Law: too many events, too many bytes, no JSON, no token and a token without the scope are all refused."""
    async with service(random_run, tmp_path / "f") as client:

        async def status(**options: Any) -> int:
            return (await client.post("/feedback", **options)).status_code

        assert await status(json={"events": [EVENT] * (MOST_EVENTS + 1)}) == 422
        assert await status(json={"events": []}) == 422
        assert await status(content=b" " * (BODY_BYTES + 1)) == 413
        assert await status(content=b'{"events": [') == 400
        assert await status(json={"events": [EVENT]}, headers={"Authorization": "Bearer nobody"}) == 401
        assert await status(json={"events": [EVENT]}, headers={"Authorization": "Bearer reader"}) == 403
        assert await status(json={"events": [EVENT] * MOST_EVENTS}) == 200
    assert len(lines_of(tmp_path / "f")) == MOST_EVENTS


async def test_without_a_folder_feedback_is_off(random_run: Run) -> None:
    """Law: a service that keeps no feedback says so, by a 503 of its own kind, and scores as ever."""
    async with service(random_run, None) as client:
        reply = await client.post("/feedback", json={"events": [EVENT]})
        assert (reply.status_code, reply.json()["type"]) == (503, "urn:espalier:problem:feedback-off")
        assert "feedback_dir" in reply.json()["detail"]
        assert (await client.post("/score", json=SCORE)).status_code == 200


async def test_a_full_disk_is_told_with_retry_after(random_run: Run, tmp_path: Path) -> None:
    """Law: past feedback_keep_bytes the answer is 503 feedback-full with Retry-After; scoring goes on."""
    async with service(random_run, tmp_path / "f", feedback_keep_bytes=1 << 20) as client:
        events = [{**EVENT, "item_id": f"{number}-{'x' * 200}"} for number in range(MOST_EVENTS)]
        replies = [await client.post("/feedback", json={"events": events}) for _ in range(5)]
        full = next(reply for reply in replies if reply.status_code != 200)
        assert (full.status_code, full.json()["type"]) == (503, "urn:espalier:problem:feedback-full")
        assert int(full.headers["retry-after"]) >= 1
        assert (await client.post("/score", json=SCORE)).status_code == 200
        taken = sum(reply.status_code == 200 for reply in replies)
    assert len(lines_of(tmp_path / "f")) == taken * MOST_EVENTS


async def test_the_description_holds_the_route(random_run: Run, tmp_path: Path) -> None:
    """Law: /feedback is described with its body, its problems and its token."""
    async with service(random_run, tmp_path / "f") as client:
        operation = (await client.get("/openapi.json")).json()["paths"]["/feedback"]["post"]
    assert operation["security"]
    assert {"200", "400", "401", "403", "408", "413", "422", "429", "503"} <= set(operation["responses"])
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    assert json.dumps(schema).count("maxItems") == 1
