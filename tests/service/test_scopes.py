"""Who may call which route: the table of every route, each scope and what comes of it."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack

import httpx
import pytest
import pytest_asyncio
from fastapi import FastAPI
from starlette.routing import Route

from benchmarks.forge import Run
from service.app import create_apps
from service.logs import open_log
from service.metrics import Metrics
from tests.service.live import Live, book_of, espalier, settings_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

# One line a route, one column a caller: nobody sends no token, stranger one that is not known; the others hold the
# scope of that name, `this` and `other` that of publishing to the path's domain, or to another. The last two columns
# are of services without any token, on loopback and on an address that other machines reach.
# `in`: the route answers, and not with 401 or 403.
TABLE = """
                                                nobody stranger score read this other all  admin  loopback  world
POST    /score                                  401    401      in    403  403  403   403  in     in        403
POST    /feedback                               401    401      in    403  403  403   403  in     in        403
POST    /adapters/{domain}                      401    401      403   403  in   403   in   in     403       403
DELETE  /adapters/{domain}                      401    401      403   403  in   403   in   in     403       403
POST    /adapters/{domain}/rollback             401    401      403   403  in   403   in   in     403       403
PUT     /adapters/{domain}/aliases/{alias}      401    401      403   403  in   403   in   in     403       403
DELETE  /adapters/{domain}/aliases/{alias}      401    401      403   403  in   403   in   in     403       403
POST    /fusions                                401    401      403   403  403  403   in   in     403       403
GET     /adapters                               401    401      403   in   403  403   403  in     403       403
GET     /adapters/{domain}                      401    401      403   in   403  403   403  in     403       403
GET     /adapters/{domain}/stats                401    401      403   in   403  403   403  in     403       403
GET     /adapters/{domain}/revisions            401    401      403   in   403  403   403  in     403       403
GET     /adapters/{domain}/revisions/{revision} 401    401      403   in   403  403   403  in     403       403
GET     /adapters/{domain}/stats                401    401      403   in   403  403   403  in     403       403
GET     /healthz/live                           in     in       in    in   in   in    in   in     in        in
GET     /healthz/ready                          in     in       in    in   in   in    in   in     in        in
GET     /healthz/startup                        in     in       in    in   in   in    in   in     in        in
GET     /metrics                                in     in       in    in   in   in    in   in     in        in
GET     /docs                                   in     in       in    in   in   in    in   in     in        in
GET     /docs/oauth2-redirect                   in     in       in    in   in   in    in   in     in        in
GET     /openapi.json                           in     in       in    in   in   in    in   in     in        in
"""
PATHS = {"domain": "theme-1", "alias": "canary", "revision": "a" * 64}
TOKENS = {
    "score": ["score"],
    "read": ["read"],
    "this": [f"publish:{PATHS['domain']}"],
    "other": ["publish:theme-2"],
    "all": ["publish:*"],
    "admin": ["admin"],
}
# on the main port where there is an admin port; health is on both
PUBLIC = {"POST /score", "POST /feedback"}
HEALTH = {"GET /healthz/live", "GET /healthz/ready", "GET /healthz/startup"}


def read_table() -> dict[str, dict[str, str]]:
    """Route -> caller -> what comes of it."""
    head, *lines = TABLE.strip("\n").splitlines()
    rows = {}
    for line in lines:
        method, path, *cells = line.split()
        rows[f"{method} {path}"] = dict(zip(head.split(), cells, strict=True))
    return rows


RESULTS = read_table()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def services(random_run: Run) -> AsyncIterator[Mapping[str, Live]]:
    """A service with a token for each scope, and two without any."""
    async with AsyncExitStack() as stack:

        async def started(tokens: Mapping[str, Sequence[str]], host: str) -> Live:
            return await stack.enter_async_context(espalier(random_run, tokens=tokens, host=host))

        yield {
            "tokens": await started(TOKENS, "127.0.0.1"),
            "loopback": await started({}, "127.0.0.1"),
            "world": await started({}, "0.0.0.0"),
        }


@pytest.mark.parametrize("route", RESULTS)
async def test_a_route_answers_each_caller_as_the_table_says(services: Mapping[str, Live], route: str) -> None:
    """Law: 401 without a known token, 403 without the scope, and otherwise the route's own answer.

    Requests are otherwise wrong on purpose (no body): who may not come in is not told what else is wrong.
    """
    method, template = route.split()
    seen = {}
    for caller, wanted in RESULTS[route].items():
        live = services.get(caller, services["tokens"])
        answer = await ask(live.client, method, template.format(**PATHS), caller)
        seen[caller] = "in" if answer.status_code not in (401, 403) else str(answer.status_code)
        if wanted == "401":
            assert answer.headers["www-authenticate"] == 'Bearer realm="espalier"', caller
        if wanted == "403":
            assert answer.json()["scope"], caller
    assert seen == RESULTS[route]


async def test_every_route_of_the_service_has_its_line_in_the_table(services: Mapping[str, Live]) -> None:
    """Law: the table has a line for each route and none besides; whoever adds a route decides who may call it."""
    assert routes_of(services["tokens"].app) == set(RESULTS)


async def test_the_two_ports_together_answer_what_one_answers(services: Mapping[str, Live]) -> None:
    """Law: with an admin port each route is on one port only, health on both, and its callers are the same."""
    live = services["tokens"]
    log = open_log(stream=io.StringIO())
    settings, tokens = settings_of(admin_port=0), book_of(TOKENS)
    apps = create_apps(live.replica, settings=settings, tokens=tokens, metrics=Metrics(log), log=log)
    assert apps.admin is not None
    main, admin = routes_of(apps.main), routes_of(apps.admin)
    assert main == (PUBLIC | HEALTH) & set(RESULTS)
    assert admin == set(RESULTS) - PUBLIC
    for app, routes in ((apps.main, main), (apps.admin, admin)):
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            for route in RESULTS:
                method, template = route.split()
                answer = await ask(client, method, template.format(**PATHS), "nobody")
                here = "in" if answer.status_code not in (401, 403, 404) else str(answer.status_code)
                assert here == (RESULTS[route]["nobody"] if route in routes else "404"), route


@pytest.mark.parametrize("domain", ["theme-2", "theme-11", "theme-", "Theme-1", "*", "theme-1%0A", "theme-1%2F", "%2A"])
@pytest.mark.parametrize("route", [route for route, results in RESULTS.items() if results["other"] != results["this"]])
async def test_a_publisher_of_one_domain_gets_in_for_no_other(
    services: Mapping[str, Live], route: str, domain: str
) -> None:
    """Law: a token for one domain opens none whose id is another string, however it is written into the path."""
    method, template = route.split()
    path = template.format(**{**PATHS, "domain": domain})
    answer = await ask(services["tokens"].client, method, path, "this")
    # an encoded slash is one more level of the path, and no route has that
    assert answer.status_code == (404 if "%2F" in domain else 403)


async def test_the_domain_that_is_checked_is_the_one_that_is_changed(services: Mapping[str, Live]) -> None:
    """Law: neither a query nor a header nor a second path names the domain that a token is checked for."""
    live = services["tokens"]
    headers = {"X-Original-Url": "/adapters/theme-1", "X-Rewrite-Url": "/adapters/theme-1", "X-Forwarded-Prefix": "/"}
    for path in ("/adapters/theme-2?domain=theme-1", "/adapters/theme-1/../theme-2"):
        answer = await ask(live.client, "DELETE", path, "this", **headers)
        assert answer.status_code == 403, path


async def ask(client: httpx.AsyncClient, method: str, path: str, caller: str, **headers: str) -> httpx.Response:
    """Send one request as a caller."""
    client.headers.pop("Authorization", None)
    if caller in (*TOKENS, "stranger"):
        headers["Authorization"] = f"Bearer {caller}"
    return await client.request(method, path, headers=headers)


def routes_of(app: FastAPI) -> set[str]:
    """Every method and path template that an app answers, described or not; HEAD comes with GET."""
    assert all(isinstance(route, Route) for route in app.routes), "a mount or a socket has no line of its own"
    answered = [(route.path, route.methods or set()) for route in app.routes if isinstance(route, Route)]
    return {
        f"{method} {path}"
        for path, methods in answered
        for method in methods
        if not (method == "HEAD" and "GET" in methods)
    }
