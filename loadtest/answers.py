"""What an answer to a scoring request is worth: right, a fallback, an error, or scored by the wrong revision."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from loadtest.ledger import Ledger
from loadtest.marks import Marks
from loadtest.traffic import Question


class Outcome(IntEnum):
    """Of one request."""

    OK = 0
    FALLBACK = 1
    ERROR = 2
    WRONG = 3
    UNSENT = 4


@dataclass(frozen=True, slots=True)
class Verdict:
    """An outcome, and why it is not OK."""

    outcome: Outcome
    reason: str = ""


OK = Verdict(Outcome.OK)


class Judge:
    """Holds answers against what may have scored them.

    Args:
        ledger: which revision may score when.
        marks: which revision did, by the scores.
    """

    def __init__(self, ledger: Ledger, marks: Marks) -> None:
        self._ledger = ledger
        self._marks = marks

    def judge(self, question: Question, status: int, content: bytes, sent: float, answered: float) -> Verdict:
        """Judge one answer.

        Args:
            question: that was asked.
            status: of HTTP; 0 for none.
            content: body of the answer.
            sent: when, in seconds of the ledger's clock.
            answered: when.
        """
        if status != 200:
            return Verdict(Outcome.ERROR, f"status {status}")
        try:
            answer = json.loads(content)
            scores, served = answer["scores"], answer["served"]
            revision, alias, fallback = served["revision"], served["alias"], served["fallback"]
            basis = f"{served.get('backbone')} {served.get('features')}"
            whole = len(scores) == question.items and all(0.0 <= score <= 1.0 for score in scores)
            whole = whole and answer["domain_id"] == question.domain
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return Verdict(Outcome.ERROR, f"not an answer: {error!r}")
        if not whole:
            return Verdict(Outcome.ERROR, "not the probabilities that were asked for")
        if fallback is not None:
            return self._fallback(question, revision, fallback)
        if revision is None or not self._ledger.allows(question.domain, alias, revision, sent, answered):
            return Verdict(Outcome.WRONG, f"{alias} {_short(revision)} may not score {question.domain} now")
        if question.probe is None:
            return OK
        if not self._marks.fits(question.domain, question.probe, revision, scores, basis):
            return Verdict(Outcome.WRONG, f"these are not the scores of {_short(revision)} of {question.domain}")
        return OK

    def _fallback(self, question: Question, revision: Any, fallback: str) -> Verdict:
        if revision is not None and not self._ledger.knows(question.domain, revision):
            return Verdict(Outcome.WRONG, f"{_short(revision)} never was a revision of {question.domain}")
        return Verdict(Outcome.FALLBACK, fallback)


def _short(revision: Any) -> str:
    return str(revision)[:12]
