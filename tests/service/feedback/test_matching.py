"""Laws of matching: bounded, O(1) for scoring, never somebody else's row."""

from __future__ import annotations

import numpy as np
import pytest

from service.feedback.matching import CONTEXT_BYTES, RecentResponses
from tests.service.feedback.parts import event, result


def remembered(**given: object) -> RecentResponses:
    recent = RecentResponses()
    given = {"user_id": 7, "item_ids": ["a", 12, "a"], "context": {"hour": 3}, "body_bytes": 100, **given}
    recent.remember(result("r", [0.1, 0.2, 0.3]), **given)  # type: ignore[arg-type]
    return recent


def test_an_event_finds_its_response_and_score() -> None:
    """Law: request and item name one row; an integer id equals its decimal string; of two equal items the first."""
    recent = remembered()
    for item, score in (("a", 0.1), ("12", 0.2), (12, 0.2)):
        match = recent.match(event(item, request_id="r", user_id="7", domain_id="women"))
        assert (match.outcome, match.score) == ("matched", score)
        assert match.response is not None
        assert match.response.line_context == {"hour": 3}


@pytest.mark.parametrize(
    "given",
    [
        {"request_id": "r", "user_id": "8", "domain_id": "women"},
        {"request_id": "r", "user_id": "7", "domain_id": "men"},
    ],
)
def test_a_response_of_somebody_else_is_no_match(given: dict[str, str]) -> None:
    """Law: where the client names another user or domain than the response, nothing of the response is used."""
    match = remembered().match(event("a", **given))
    assert (match.outcome, match.response) == ("contradicting", None)


def test_an_item_that_was_not_asked_for_is_no_match() -> None:
    """Law: a label for an item outside the response contradicts it."""
    assert remembered().match(event("b", request_id="r")).outcome == "contradicting"


def test_what_is_not_remembered_is_unmatched() -> None:
    """Law: an unknown or missing request_id is no fault, only no match."""
    recent = remembered()
    assert recent.match(event("a", request_id="other")).outcome == "unmatched"
    assert recent.match(event("a", user_id="7", domain_id="women")).outcome == "unmatched"


def test_only_the_first_label_of_a_row_counts_online() -> None:
    """Law: a repeated label of one row does not count again in online figures."""
    recent = remembered()
    firsts = [recent.match(event(item, request_id="r")).label_first() for item in ("a", "a", 12, "12")]
    assert firsts == [True, False, True, False]


def test_memory_is_bounded_and_the_oldest_leave() -> None:
    """Law: whatever comes, what is held stays below the bound; the latest responses are the ones held."""
    recent = RecentResponses(most_bytes=100_000)
    for number in range(1000):
        recent.remember(result(f"r{number}", np.zeros(number % 50)), 7, list(range(number % 50)), None, 400)
        assert recent.held_bytes <= 100_000
    assert 5 < len(recent) < 100
    assert recent.match(event(0, request_id="r999")).outcome == "matched"
    assert recent.match(event(0, request_id="r1")).outcome == "unmatched"


def test_a_response_larger_than_the_bound_is_not_held() -> None:
    """Law: one huge request cannot push everything else out."""
    recent = RecentResponses(most_bytes=50_000)
    recent.remember(result("small", [0.5]), 7, ["a"], None, 100)
    recent.remember(result("huge", np.zeros(4096)), 7, list(range(4096)), None, 30_000)
    assert recent.match(event("a", request_id="small")).outcome == "matched"
    assert recent.match(event(1, request_id="huge")).outcome == "unmatched"


def test_a_repeated_request_id_is_counted_once() -> None:
    """Law: the last response of a request_id replaces the one before, also in the account of memory."""
    recent = RecentResponses()
    for _ in range(3):
        recent.remember(result("r", [0.1]), 7, ["a"], None, 100)
        one = recent.held_bytes
    recent.remember(result("r", [0.9]), 7, ["a"], None, 100)
    assert (len(recent), recent.held_bytes) == (1, one)
    assert recent.match(event("a", request_id="r")).score == 0.9


def test_a_large_context_stands_in_no_line() -> None:
    """Law: one request's context cannot be multiplied by the labels of its items."""
    match = remembered(context={"text": "x" * CONTEXT_BYTES}).match(event("a", request_id="r"))
    assert match.response is not None
    assert match.response.line_context is None


def test_fresh_results_are_given_once_and_bounded() -> None:
    """Law: each result is seen once; past the bound of waiting rows they are left out, until somebody takes them."""
    recent = RecentResponses(fresh_rows=100)
    for number in range(50):
        recent.remember(result(f"r{number}", np.zeros(10)), 7, list(range(10)), None, 100)
    assert [one.request_id for one in recent.take_fresh()] == [f"r{number}" for number in range(10)]
    assert recent.take_fresh() == []
    recent.remember(result("later", np.zeros(10)), 7, list(range(10)), None, 100)
    assert [one.request_id for one in recent.take_fresh()] == ["later"]
