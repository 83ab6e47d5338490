"""What an answer is worth."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from loadtest.answers import Judge, Outcome
from loadtest.catalogue import Dye
from loadtest.ledger import Ledger
from loadtest.marks import Marks
from loadtest.traffic import Question

A, B = "a" * 64, "b" * 64
DYES = {"women": (Dye("women", A, None, 1.2, -0.4), Dye("women", B, None, 1.2, 0.4))}
LOGITS = (-2.0, 0.0, 1.5)
QUESTION = Question("women", 3, b"{}", probe=0)


def scores_of(revision: str) -> list[float]:
    """What a dye says to the three items."""
    dye = next(dye for dye in DYES["women"] if dye.revision == revision)
    return [1 / (1 + math.exp(-(dye.slope * z + dye.intercept))) for z in LOGITS]


def answer(revision: str | None, scores: list[float], fallback: str | None = None, **changes: Any) -> bytes:
    """A body as the service writes it."""
    served = {"revision": revision, "alias": revision and "live", "fallback": fallback}
    return json.dumps({"scores": scores, "domain_id": "women", "served": served, **changes}).encode()


@pytest.fixture
def judge() -> Judge:
    """Both dyes may be live."""
    ledger = Ledger()
    ledger.found("women", {"live": A})
    ledger.proposed("women", "live", B, 0.0)
    return Judge(ledger, Marks(DYES))


def outcome(judge: Judge, content: bytes, status: int = 200, question: Question = QUESTION) -> Outcome:
    """The verdict's outcome on an answer to the question."""
    return judge.judge(question, status, content, 1.0, 2.0).outcome


def test_each_dye_is_told_by_its_scores(judge: Judge) -> None:
    """Law: an answer is right if its scores are those of the revision that it names, wrong if they are of another."""
    assert outcome(judge, answer(A, scores_of(A))) is Outcome.OK
    assert outcome(judge, answer(B, scores_of(B))) is Outcome.OK
    assert outcome(judge, answer(B, scores_of(A))) is Outcome.WRONG
    assert outcome(judge, answer(A, scores_of(B))) is Outcome.WRONG
    mixed = [*scores_of(A)[:2], scores_of(B)[2]]
    assert outcome(judge, answer(A, mixed)) is Outcome.WRONG


def test_other_feature_tables_are_other_logits(judge: Judge) -> None:
    """Law: where a table moved, what was learned on the one before says nothing, and is learned anew."""

    def on(table: str, revision: str, scores: list[float]) -> Outcome:
        served = {"revision": revision, "alias": "live", "fallback": None, "features": {"users": table}}
        return outcome(judge, answer(None, scores, served=served))

    moved = [min(0.99, score + 0.05) for score in scores_of(A)]
    assert on("t1", A, scores_of(A)) is Outcome.OK
    assert on("t2", A, moved) is Outcome.OK
    assert on("t2", A, scores_of(A)) is Outcome.WRONG
    assert on("t1", B, scores_of(B)) is Outcome.OK


def test_a_revision_that_may_not_score_is_wrong(judge: Judge) -> None:
    """Law: an unknown revision, or none without a fallback, is wrong whatever the scores are."""
    assert outcome(judge, answer("c" * 64, scores_of(A))) is Outcome.WRONG
    assert outcome(judge, answer(None, scores_of(A))) is Outcome.WRONG


def test_a_fallback_is_no_success_and_no_foreign_revision(judge: Judge) -> None:
    """Law: a fallback is counted as such; a revision in it must be one that the domain had."""
    assert outcome(judge, answer(None, scores_of(A), "loading")) is Outcome.FALLBACK
    assert outcome(judge, answer(A, scores_of(A), "adapter_rejected")) is Outcome.FALLBACK
    assert outcome(judge, answer("c" * 64, scores_of(A), "loading")) is Outcome.WRONG


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (answer(A, scores_of(A)), 429),
        (b"", 0),
        (b"no json", 200),
        (b"[]", 200),
        (json.dumps({"scores": [0.1, 0.2, 0.3], "served": {}}).encode(), 200),
        (json.dumps({"scores": [0.1, 0.2, 0.3], "served": []}).encode(), 200),
        (json.dumps({"scores": ["a", 0.2, 0.3], "domain_id": "women", "served": {}}).encode(), 200),
        (answer(A, scores_of(A)[:2]), 200),
        (answer(A, [0.1, 0.2, 1.3]), 200),
        (answer(A, scores_of(A), domain_id="men"), 200),
    ],
)
def test_what_is_no_answer_is_an_error(judge: Judge, content: bytes, status: int) -> None:
    """Law: another status, no JSON, too few scores, no probability or another domain is an error."""
    assert outcome(judge, content, status) is Outcome.ERROR


def test_saturated_scores_tell_nothing(judge: Judge) -> None:
    """Law: a probability of exactly 0 or 1 has no logit, so it is neither held against a dye nor learned from."""
    assert outcome(judge, answer(A, [0.0, 0.5, 1.0])) is Outcome.OK
    assert outcome(judge, answer(B, scores_of(B))) is Outcome.OK
