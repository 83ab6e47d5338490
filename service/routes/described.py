"""Pieces of the OpenAPI description that several routes share."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from service.problems import MEDIA_TYPE

PROBLEM: dict[str, Any] = {
    "title": "Problem",
    "description": "RFC 9457 problem details; `detail` says what is wrong and what to do",
    "type": "object",
    "required": ["type", "title", "status", "detail", "request_id"],
    "properties": {
        "type": {"type": "string", "format": "uri"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "request_id": {"type": "string"},
        "field": {"type": "string", "description": "the field of the request that is wrong"},
        "scope": {"type": "string", "description": "the scope that the caller lacks"},
        "fallback": {"type": "string", "description": "what would have scored without `strict`"},
        "positions": {"type": "array", "items": {"type": "integer"}, "description": "item_ids that are unknown"},
    },
    "example": {
        "type": "urn:espalier:problem:invalid-request",
        "title": "Invalid request",
        "status": 422,
        "detail": "unknown key 'item_id' (did you mean 'item_ids'?)",
        "request_id": "8d0f9a3c",
        "field": "item_id",
    },
}
ETAG = {"description": 'generation of the record and of the release pointer, as If-Match takes it: "12.3"'}
CONDITIONS: list[dict[str, Any]] = [
    {
        "name": "If-Match",
        "in": "header",
        "required": False,
        "schema": {"type": "string", "examples": ['"12.3"', '"12"']},
        "description": "change only the domain with this ETag, else 412: its record's generation and the release "
        "pointer's; without the second half the pointer may have any",
    }
]
CREATE_ONLY: dict[str, Any] = {
    "name": "If-None-Match",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "enum": ["*"]},
    "description": "publish only if the domain has no live adapter; else 412",
}
CONTENT_DIGEST: dict[str, Any] = {
    "name": "Content-Digest",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "examples": ["sha-256=:n4bQgYhMfWWaL+qgxVrQFaO/TxsrC4Is0V1sFbDwCgg=:"]},
    "description": "the body's digest (RFC 9530), where ?revision= is not given",
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The responses of these statuses, each a problem."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": HTTPStatus(status).phrase, "content": content} for status in statuses}


def artifact_body(what: str) -> dict[str, Any]:
    """The request body of an upload."""
    schema = {"type": "string", "format": "binary"}
    return {"required": True, "description": what, "content": {"application/octet-stream": {"schema": schema}}}


def json_body(schema: dict[str, Any]) -> dict[str, Any]:
    """A JSON request body."""
    return {"required": True, "content": {"application/json": {"schema": schema}}}
