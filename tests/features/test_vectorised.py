"""Law of the scoring path: what Python does to find ids does not grow with their number."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

import pytest

from features.index import RawIndex

WORDS = [f"item-{number}" for number in range(3000)]
ACCENTS = [f"ïtem-{number}" for number in range(3000)]
NUMBERS = list(range(3000))
ASKED: dict[str, list[Any]] = {
    "words": WORDS,
    "accents": ACCENTS,
    "integers": NUMBERS,
    "decimals": list(map(str, NUMBERS)),
    "mixed": [number if number % 2 else f"item-{number}" for number in NUMBERS],
    "strangers": ["x" * (number % 15 * 21) for number in NUMBERS],
}


def calls(index: RawIndex, ids: list[Any]) -> int:
    """How often Python calls anything while ids are found."""
    count = 0

    def called(frame: FrameType, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(called)
    try:
        index.find(ids)
    finally:
        sys.setprofile(before)
    return count


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("hashed", [False, True], ids=["searched", "hashed"])
@pytest.mark.parametrize("held", ["words", "accents", "integers"])
def test_more_ids_cost_no_more_calls(held: str, hashed: bool, asked: str) -> None:
    """Law: 1,000 ids are found by as many calls as 100, in every form of an index and of a question."""
    index = RawIndex.from_values(ASKED[held])
    if hashed:
        index = index.hashed(least=1)
    ids = ASKED[asked]
    calls(index, ids[:1000])  # what is made once, such as masks for a length, is made here
    calls(index, ids[:100])
    assert calls(index, ids[:1000]) <= calls(index, ids[:100]) + 10


def test_the_law_can_fail() -> None:
    """Law: a loop over ids shows."""
    index = RawIndex.from_values(NUMBERS)
    assert sum(calls(index, [number]) for number in NUMBERS[:100]) > 10 * calls(index, NUMBERS[:100])
