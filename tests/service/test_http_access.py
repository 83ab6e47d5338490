"""Who may call which route: the table of route x scope x result."""

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
TOKENS = {
    "score": ["score"],
    "read": ["read"],
    "one": ["publish:theme-1"],
    "themes": ["publish:theme-*"],
    "all": ["publish:*"],
    "admin": ["admin"],
}
CALLERS = ("nobody", "stranger", *TOKENS)
OPEN = frozenset(CALLERS)
PUBLISH = frozenset({"one", "themes", "all", "admin"})
ROUTES: list[tuple[str, str, frozenset[str]]] = [
    ("POST", "/score", frozenset({"score", "admin"})),
    ("GET", "/adapters", frozenset({"read", "admin"})),
    ("GET", "/adapters/theme-1", frozenset({"read", "admin"})),
    ("GET", "/adapters/theme-1/revisions", frozenset({"read", "admin"})),
    ("GET", f"/adapters/theme-1/revisions/{REVISION}", frozenset({"read", "admin"})),
    ("POST", f"/adapters/theme-1?revision={REVISION}", PUBLISH),
    ("POST", f"/adapters/theme-1?revision={REVISION}&dry_run=true", PUBLISH),
    ("POST", f"/adapters/theme-2?revision={REVISION}", PUBLISH - {"one"}),
    ("POST", f"/adapters/other?revision={REVISION}", frozenset({"all", "admin"})),
    ("POST", f"/adapters/*?revision={REVISION}", frozenset({"all", "admin"})),
    ("POST", f"/fusions?revision={REVISION}", frozenset({"all", "admin"})),
    ("PUT", "/adapters/theme-1/aliases/live", PUBLISH),
    ("PUT", "/adapters/theme-2/aliases/live", PUBLISH - {"one"}),
    ("PUT", "/adapters/theme-2/aliases/canary", PUBLISH - {"one"}),
    ("DELETE", "/adapters/theme-1/aliases/canary", PUBLISH),
    ("DELETE", "/adapters/theme-2/aliases/shadow", PUBLISH - {"one"}),
    ("POST", "/adapters/theme-1/rollback", PUBLISH),
    ("POST", "/adapters/theme-2/rollback", PUBLISH - {"one"}),
    ("DELETE", "/adapters/nobody", frozenset({"all", "admin"})),
    ("GET", "/healthz/live", OPEN),
    ("GET", "/healthz/ready", OPEN),
    ("GET", "/healthz/startup", OPEN),
    ("GET", "/metrics", OPEN),
    ("GET", "/docs", OPEN),
    ("GET", "/openapi.json", OPEN),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def live(random_run: Run) -> AsyncIterator[Live]:
    """A service with a token for each scope."""
    async with espalier(random_run, tokens=TOKENS) as opened:
        yield opened


def asking(live: Live, caller: str) -> dict[str, str]:
    """The header that a caller sends."""
    live.client.headers.pop("Authorization", None)
    return {} if caller == "nobody" else {"Authorization": f"Bearer {caller}"}


@pytest.mark.parametrize(("method", "path", "allowed"), ROUTES, ids=[f"{m} {p[:40]}" for m, p, _ in ROUTES])
async def test_a_route_lets_in_exactly_whom_its_scope_names(
    live: Live, method: str, path: str, allowed: frozenset[str]
) -> None:
    """401 without a known token, 403 without the scope, and otherwise the route's own answer.

    Requests are otherwise wrong on purpose (no body): who may not come in is not told what else is wrong.
    """
    for caller in CALLERS:
        answer = await live.client.request(method, path, headers=asking(live, caller))
        if caller in allowed:
            assert answer.status_code not in (401, 403), caller
        elif caller in TOKENS:
            assert answer.status_code == 403, caller
            assert "scope" in answer.json(), caller
        else:
            assert answer.status_code == 401, caller
            assert answer.headers["www-authenticate"].startswith("Bearer"), caller


async def test_every_route_stands_in_the_table(live: Live) -> None:
    """A route that is added without a line in the table fails here."""
    described = live.app.openapi()["paths"]
    routes = {(method.upper(), path) for path, operations in described.items() for method in operations}
    tried = {(method, template_of(path.partition("?")[0], described)) for method, path, _ in ROUTES}
    assert routes <= tried


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


def template_of(path: str, described: dict[str, Any]) -> str:
    """The described path that a concrete one is an instance of."""
    for template in described:
        parts, wanted = template.split("/"), path.split("/")
        if len(parts) == len(wanted) and all(p.startswith("{") or p == w for p, w in zip(parts, wanted, strict=True)):
            return str(template)
    return path
