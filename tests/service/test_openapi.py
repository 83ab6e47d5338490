"""The OpenAPI description: complete, with /score, and true."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from benchmarks.forge import Run
from service.links import LINKS
from service.openapi import REPLY_EXAMPLE, REQUEST_EXAMPLE
from service.routes.score import ScoreBody, ScoreReply
from tests.service.live import Live, espalier

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROUTES = {
    "/score": {"post"},
    "/feedback": {"post"},
    "/adapters": {"get"},
    "/adapters/{domain}": {"get", "post", "delete"},
    "/adapters/{domain}/revisions": {"get"},
    "/adapters/{domain}/revisions/{revision}": {"get"},
    "/adapters/{domain}/stats": {"get"},
    "/adapters/{domain}/aliases/{alias}": {"put", "delete"},
    "/adapters/{domain}/rollback": {"post"},
    "/fusions": {"post"},
    "/healthz/live": {"get"},
    "/healthz/ready": {"get"},
    "/healthz/startup": {"get"},
    "/metrics": {"get"},
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def live(random_run: Run) -> AsyncIterator[Live]:
    """A service."""
    async with espalier(random_run) as opened:
        yield opened


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def description(live: Live) -> dict[str, Any]:
    """What the service says of itself."""
    described: dict[str, Any] = (await live.client.get("/openapi.json")).json()
    return described


async def test_every_route_is_described(description: dict[str, Any]) -> None:
    """No more and no less than what the service answers, /score included."""
    assert {path: set(operations) for path, operations in description["paths"].items()} == ROUTES


async def test_every_reference_leads_somewhere(description: dict[str, Any]) -> None:
    """A description with a dangling reference breaks the tools that read it."""
    for reference in references(description):
        target: Any = description
        for part in reference.removeprefix("#/").split("/"):
            target = target[part]


async def test_every_error_is_described_as_a_problem(description: dict[str, Any]) -> None:
    """No route describes an error in another form, FastAPI's own included."""
    for path, operations in description["paths"].items():
        for operation in operations.values():
            for status, response in operation["responses"].items():
                if status >= "400":
                    assert set(response["content"]) == {"application/problem+json"}, (path, status)
    assert "HTTPValidationError" not in description["components"]["schemas"]


async def test_what_needs_a_token_says_so(description: dict[str, Any]) -> None:
    """Every route that authorizes names the scheme, and what its token's limits answer; the open ones do not."""
    for path, operations in description["paths"].items():
        secured = not path.startswith(("/healthz", "/metrics"))
        assert all(("security" in operation) is secured for operation in operations.values()), path
        limited = ["Retry-After" in one["responses"].get("429", {}).get("headers", {}) for one in operations.values()]
        assert all(each is secured for each in limited), path


async def test_every_operation_says_what_it_does(description: dict[str, Any]) -> None:
    """A summary, a description and an id of its own."""
    operations = [operation for path in description["paths"].values() for operation in path.values()]
    assert all(operation["summary"] and operation["description"] for operation in operations)
    assert len({operation["operationId"] for operation in operations}) == len(operations)


async def test_the_examples_are_what_the_service_takes_and_gives(live: Live) -> None:
    """The request example is accepted, the reply example is of the reply's shape."""
    msgspec.json.decode(json.dumps(REQUEST_EXAMPLE).encode(), type=ScoreBody)
    msgspec.json.decode(json.dumps(REPLY_EXAMPLE).encode(), type=ScoreReply)
    answer = await live.client.post("/score", json=REQUEST_EXAMPLE)
    assert answer.status_code == 200, answer.text
    assert set(answer.json()) == set(REPLY_EXAMPLE)
    assert set(answer.json()["served"]) == set(REPLY_EXAMPLE["served"])


async def test_docs_are_a_page(live: Live) -> None:
    """The description for people."""
    answer = await live.client.get("/docs")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")


def references(node: Any) -> Iterator[str]:
    """Every $ref below a node."""
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for child in node.values():
            yield from references(child)
    elif isinstance(node, list):
        for child in node:
            yield from references(child)


async def test_every_link_leads_to_an_operation_that_takes_what_it_gives(description: dict[str, Any]) -> None:
    """Law: a link names an operation that exists and fills every path parameter of it."""
    operations = {
        operation["operationId"]: path for path, found in description["paths"].items() for operation in found.values()
    }
    linked = [
        one
        for found in description["paths"].values()
        for operation in found.values()
        for response in operation["responses"].values()
        for one in response.get("links", {}).values()
    ]
    assert len(linked) == len(LINKS)
    for one in linked:
        path = operations[one["operationId"]]
        needed = {part.strip("{}") for part in path.split("/") if part.startswith("{")}
        assert needed == set(one.get("parameters", {})), path
