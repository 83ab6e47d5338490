"""Stages and arrivals."""

from __future__ import annotations

import random

import numpy as np
import pytest

from loadtest.errors import LoadTestError
from loadtest.plan import Plan, arrivals, soak, spike, step


def test_steps_grow_by_their_factor_without_gaps() -> None:
    """Law: each step has the factor's multiple of the load before, and begins where that ends."""
    plan = step(50, 2, 3, 10)
    assert [stage.load for stage in plan.stages] == [50, 100, 200]
    assert [(stage.start_s, stage.end_s) for stage in plan.stages] == [(0, 10), (10, 20), (20, 30)]
    assert plan.at(9.99) == plan.stages[0]
    assert plan.at(10.0) == plan.stages[1]
    assert plan.at(30.0) is None


def test_a_spike_is_shown_and_what_surrounds_it_is_judged() -> None:
    """Law: before and after a spike the bounds must hold, in it they need not."""
    assert [(stage.load, stage.judged) for stage in spike(40, 3, 5).stages] == [(40, True), (120, False), (40, True)]


@pytest.mark.parametrize("make", [lambda: step(0, 2, 3, 10), lambda: step(5, 1, 3, 10), lambda: soak(10, 0)])
def test_a_plan_that_is_none_is_refused(make: object) -> None:
    """Law: no load, no time and steps that do not grow are refused with a reason."""
    assert callable(make)
    with pytest.raises(LoadTestError, match=r"positive|grow"):
        make()


def test_arrivals_have_each_stages_rate() -> None:
    """Law: requests fall due as a Poisson process of the stage's rate, in order, and none outside the plan."""
    plan: Plan = step(200, 3, 2, 50)
    due = np.array(list(arrivals(plan, random.Random(1))))
    assert (np.diff(due) > 0).all()
    counts = [int(((due >= s.start_s) & (due < s.end_s)).sum()) for s in plan.stages]
    assert sum(counts) == len(due)
    # five standard deviations of 10,000 and 30,000 arrivals
    assert abs(counts[0] - 10_000) < 500
    assert abs(counts[1] - 30_000) < 870
    # the gaps of a Poisson process spread as much as they last
    gaps = np.diff(due[due < 50])
    assert gaps.std() / gaps.mean() == pytest.approx(1.0, abs=0.05)
