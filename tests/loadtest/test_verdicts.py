"""Figures, the knee, and what passes."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from loadtest.answers import Outcome
from loadtest.plan import soak, spike, step
from loadtest.samples import Row, Samples, slope
from loadtest.verdicts import Bounds, Finding, judge, knee, past_knee

BOUNDS = Bounds(p99_ms=50, error_share=0.01)
GOOD = Row("step", 100, 0, 10, 1000, 100.0, 5.0, 20.0, errors=0, unsent=0, fallbacks=0, wrong=0)
NOTHING = Row("none", 0, 0, 10, 0, 0.0, math.nan, math.nan, errors=0, unsent=0, fallbacks=0, wrong=0)


def loads(*p99s: float) -> list[Row]:
    """Steps of 100, 200, ... with these p99."""
    return [replace(GOOD, load=100.0 * number, p99_ms=p99) for number, p99 in enumerate(p99s, 1)]


def failed(findings: list[Finding]) -> list[str]:
    """Names of the findings that do not hold."""
    return [finding.name for finding in findings if not finding.holds]


def test_the_knee_is_the_highest_load_that_holds() -> None:
    """Law: the knee is the highest load within all bounds; it is reached if a higher one was not."""
    found = knee(loads(10, 20, 40, 90, 400), BOUNDS)
    assert found is not None
    assert (found.load, found.p99_ms, found.reached) == (300, 40, True)
    above = knee(loads(10, 20), BOUNDS)
    assert above is not None
    assert not above.reached
    assert knee(loads(90), BOUNDS) is None
    assert knee([], BOUNDS) is None


def test_one_hiccup_does_not_end_the_steps() -> None:
    """Law: steps end after two loads in a row that do not hold, not after one."""
    assert not past_knee(loads(10, 90), BOUNDS)
    assert not past_knee(loads(90, 10), BOUNDS)
    assert past_knee(loads(10, 90, 90), BOUNDS)


@pytest.mark.parametrize("bad", [{"errors": 11}, {"fallbacks": 11}, {"wrong": 1}, {"p99_ms": 51.0}, {"requests": 0}])
def test_every_bound_ends_a_load(bad: dict[str, float]) -> None:
    """Law: errors, fallbacks, a wrong revision, a late p99 or no requests at all each keep a load from holding."""
    assert BOUNDS.hold(GOOD)
    assert not BOUNDS.hold(replace(GOOD, **bad))


def test_a_request_never_sent_is_an_error_and_infinitely_late() -> None:
    """Law: what an overloaded stage could not send counts in its errors and in its percentiles."""
    samples = Samples()
    for number in range(100):
        samples.add(number / 10, 0.001 * number, Outcome.OK)
    assert samples.row("all", 10, 0, 10).p99_ms == pytest.approx(98.0)
    for _ in range(2):
        samples.add(5.0, math.inf, Outcome.UNSENT)
    row = samples.row("all", 10, 0, 10)
    assert (row.requests, row.unsent, row.errors, row.p99_ms) == (102, 2, 2, math.inf)
    assert row.p50_ms < 100
    assert row.answered_per_s == 10


def test_a_row_counts_requests_by_when_they_were_due() -> None:
    """Law: a request belongs to the stretch in which it was due, however late its answer came."""
    samples = Samples()
    samples.add(0.5, 30.0, Outcome.OK)
    samples.add(1.5, 0.1, Outcome.WRONG)
    assert samples.row("first", 1, 0, 1).requests == 1
    assert samples.row("second", 1, 1, 2).wrong == 1


def test_one_wrong_answer_fails_every_shape() -> None:
    """Law: a single answer by a wrong revision fails a test, whatever else holds."""
    for plan in (step(100, 2, 2, 10), spike(100, 2, 10), soak(100, 10)):
        rows = [GOOD] * len(plan.stages)
        assert failed(judge(plan, rows, GOOD, GOOD, wrong=0, bounds=BOUNDS)) == []
        assert failed(judge(plan, rows, GOOD, GOOD, wrong=1, bounds=BOUNDS)) == ["answers scored by a wrong revision"]


def test_a_spike_may_overload_but_must_pass() -> None:
    """Law: the spike itself may break the bounds; what comes after it may not."""
    bad = replace(GOOD, p99_ms=900.0, errors=500)
    plan = spike(100, 3, 10)
    assert failed(judge(plan, [GOOD, bad, GOOD], NOTHING, NOTHING, 0, BOUNDS)) == []
    assert len(failed(judge(plan, [GOOD, GOOD, bad], NOTHING, NOTHING, 0, BOUNDS))) == 2


def test_a_soak_holds_changes_and_cold_domains_too() -> None:
    """Law: errors of publishes, canary flips or cold domains fail a soak; so does one that did not run to its end."""
    bad = replace(GOOD, name="changes", errors=500)
    plan = soak(100, 10)
    assert failed(judge(plan, [GOOD], NOTHING, bad, 0, BOUNDS)) == ["changes: share of errors"]
    assert failed(judge(plan, [GOOD], bad, NOTHING, 0, BOUNDS)) == ["changes: share of errors"]
    assert failed(judge(plan, [], NOTHING, NOTHING, 0, BOUNDS)) == ["stages that did not run to their end"]


def test_the_knee_can_be_demanded() -> None:
    """Law: with a least knee, a lower one fails; with none, any knee passes and no knee fails."""
    plan, rows = step(100, 2, 3, 10), loads(10, 90, 90)
    assert failed(judge(plan, rows, NOTHING, NOTHING, 0, BOUNDS)) == []
    assert failed(judge(plan, rows, NOTHING, NOTHING, 0, replace(BOUNDS, knee=150))) == ["knee, load"]
    assert failed(judge(plan, loads(90), NOTHING, NOTHING, 0, BOUNDS)) == ["knee, load"]


def test_growth_is_of_the_last_part() -> None:
    """Law: growth is the fitted rise over the last 80%, relative to the mean there; what warms up first is left out."""
    times = np.linspace(0, 100, 101)
    values = np.where(times < 20, 1.0, 100.0 + 0.1 * (times - 20))
    assert slope(times, values) == pytest.approx(8 / 104, abs=1e-6)
    assert slope(times, np.full(101, 7.0)) == pytest.approx(0.0, abs=1e-9)
    assert math.isnan(slope(times[:2], values[:2]))
