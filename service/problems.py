"""RFC 9457 problem details: the one table from error to HTTP status."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import msgspec
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from adapters_store import errors as store
from service import errors as core
from service import refusals as edge
from service.feedback import errors as feedback
from service.spelling import near

MEDIA_TYPE = "application/problem+json"
QUERY_NAMES = ("revision", "activate", "dry_run", "after", "limit")

STATUS: dict[type[Exception], int] = {
    edge.MalformedRequest: 400,
    edge.Unauthenticated: 401,
    edge.Forbidden: 403,
    edge.BodyTooSlow: 408,
    edge.PreconditionFailed: 412,
    edge.BodyTooLarge: 413,
    edge.UnsupportedMediaType: 415,
    edge.InvalidRequest: 422,
    edge.UploadsBusy: 429,
    edge.RateLimited: 429,
    edge.HeadersTooLarge: 431,
    edge.NotReady: 503,
    core.UnknownDomain: 404,
    core.TooManyItems: 413,
    core.AuxiliaryDomain: 422,
    core.UnknownEntities: 422,
    core.InvalidContext: 422,
    core.QueueFull: 429,
    core.EngineFailed: 500,
    core.Unavailable: 503,
    core.DeadlineExceeded: 504,
    core.BodyMismatch: 422,
    core.DivisionMismatch: 422,
    core.NeverTried: 422,
    core.PublishBusy: 429,
    feedback.FeedbackBusy: 429,
    feedback.FeedbackError: 503,
    store.DomainUnknown: 404,
    store.BlobMissing: 404,
    store.RecordConflict: 409,
    store.NothingToRollBack: 409,
    store.NotStaged: 409,
    store.Frozen: 423,  # Locked (RFC 4918 11.3): someone stopped changes, and only they or an admin can thaw
    store.LimitExceeded: 413,
    store.BadId: 422,
    store.ArtifactError: 422,
    store.DigestMismatch: 503,  # only the store's own bytes can be that; an upload's are a BodyMismatch
    store.MalformedRecord: 500,
    store.NewerSchema: 503,  # while builds roll, another replica or a later one can read it
    store.StoreRefused: 503,
    store.StoreUnavailable: 503,
}
# what an error carries besides its message, repeated as members of the problem
MEMBERS = ("field", "scope", "fallback", "positions")
STORE_RETRY_AFTER_S = 1.0


@dataclass(frozen=True, slots=True)
class Problem:
    """One RFC 9457 problem.

    Args:
        status: HTTP status.
        kind: kebab-case name, the last part of `type`.
        detail: what is wrong here and what to do.
        members: further members of the object.
        headers: response headers that belong to it.
    """

    status: int
    kind: str
    detail: str
    members: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)

    def content(self, request_id: str) -> dict[str, Any]:
        """The JSON object, with the request's id."""
        return {
            "type": f"urn:espalier:problem:{self.kind}",
            "title": self.kind.replace("-", " ").capitalize(),
            "status": self.status,
            "detail": self.detail,
            "request_id": request_id,
            **self.members,
        }


def problem_of(error: Exception) -> Problem:
    """The problem that an error is told as; an error outside the table is a 500 that tells nothing of the inside."""
    if isinstance(error, HTTPException):
        return _of_http(error)
    if isinstance(error, RequestValidationError):
        return _of_validation(error)
    for kind in type(error).__mro__:
        if kind in STATUS:
            return Problem(
                status=STATUS[kind],
                kind=_kebab(type(error).__name__),
                detail=str(error),
                members={name: value for name in MEMBERS if (value := getattr(error, name, None)) is not None},
                headers=_headers(error),
            )
    return Problem(500, "internal-error", "the service failed; its log has the cause under this request_id")


def problem_response(problem: Problem, request_id: str) -> Response:
    """The problem as a response."""
    return Response(
        msgspec.json.encode(problem.content(request_id)),
        status_code=problem.status,
        headers=problem.headers,
        media_type=MEDIA_TYPE,
    )


def _headers(error: Exception) -> dict[str, str]:
    if isinstance(error, edge.Unauthenticated):
        return {"WWW-Authenticate": 'Bearer realm="espalier"'}
    retry_after_s = getattr(error, "retry_after_s", None)
    if retry_after_s is None and isinstance(error, store.StoreUnavailable | store.DigestMismatch | core.Unavailable):
        retry_after_s = STORE_RETRY_AFTER_S
    # whole seconds only (RFC 9110 10.2.3), and never 0, which would invite a storm
    return {} if retry_after_s is None else {"Retry-After": str(max(1, math.ceil(retry_after_s)))}


def _of_http(error: HTTPException) -> Problem:
    phrase = HTTPStatus(error.status_code).phrase
    detail = {
        404: "there is no such route; /docs lists them",
        405: f"this route takes {(error.headers or {}).get('Allow', 'another method')}",
    }.get(error.status_code, str(error.detail))
    return Problem(error.status_code, phrase.lower().replace(" ", "-"), detail, headers=dict(error.headers or {}))


def _of_validation(error: RequestValidationError) -> Problem:
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"][1:])
    if first["type"] == "extra_forbidden":
        detail = f"unknown query parameter {name!r}{near(name, QUERY_NAMES)}"
    else:
        detail = f"{name}: {first['msg']}"
    return Problem(422, "invalid-request", detail, members={"field": name})


def _kebab(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "-", name).lower()
