"""What comes before and without a token; who may call which route stands in test_scopes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from benchmarks.forge import Run
from tests.service.live import Live, espalier

pytestmark = pytest.mark.asyncio(loop_scope="module")

REVISION = "a" * 64
TOKENS = {"one": ["publish:theme-1"]}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def live(random_run: Run) -> AsyncIterator[Live]:
    """A service with a token for each scope."""
    async with espalier(random_run, tokens=TOKENS) as opened:
        yield opened


def asking(live: Live, caller: str) -> dict[str, str]:
    """The header that a caller sends."""
    live.client.headers.pop("Authorization", None)
    return {} if caller == "nobody" else {"Authorization": f"Bearer {caller}"}


async def test_unknown_routes_and_methods_are_problems_for_everyone(live: Live) -> None:
    """404 and 405 need no token and are problem details; 405 names what the route takes."""
    nowhere = await live.client.get("/nowhere")
    slashed = await live.client.get("/score/")
    wrong = await live.client.get("/score")
    assert (nowhere.status_code, slashed.status_code, wrong.status_code) == (404, 404, 405)
    assert wrong.headers["allow"] == "POST"
    for answer in (nowhere, slashed, wrong):
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["request_id"] == answer.headers["x-request-id"]


async def test_bad_parameters_are_not_told_to_strangers(live: Live) -> None:
    """Authorization comes before everything else that could be wrong."""
    bad = "/adapters/theme-1?dryrun=1"
    stranger = await live.client.post(bad, headers=asking(live, "nobody"))
    known = await live.client.post(bad, headers=asking(live, "one"))
    assert (stranger.status_code, known.status_code) == (401, 422)


@pytest.mark.parametrize(("host", "scoring"), [("127.0.0.1", 200), ("0.0.0.0", 403)])
async def test_without_tokens_only_scoring_on_loopback_is_open(random_run: Run, host: str, scoring: int) -> None:
    """None configured: who can reach this machine's own address may score, and nobody may read or publish."""
    body: dict[str, Any] = {"user_id": 7, "domain_id": "theme-1", "item_ids": ["item-1"]}
    async with espalier(random_run, tokens={}, host=host) as open_live:
        client: httpx.AsyncClient = open_live.client
        assert (await client.post("/score", json=body)).status_code == scoring
        for answer in (
            await client.post(f"/adapters/theme-1?revision={REVISION}", content=b"x"),
            await client.get("/adapters"),
            await client.delete("/adapters/theme-1"),
        ):
            assert answer.status_code == 403
            assert "espalier token new" in answer.json()["detail"]
