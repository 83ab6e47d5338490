"""Errors as RFC 9457 problems: one status each, and nothing of the inside."""

from __future__ import annotations

import inspect
import json
from types import ModuleType

import pytest
from starlette.exceptions import HTTPException

from adapters_store import errors as store
from service import errors as core
from service import refusals as edge
from service.problems import MEDIA_TYPE, STATUS, problem_of, problem_response

# raised before there is a server, or never told to a client
NEVER_TOLD = {edge.SettingsInvalid, core.StartError, edge.ClientGone}


def leaves(module: ModuleType, root: type[Exception]) -> list[type[Exception]]:
    """The errors that a module defines and that nothing in it derives from."""
    found = [
        each
        for _, each in inspect.getmembers(module, inspect.isclass)
        if issubclass(each, root) and each.__module__ == module.__name__
    ]
    return [each for each in found if not any(other is not each and issubclass(other, each) for other in found)]


ALL = [
    *leaves(core, core.ServiceError),
    *leaves(edge, core.ServiceError),
    *leaves(store, store.StoreError),
]


@pytest.mark.parametrize("kind", [each for each in ALL if each not in NEVER_TOLD], ids=lambda each: each.__name__)
def test_every_error_has_a_status(kind: type[Exception]) -> None:
    """No error that a route can raise is left to the 500 of the unexpected."""
    assert any(each in STATUS for each in kind.__mro__), f"{kind.__name__} is missing in service.problems.STATUS"


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (core.UnknownDomain("x"), 404, "unknown-domain"),
        (core.AuxiliaryDomain("x", "gender"), 422, "auxiliary-domain"),
        (core.TooManyItems(2, 1), 413, "too-many-items"),
        (core.QueueFull(2, 1, 0.2), 429, "queue-full"),
        (core.DeadlineExceeded("in the queue"), 504, "deadline-exceeded"),
        (core.Unavailable("x", "loading"), 503, "unavailable"),
        (core.BodyMismatch("a", "b"), 422, "body-mismatch"),
        (core.NeverTried("x", "gender", "canary"), 422, "never-tried"),
        (store.GoldenMismatch("row 3"), 422, "golden-mismatch"),
        (store.LimitExceeded("too many tensors"), 413, "limit-exceeded"),
        (store.RecordConflict("lost"), 409, "record-conflict"),
        (store.StoreUnavailable("gone"), 503, "store-unavailable"),
        (store.DigestMismatch("rotten"), 503, "digest-mismatch"),
        (store.MissingPin("absent"), 422, "missing-pin"),
        (store.Frozen("stopped"), 423, "frozen"),
        (store.NotStaged("97%"), 409, "not-staged"),
        (store.NewerSchema("schema 2"), 503, "newer-schema"),
        (store.StoreRefused("it may evict"), 503, "store-refused"),
        (edge.BodyTooSlow("late"), 408, "body-too-slow"),
        (HTTPException(404), 404, "not-found"),
        (HTTPException(405, headers={"Allow": "GET"}), 405, "method-not-allowed"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_an_error_becomes_its_problem(error: Exception, status: int, kind: str) -> None:
    """Status, type and title come from the table and the error's name; the detail is its message."""
    problem = problem_of(error)
    assert (problem.status, problem.kind) == (status, kind)
    if not isinstance(error, HTTPException):
        assert problem.detail == str(error)


def test_a_problem_is_an_rfc_9457_object() -> None:
    """Media type, the standard members, the request's id and what the error carries."""
    response = problem_response(problem_of(core.UnknownEntities(7, [1, 2])), "abc")
    assert response.headers["content-type"] == MEDIA_TYPE
    content = json.loads(bytes(response.body))
    assert content["type"] == "urn:espalier:problem:unknown-entities"
    assert content["title"] == "Unknown entities"
    assert (content["status"], content["request_id"], content["positions"]) == (422, "abc", [1, 2])
    assert "7" not in content["detail"].replace("positions 1, 2", "")


def test_an_unexpected_error_tells_nothing_of_the_inside() -> None:
    """A 500 points to the log and says no more."""
    problem = problem_of(KeyError("secret"))
    assert problem.status == 500
    assert "secret" not in problem.detail


@pytest.mark.parametrize(("retry_after_s", "told"), [(0.01, "1"), (1.0, "1"), (1.2, "2")])
def test_retry_after_is_whole_seconds_and_never_zero(retry_after_s: float, told: str) -> None:
    """RFC 9110 10.2.3 knows whole seconds; a zero would invite a storm."""
    assert problem_of(core.QueueFull(2, 1, retry_after_s)).headers["Retry-After"] == told


def test_a_store_that_is_away_asks_for_a_retry() -> None:
    """503 comes with Retry-After."""
    assert problem_of(store.StoreUnavailable("gone")).headers["Retry-After"] == "1"


def test_a_stranger_is_told_the_scheme() -> None:
    """401 comes with WWW-Authenticate (RFC 9110 11.6.1)."""
    assert problem_of(edge.Unauthenticated("who?")).headers["WWW-Authenticate"].startswith("Bearer")
