"""Laws of taking turns: figures are medians of ratios within a round, and an unsteady one is measured twice."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from benchmarks.bench.contender import Contender, Logits
from benchmarks.bench.rounds import Ratio, Trial, measured, ratio


class Stage:
    """A clock that only contenders move; each takes as long as its list says next."""

    def __init__(self) -> None:
        self.now = 0.0
        self.played: list[str] = []

    def clock(self) -> float:
        """Seconds."""
        return self.now

    def contender(self, name: str, durations: Sequence[float]) -> Contender:
        """One that takes these durations in turn, the last one for ever."""
        left: Iterator[float] = iter(durations)

        def score() -> Logits:
            self.played.append(name)
            self.now += next(left, durations[-1])
            return np.zeros(1)

        return Contender(name, score, None)


def test_a_figure_is_the_median_of_the_ratios_within_rounds() -> None:
    """Law: ratios are taken round by round, and their median and quartiles are the figure."""
    found = ratio({"fast": [1.0, 2.0, 5.0], "slow": [2.0, 6.0, 20.0]}, "fast", "slow")
    assert (found.median, found.low, found.high) == (3.0, 2.5, 3.5)
    assert str(found) == "3.000 (2.500 to 3.500)"


def test_all_take_turns_and_the_fastest_turn_of_each_counts() -> None:
    """Law: in a round the contenders alternate, and what another program took from a turn is left out."""
    stage = Stage()
    found = [stage.contender("a", [9.0, 2.0]), stage.contender("b", [1.0, 7.0, 1.0])]
    trial = measured(found, [], 10, stage.clock, rounds=1, turns=2)
    assert stage.played == ["a", "b", "a", "b"]
    assert trial.attempts == [{"a": [2.0], "b": [1.0]}]
    assert trial.ratio("b", "a").median == 2.0
    assert trial.rate("a") == 5.0


def test_a_steady_figure_is_measured_once_and_an_unsteady_one_twice() -> None:
    """Law: quartiles more than 10% apart are measured once more; both are printed, and the last one counts."""
    stage = Stage()
    steady = [stage.contender("base", [2.0]), stage.contender("one", [1.0])]
    once = measured(steady, [("one", "base")], 1, stage.clock, rounds=3, turns=1)
    assert len(once.attempts) == 1
    wild = [stage.contender("base", [2.0]), stage.contender("one", [1.0, 2.0, 4.0, 1.0])]
    twice = measured(wild, [("one", "base")], 1, stage.clock, rounds=3, turns=1)
    assert len(twice.attempts) == 2
    assert twice.ratio("one", "base").median == 2.0
    assert twice.said("one", "base") == "1.000 (0.750 to 1.500), again 2.000 (2.000 to 2.000)"


def test_what_is_not_watched_is_not_measured_again() -> None:
    """Law: only figures decide on a second attempt."""
    stage = Stage()
    found = [stage.contender("base", [2.0]), stage.contender("one", [1.0]), stage.contender("other", [1.0, 5.0])]
    assert len(measured(found, [("one", "base")], 1, stage.clock, rounds=3, turns=1).attempts) == 1


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_ratio_that_is_no_number_is_unsteady(broken: float) -> None:
    """Law: NaN and infinity are never taken for a steady figure."""
    assert Ratio(1.0, 1.0, broken).unsteady
    assert Ratio(1.0, 0.96, 1.04).unsteady is False
    assert Trial(1, [{"a": [1.0]}]).names == ["a"]
