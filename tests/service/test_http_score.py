"""POST /score over HTTP: what is read strictly, what is answered, what is refused and how."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from benchmarks.forge import Run, digest
from service.metrics import STAGES
from service.scorer import ScoreRequest
from tests.service.live import Live, adapter, espalier

pytestmark = pytest.mark.asyncio(loop_scope="module")

BODY: dict[str, Any] = {"user_id": 7, "domain_id": "theme-1", "item_ids": ["item-1", "item-2", "item-3"]}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def live(random_run: Run) -> AsyncIterator[Live]:
    """A service with patience, so that no cold start becomes a fallback."""
    async with espalier(random_run, cold_wait_ms=60_000, deadline_ms=60_000) as opened:
        yield opened


async def scored(live: Live, **changes: Any) -> dict[str, Any]:
    """The reply to BODY with changes; anything but a 200 fails the test."""
    answer = await live.client.post("/score", json=BODY | changes)
    assert answer.status_code == 200, answer.text
    reply: dict[str, Any] = answer.json()
    return reply


async def test_a_reply_names_exactly_what_scored(live: Live, random_run: Run) -> None:
    """Scores in the order of item_ids, and the revision, generation, pins and tables behind them."""
    body = adapter(random_run, "theme-1")
    reply = await scored(live)
    backwards = await scored(live, item_ids=BODY["item_ids"][::-1])
    pins = (await live.client.get(f"/adapters/theme-1/revisions/{digest(body)}")).json()["manifest"]["fuses"]
    assert set(reply) == {"scores", "domain_id", "served", "unknown_user", "unknown_items", "request_id"}
    assert all(0 < score < 1 for score in reply["scores"])
    np.testing.assert_allclose(backwards["scores"], reply["scores"][::-1], atol=1e-7)
    served = reply["served"]
    assert (served["revision"], served["alias"], served["generation"]) == (digest(body), "live", 1)
    assert (served["fuses"], served["fallback"]) == (pins, None)
    assert served["backbone"] == live.replica.backbone_revision
    assert set(served["features"]) == {"users", "items"}
    assert (reply["unknown_user"], reply["unknown_items"]) == (False, [])


async def test_scores_keep_every_digit_of_the_core(live: Live) -> None:
    """JSON rounds nothing: what a client parses is the float64 that the engine gave."""
    reply = await scored(live)
    result = await live.replica.scorer.score(ScoreRequest(**BODY, deadline=math.inf))
    assert reply["scores"] == result.scores.tolist()


async def test_an_integer_id_is_its_decimal_string(live: Live) -> None:
    """7 and "7" are one user; "007" is another."""
    first, second, third = [await scored(live, user_id=user) for user in (7, "7", "007")]
    assert first["scores"] == second["scores"]
    assert not first["unknown_user"]
    assert third["unknown_user"]


async def test_unknown_ids_are_scored_and_reported(live: Live) -> None:
    """Row 0 scores them; the reply says where they stand."""
    reply = await scored(live, user_id=-(2**63), item_ids=["item-1", "nothing", 2**63 - 1])
    assert (reply["unknown_user"], reply["unknown_items"]) == (True, [1, 2])


async def test_no_items_is_an_empty_list(live: Live) -> None:
    """Nothing asked, nothing scored: an empty candidate list is no error."""
    assert (await scored(live, item_ids=[]))["scores"] == []


@pytest.mark.parametrize(
    ("change", "field", "named"),
    [
        ({"user_id": True}, "user_id", "bool"),
        ({"user_id": 1.0}, "user_id", "float"),
        ({"user_id": None}, "user_id", "null"),
        ({"user_id": 2**63}, "user_id", "9223372036854775807"),
        ({"item_ids": "item-1"}, "item_ids", "array"),
        ({"item_ids": ["item-1", 2.5]}, "item_ids[1]", "float"),
        ({"item_ids": [None]}, "item_ids[0]", "null"),
        ({"domain_id": 5}, "domain_id", "str"),
        ({"domain_id": "-x"}, "domain_id", "regex"),
        ({"domain_id": "theme-1\n"}, "domain_id", "regex"),
        ({"domain_id": "x" * 129}, "domain_id", "regex"),
        ({"context": []}, "context", "object"),
        ({"strict": 1}, "strict", "bool"),
        ({"min_generation": -1}, "min_generation", ">= 0"),
        ({"item_id": []}, "item_id", "did you mean 'item_ids'"),
        ({"domain": "x"}, "domain", "did you mean 'domain_id'"),
    ],
)
async def test_a_body_of_the_wrong_shape_is_refused_by_field(
    live: Live, change: dict[str, Any], field: str, named: str
) -> None:
    """Types are never coerced and keys never ignored; the problem names the field."""
    answer = await live.client.post("/score", json=BODY | change)
    problem = answer.json()
    assert (answer.status_code, problem["field"]) == (422, field)
    assert named in problem["detail"]
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("key", ["user_id", "domain_id", "item_ids"])
async def test_a_missing_key_is_named(live: Live, key: str) -> None:
    """What is required is said."""
    answer = await live.client.post("/score", json={k: v for k, v in BODY.items() if k != key})
    assert (answer.status_code, answer.json()["field"]) == (422, key)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b'{"user_id": NaN}',
        b'{"user_id":"\xff"}',
        b'{"user_id":"\\ud800"}',
        b"[" * 100_000,
        b'{"context":{"a":' + b"[" * 100_000,
        b"{} {}",
    ],
    ids=["empty", "cut", "nan", "utf-8", "surrogate", "deep", "deep-context", "two"],
)
async def test_bytes_that_are_no_json_are_refused(live: Live, raw: bytes) -> None:
    """Broken JSON is a 4xx whatever is broken, and never a failure of ours."""
    answer = await live.client.post("/score", content=raw)
    assert answer.status_code in (400, 422)
    assert answer.json()["type"].endswith(("malformed-request", "invalid-request"))


@pytest.mark.parametrize(
    ("change", "status", "kind"),
    [
        ({"domain_id": "segment-a"}, 422, "auxiliary-domain"),
        ({"domain_id": "nobody", "strict": True}, 404, "unknown-domain"),
        ({"user_id": "nobody", "strict": True}, 422, "unknown-entities"),
        ({"domain_id": "theme-4", "strict": True}, 503, "unavailable"),
        ({"context": {"age_days": "old"}}, 422, "invalid-context"),
        ({"item_ids": ["item-1"] * 9}, 413, "too-many-items"),
    ],
)
async def test_what_the_core_refuses_has_its_status(
    random_run: Run, change: dict[str, Any], status: int, kind: str
) -> None:
    """Each refusal of the scorer is told as its own problem."""
    published = ["theme-1", "segment-a", "segment-b", "segment-c"]
    async with espalier(random_run, publish=published, max_items=8, cold_wait_ms=60_000, deadline_ms=60_000) as live:
        answer = await live.client.post("/score", json=BODY | change)
    assert (answer.status_code, answer.json()["type"]) == (status, f"urn:espalier:problem:{kind}")


async def test_a_fallback_is_said_and_counted(random_run: Run) -> None:
    """A domain that nobody knows is scored without an adapter, and the reply and /metrics say so."""
    async with espalier(random_run, cold_wait_ms=60_000, deadline_ms=60_000) as live:
        reply = await scored(live, domain_id="nobody")
        shown = (await live.client.get("/metrics")).text
    assert (reply["served"]["fallback"], reply["served"]["revision"]) == ("unknown_domain", None)
    assert 'espalier_fallbacks_total{reason="unknown_domain"} 1.0' in shown
    assert "espalier_rows_total 3.0" in shown
    assert 'espalier_requests_total{route="/score",status="200"} 1.0' in shown
    for stage in STAGES:
        assert f'espalier_stage_seconds_count{{stage="{stage}"}} 1.0' in shown


async def test_a_deadline_of_the_caller_is_kept(live: Live) -> None:
    """X-Deadline-Ms lowers the service's own deadline: past it 504 and no score."""
    answer = await live.client.post("/score", json=BODY, headers={"X-Deadline-Ms": "0.000001"})
    assert answer.status_code in (408, 504)
    assert "scores" not in answer.json()


