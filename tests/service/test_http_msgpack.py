"""POST /score in MessagePack over HTTP: the same scores, the same refusals, and no form that nobody asked for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import numpy as np
import pytest
import pytest_asyncio

from benchmarks.forge import Run
from service.routes.forms import JSON, MSGPACK
from service.routes.score import ScoreReply
from tests.service.live import Live, espalier

pytestmark = pytest.mark.asyncio(loop_scope="module")

BODY: dict[str, Any] = {"user_id": 7, "domain_id": "theme-1", "item_ids": ["item-1", "item-2", "item-3"]}
PATIENT: dict[str, Any] = {"cold_wait_ms": 60_000, "deadline_ms": 60_000}
PACKED = {"Content-Type": MSGPACK}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def live(random_run: Run) -> AsyncIterator[Live]:
    """A service with patience, so that no cold start becomes a fallback."""
    async with espalier(random_run, **PATIENT) as opened:
        yield opened


def drawn(rng: np.random.Generator) -> dict[str, Any]:
    """A request of known and unknown ids, as texts and as integers."""
    pool: list[str | int] = [*(f"item-{number}" for number in range(130)), 1, 2**63 - 1, "ü", "nobody", "7"]
    body: dict[str, Any] = {
        "user_id": [7, "7", "nobody", -1, "12"][rng.integers(5)],
        "domain_id": ["theme-1", "theme-2", "made-up"][rng.integers(3)],
        "item_ids": [pool[place] for place in rng.integers(len(pool), size=rng.integers(0, 70)).tolist()],
    }
    if rng.random() < 0.5:
        body["context"] = {"hour": [5, "18", None][rng.integers(3)], "age_days": float(rng.normal()), "more": [1, "a"]}
    return body


async def test_both_forms_of_a_request_give_the_same_bits(live: Live) -> None:
    """Law: whatever of body and answer is JSON or MessagePack, the reply to a request is equal, scores bit for bit."""
    rng = np.random.default_rng(0)
    for number in range(12):
        body, same_id = drawn(rng), {"X-Request-Id": f"request-{number}"}
        replies = []
        for sent, wanted in ((JSON, JSON), (JSON, MSGPACK), (MSGPACK, MSGPACK), (MSGPACK, JSON)):
            raw = (msgspec.json if sent == JSON else msgspec.msgpack).encode(body)
            headers = {"Content-Type": sent, "Accept": wanted, **same_id}
            answer = await live.client.post("/score", content=raw, headers=headers)
            assert (answer.status_code, answer.headers["content-type"]) == (200, wanted), answer.content
            decoder = msgspec.json if wanted == JSON else msgspec.msgpack
            replies.append(decoder.decode(answer.content, type=ScoreReply))
        first = replies[0]
        assert [reply == first for reply in replies] == [True] * 4
        assert all(np.array(reply.scores).tobytes() == np.array(first.scores).tobytes() for reply in replies)
        assert len(first.scores) == len(body["item_ids"])


async def test_without_a_preference_the_answer_has_the_form_of_the_body(live: Live) -> None:
    """Law: whoever sends MessagePack need not ask for it."""
    answer = await live.client.post("/score", content=msgspec.msgpack.encode(BODY), headers=PACKED)
    assert (answer.status_code, answer.headers["content-type"]) == (200, MSGPACK)
    assert msgspec.msgpack.decode(answer.content, type=ScoreReply).domain_id == "theme-1"


@pytest.mark.parametrize(
    ("change", "field", "named"),
    [
        ({"user_id": True}, "user_id", "bool"),
        ({"user_id": 2**63}, "user_id", "9223372036854775807"),
        ({"user_id": b"7"}, "user_id", "bytes"),
        ({"item_ids": "item-1"}, "item_ids", "array"),
        ({"item_ids": b"item-1"}, "item_ids", "array"),
        ({"item_ids": ["item-1", 2.5]}, "item_ids[1]", "float"),
        ({"domain_id": "theme-1\n"}, "domain_id", "regex"),
        ({"strict": 1}, "strict", "bool"),
        ({"min_generation": -1}, "min_generation", ">= 0"),
        ({"item_id": []}, "item_id", "did you mean 'item_ids'"),
    ],
)
async def test_a_body_of_the_wrong_shape_is_refused_by_field(
    live: Live, change: dict[str, Any], field: str, named: str
) -> None:
    """Law: as of JSON: 422, a problem in JSON whatever Accept says, and the field's name."""
    headers = {**PACKED, "Accept": MSGPACK}
    answer = await live.client.post("/score", content=msgspec.msgpack.encode(BODY | change), headers=headers)
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    assert (answer.json()["field"], named in answer.json()["detail"]) == (field, True), answer.text


async def test_a_context_value_that_its_field_cannot_take_is_named(live: Live) -> None:
    """Law: MessagePack can say NaN and infinity, and no field takes them."""
    for value in (float("nan"), float("inf"), "old"):
        raw = msgspec.msgpack.encode(BODY | {"context": {"age_days": value}})
        answer = await live.client.post("/score", content=raw, headers=PACKED)
        assert (answer.status_code, answer.json()["type"]) == (422, "urn:espalier:problem:invalid-context")


@pytest.mark.parametrize("raw", [b"", b'{"user_id": 7}', b"\x83\xa7user_id", b"\x91" * 100_000], ids=str)
async def test_bytes_that_are_no_request_are_refused(live: Live, raw: bytes) -> None:
    """Law: whatever is broken, a 4xx that says so and never a failure of ours."""
    answer = await live.client.post("/score", content=raw, headers=PACKED)
    assert answer.status_code in (400, 422)
    assert answer.json()["type"].endswith(("malformed-request", "invalid-request"))


async def test_another_content_type_gets_415_and_curl_s_own_is_read_as_json(live: Live) -> None:
    """Law: a form that the route does not read is refused before the body; what `curl -d` sends unasked is JSON."""
    raw = msgspec.json.encode(BODY)
    refused = await live.client.post("/score", content=raw, headers={"Content-Type": "text/plain"})
    curl = await live.client.post("/score", content=raw, headers={"Content-Type": "application/x-www-form-urlencoded"})
    wrong = await live.client.post("/score", content=raw, headers=PACKED)
    assert (refused.status_code, refused.json()["type"]) == (415, "urn:espalier:problem:unsupported-media-type")
    assert (curl.status_code, curl.headers["content-type"]) == (200, JSON)
    assert wrong.status_code in (400, 422)


async def test_limits_hold_for_messagepack(random_run: Run) -> None:
    """Law: bytes of a body, items of a request and its deadline are bounded as for JSON."""
    async with espalier(random_run, score_body_bytes=256, max_items=8, **PATIENT) as live:

        async def kind(body: dict[str, Any], **headers: str) -> tuple[int, str]:
            raw = msgspec.msgpack.encode(body)
            answer = await live.client.post("/score", content=raw, headers={**PACKED, **headers})
            return answer.status_code, answer.json()["type"].rsplit(":", 1)[-1]

        assert await kind(BODY | {"item_ids": ["x" * 300]}) == (413, "body-too-large")
        assert await kind(BODY | {"item_ids": [1] * 9}) == (413, "too-many-items")
        assert (await kind(BODY, **{"X-Deadline-Ms": "0.000001"}))[0] in (408, 504)
        assert (await kind(BODY, Authorization="Bearer nobody"))[0] == 401
