"""Single publishes, flips, rollbacks and deletes race, and every reader agrees with a sequential model."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings

from benchmarks.release_model import Acknowledged, Operation, Race, explanation, races


@settings(max_examples=150, deadline=None)
@given(races())
def test_acknowledged_operations_have_a_serial_order(race: Race) -> None:
    """Law: whatever three writers do at once, one order explains what was acknowledged and what readers see."""
    history = asyncio.run(race.run())
    assert explanation(history) is not None, "\n".join(map(str, history))


def test_model_tells_wrong_histories_apart() -> None:
    """Law: the checker can fail: a lost publish, a reordered pair and an impossible rollback have no explanation."""
    publish = Acknowledged("publish", 0, 5, "a", "r1")
    assert explanation([publish, Acknowledged("read", 5, 5, seen=(("a", "r1"), ("b", None)))]) is not None
    assert explanation([publish, Acknowledged("read", 5, 5, seen=(("a", None),))]) is None
    later = Acknowledged("publish", 6, 9, "a", "r2")
    assert explanation([publish, later, Acknowledged("read", 9, 9, seen=(("a", "r1"),))]) is None
    at_once = Acknowledged("publish", 3, 9, "a", "r2")
    assert explanation([publish, at_once, Acknowledged("read", 9, 9, seen=(("a", "r1"),))]) is not None
    assert explanation([publish, Acknowledged("roll back", 5, 9, "a", "r1", "r2")]) is None
    refused = Acknowledged("roll back", 11, 12, "a", "r2", refused=True)
    assert explanation([publish, refused]) is not None
    assert explanation([publish, later, refused]) is None
    assert explanation([Acknowledged("publish", 0, 2, "a", "r1", refused=True)]) is None
    assert explanation([publish, Acknowledged("flip", 5, 9, "", "R0"), Acknowledged("delete", 9, 12, "a")]) is not None


def test_interleaving_is_the_same_for_the_same_choices() -> None:
    """Law: a race that failed can be run again."""
    writers = [[Operation("publish", "a", 1)], [Operation("flip")], [Operation("roll back", "a")]]
    choices = [0, 1, 2, 2, 1, 0, 1, 1, 2, 0] * 5
    first, second = (asyncio.run(Race([writers], choices).run()) for _ in range(2))
    assert first == second


def test_change_is_not_hidden_by_a_flip_that_came_between() -> None:
    """Law: wherever a flip falls into a publish, whichever was acknowledged last serves."""
    seen = set()
    for first in range(20):
        race = Race([[[Operation("publish", "a", 4)], [Operation("flip")]]], [0] * first + [1] * 30)
        history = asyncio.run(race.run())
        assert explanation(history) is not None
        *writers, read = history
        serves = dict(read.seen)["a"]
        assert serves == ("r4" if writers[-1].kind == "publish" else "r0")
        seen.add(serves)
    assert seen == {"r4", "r0"}
