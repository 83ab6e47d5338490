"""Brings the popular domains into memory before a test, which is to measure a server at work and not its start."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from loadtest.errors import LoadTestError
from loadtest.traffic import Question

ROUNDS = 20


class Client(Protocol):
    """Sends a POST; Locust's sessions do."""

    def post(self, url: str, data: bytes, *, headers: Mapping[str, str], name: str) -> Any:
        """The answer, with `status_code` and `json()`."""


def warm(
    client: Client, headers: Mapping[str, str], questions: Iterable[Question], wait: Callable[[float], None]
) -> None:
    """Ask for each domain until it is scored without a fallback, or for twenty rounds.

    Raises:
        LoadTestError: an answer is not 200.
    """
    left = list(questions)
    for turn in range(ROUNDS):
        left = [question for question in left if not _is_warm(client, headers, question)]
        if not left:
            return
        wait(0.1 * turn)


def _is_warm(client: Client, headers: Mapping[str, str], question: Question) -> bool:
    answer = client.post("/score", question.body, headers=headers, name="warm")
    if answer.status_code != 200:
        raise LoadTestError(f"scoring {question.domain} answered {answer.status_code or 'nothing'}: {answer.text}")
    return answer.json()["served"]["fallback"] is None