@pytest.mark.parametrize("given", ["0", "-1", "soon", "nan", "inf", ""])
async def test_a_deadline_that_is_none_is_refused(live: Live, given: str) -> None:
    """The header is a positive number of milliseconds."""
    answer = await live.client.post("/score", json=BODY, headers={"X-Deadline-Ms": given})
    assert answer.status_code == 400


async def test_a_body_over_the_limit_gets_413(random_run: Run) -> None:
    """JSON is bounded as well as artifacts."""
    async with espalier(random_run, score_body_bytes=64) as live:
        answer = await live.client.post("/score", json=BODY | {"item_ids": ["x" * 100]})
    assert answer.status_code == 413


async def test_the_request_id_of_the_caller_is_in_header_and_body(live: Live) -> None:
    """One id in the request, the reply and a problem."""
    headers = {"X-Request-Id": "trace-1"}
    good = await live.client.post("/score", json=BODY, headers=headers)
    bad = await live.client.post("/score", json={}, headers=headers)
    assert good.json()["request_id"] == good.headers["x-request-id"] == "trace-1"
    assert bad.json()["request_id"] == bad.headers["x-request-id"] == "trace-1"


async def test_no_user_id_reaches_the_log(live: Live) -> None:
    """Who is scored is nobody's business, whether it works or not."""
    for change in ({"user_id": "marked-user"}, {"user_id": "marked-user", "strict": True}, {"context": {"x": []}}):
        await live.client.post("/score", json=BODY | change)
    assert "marked-user" not in live.log.getvalue()
