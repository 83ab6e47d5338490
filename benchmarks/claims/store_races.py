"""Random interleavings of publishes, flips and rollbacks: one serial order explains what readers see."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator

from hypothesis import HealthCheck, Phase, given, settings

from benchmarks.claims.line import Line, at_least, exactly
from benchmarks.claims.workplace import Workplace
from benchmarks.release_model import Race, explanation, races

RACES = 1000


def unexplained(count: int) -> tuple[int, Counter[bool]]:
    """Run so many races.

    Returns:
        How many have no explanation; and how many had operations that overlapped (True), and had none (False).
    """
    wrong, ran = 0, Counter[bool]()

    # all of them are run and counted, so a wrong one is neither raised nor shrunk
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(races(writers=3))
    def play(race: Race) -> None:
        nonlocal wrong
        history = asyncio.run(race.run())
        wrong += explanation(history) is None
        ran[any(a.began < b.ended and b.began < a.ended for a in history for b in history if a is not b)] += 1

    play()
    return wrong, ran


def lines(work: Workplace) -> Iterator[Line]:
    """One line, and that the races were races: in half of them at least operations overlap."""
    count = 100 if work.quick else RACES
    wrong, ran = unexplained(count)
    yield exactly(f"interleavings of 3 writers of {ran.total()} that no sequential order explains", wrong, 0)
    yield at_least("interleavings that ran", ran.total(), count, digits=0)
    yield at_least("of these, those in which operations overlapped", ran[True], count / 2, digits=0)
