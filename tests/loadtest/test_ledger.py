"""The book of changes: which revision may score which request."""

from __future__ import annotations

from loadtest.ledger import KEPT, Ledger

A, B, C = "a" * 64, "b" * 64, "c" * 64


def opened(propagation_s: float = 0.0) -> Ledger:
    """A book in which A is live for women since before the test."""
    ledger = Ledger(propagation_s)
    ledger.found("women", {"live": A, "canary": None})
    return ledger


def test_only_what_was_live_may_score_before_a_change() -> None:
    """Law: without changes the one live revision may score its own domain, as live, and nothing else may."""
    ledger = opened()
    assert ledger.allows("women", "live", A, 1.0, 2.0)
    assert not ledger.allows("women", "canary", A, 1.0, 2.0)
    assert not ledger.allows("women", "live", B, 1.0, 2.0)
    assert not ledger.allows("men", "live", A, 1.0, 2.0)


def test_a_change_in_flight_leaves_both_possible() -> None:
    """Law: from the sending of a publish to its answer the old and the new revision may score."""
    ledger = opened()
    ledger.proposed("women", "live", B, 10.0)
    assert not ledger.allows("women", "live", B, 8.0, 9.9)  # answered before anybody asked for B
    for revision in (A, B):
        assert ledger.allows("women", "live", revision, 9.0, 11.0)


def test_after_the_acknowledgement_only_the_new_one_may_score() -> None:
    """Law: a request sent after the 2xx is scored by the new revision; one sent before may have either."""
    ledger = opened()
    ledger.proposed("women", "live", B, 10.0)
    ledger.settled("women", "live", B, 11.0)
    assert ledger.allows("women", "live", A, 10.9, 12.0)
    assert not ledger.allows("women", "live", A, 11.1, 12.0)
    assert ledger.allows("women", "live", B, 11.1, 12.0)
    assert ledger.live("women") == B


def test_other_replicas_get_their_time() -> None:
    """Law: with several replicas the old revision may score for as long as they may take to follow."""
    ledger = opened(propagation_s=1.0)
    ledger.proposed("women", "live", B, 10.0)
    ledger.settled("women", "live", B, 11.0)
    assert ledger.allows("women", "live", A, 11.9, 12.5)
    assert not ledger.allows("women", "live", A, 12.1, 12.5)


def test_a_refused_change_never_scores_later() -> None:
    """Law: after a 4xx the revision that it named may not score, and the old one still may."""
    ledger = opened()
    ledger.proposed("women", "live", B, 10.0)
    ledger.refused("women", "live", B, 11.0)
    assert not ledger.allows("women", "live", B, 11.1, 12.0)
    assert ledger.allows("women", "live", A, 11.1, 12.0)


def test_refusing_what_is_live_already_takes_nothing_away() -> None:
    """Law: a refused publish of the live revision leaves it live."""
    ledger = opened()
    ledger.proposed("women", "live", A, 10.0)
    ledger.refused("women", "live", A, 11.0)
    assert ledger.allows("women", "live", A, 12.0, 13.0)


def test_an_unknown_outcome_stays_open_until_the_next_known_one() -> None:
    """Law: a publish without an answer may have happened at any time, until a later one is acknowledged."""
    ledger = opened()
    ledger.proposed("women", "live", B, 10.0)  # no answer came
    assert ledger.allows("women", "live", A, 50.0, 51.0)
    assert ledger.allows("women", "live", B, 50.0, 51.0)
    ledger.proposed("women", "live", C, 60.0)
    ledger.settled("women", "live", C, 61.0)
    assert [ledger.allows("women", "live", r, 62.0, 63.0) for r in (A, B, C)] == [False, False, True]


def test_a_canary_scores_beside_live_until_it_ends() -> None:
    """Law: canary and live are booked apart: ending one leaves the other."""
    ledger = opened()
    ledger.proposed("women", "canary", B, 10.0)
    ledger.settled("women", "canary", B, 11.0)
    assert ledger.allows("women", "canary", B, 12.0, 13.0)
    assert ledger.allows("women", "live", A, 12.0, 13.0)
    assert not ledger.allows("women", "live", B, 12.0, 13.0)
    ledger.settled("women", "canary", None, 20.0)
    assert not ledger.allows("women", "canary", B, 20.1, 21.0)
    assert ledger.allows("women", "live", A, 20.1, 21.0)


def test_the_book_stays_short_and_forgets_nothing_open() -> None:
    """Law: however many changes there were, what is live, canary or unknown is still known."""
    ledger = opened()
    ledger.proposed("women", "canary", C, 1.0)
    for number in range(10 * KEPT):
        revision = f"{number:064d}"
        ledger.proposed("women", "live", revision, 10.0 + number)
        ledger.settled("women", "live", revision, 10.5 + number)
    assert ledger.allows("women", "canary", C, 5000.0, 5001.0)
    assert ledger.allows("women", "live", revision, 5000.0, 5001.0)
    assert ledger.knows("women", A)
    assert len(ledger._of("women").claims) == KEPT + 2
