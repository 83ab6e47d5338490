"""The OpenAPI description, with /score in it: FastAPI sees only the routes that it parses itself."""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import FastAPI

from service.links import link
from service.routes.described import PROBLEM, problems
from service.routes.forms import JSON, MSGPACK
from service.routes.score import ScoreBody, ScoreBodyMsgpack, ScoreReply

REF = "#/components/schemas/{name}"
REQUEST_EXAMPLE = {
    "user_id": "42",
    "domain_id": "women",
    "item_ids": [1193, 661, "914"],
    "context": {"hour": "18"},
    "strict": False,
}
REPLY_EXAMPLE = {
    "scores": [0.7312941551208496, 0.4120837450027466, 0.19047658145427704],
    "domain_id": "women",
    "served": {
        "backbone": "5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef",
        "revision": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "alias": "live",
        "generation": 12,
        "fuses": {"young": "60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752"},
        "features": {
            "users": "fd61a03af4f77d870fc21e05e7e80678095c92d808cfb3b5c279ee04c74aca13",
            "items": "a4e624d686e03ed2767c0abd85c14426b0b1157d2ce81d27bb4fe4f6f01d688a",
        },
        "fallback": None,
    },
    "unknown_user": False,
    "unknown_items": [],
    "request_id": "8d0f9a3c",
}
DESCRIPTION = """\
Score items for one user in one domain; probabilities in the order of item_ids.

A body is JSON, or MessagePack with the same keys and values; without a Content-Type it is JSON. The answer has the form
that Accept prefers, and that of the body where Accept is absent or has no preference. A problem is JSON always."""
OPEN = ("/healthz", "/metrics")
RETRY_AFTER = {"Retry-After": {"schema": {"type": "integer"}, "description": "seconds"}}
DEADLINE = {
    "name": "X-Deadline-Ms",
    "in": "header",
    "required": False,
    "schema": {"type": "number", "exclusiveMinimum": 0},
    "description": "milliseconds the caller waits; the service's own deadline caps it. Past it: 504",
}


def describe(app: FastAPI) -> None:
    """Make an app's OpenAPI description complete: /score, the problem schema, bearer tokens, links."""
    fastapi_description = app.openapi

    def complete() -> dict[str, Any]:
        # FastAPI keeps what it made and hands out the same object, so the additions are made once
        description = fastapi_description()
        if "/score" not in description["paths"]:
            _, schemas = msgspec.json.schema_components([ScoreBody, ScoreBodyMsgpack, ScoreReply], ref_template=REF)
            components = description.setdefault("components", {})
            components.setdefault("schemas", {}).update({**schemas, "Problem": PROBLEM})
            components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
            description["paths"] = {"/score": {"post": _score_operation()}, **description["paths"]}
            _mark_secured(description["paths"])
            link(description["paths"])
        return description

    app.openapi = complete  # type: ignore[method-assign]  # FastAPI's documented way to extend the description


def _score_operation() -> dict[str, Any]:
    reply, body = _of(ScoreReply), _of(ScoreBody)
    refusals = problems(400, 401, 403, 404, 408, 413, 415, 422, 429, 431, 500, 503, 504)
    refusals[503]["headers"] = RETRY_AFTER
    return {
        "tags": ["scoring"],
        "summary": "Score",
        "description": DESCRIPTION,
        "operationId": "score",
        "parameters": [DEADLINE],
        "requestBody": {
            "required": True,
            "content": {JSON: {**body, "example": REQUEST_EXAMPLE}, MSGPACK: _of(ScoreBodyMsgpack)},
        },
        "responses": {
            "200": {"description": "Scores", "content": {JSON: {**reply, "example": REPLY_EXAMPLE}, MSGPACK: reply}},
            **{str(status): refusal for status, refusal in refusals.items()},
        },
    }


def _of(body: type[msgspec.Struct]) -> dict[str, Any]:
    return {"schema": {"$ref": REF.format(name=body.__name__)}}


def _mark_secured(paths: dict[str, Any]) -> None:
    # by what is open, so that a route that someone adds and forgets here is described as needing a token
    for path, operations in paths.items():
        if not path.startswith(OPEN):
            for operation in operations.values():
                operation["security"] = [{"token": []}]
                # a token's rate limits answer before the route does
                operation["responses"].setdefault("429", problems(429)[429]).setdefault("headers", RETRY_AFTER)
