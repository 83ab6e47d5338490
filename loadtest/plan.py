"""How much load when: stages of step, spike and soak."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from loadtest.errors import LoadTestError

Shape = Literal["step", "spike", "soak"]
SHAPES: tuple[Shape, ...] = ("step", "spike", "soak")


@dataclass(frozen=True, slots=True)
class Stage:
    """One level of load.

    Args:
        name: of the stage.
        load: requests due a second (open loop), or users that ask as fast as they are answered (closed loop).
        start_s: since the test began.
        end_s: since the test began.
        settle_s: of its beginning that no figure counts.
        judged: whether the bounds must hold here; a stage of overload is only shown.
    """

    name: str
    load: float
    start_s: float
    end_s: float
    settle_s: float
    judged: bool = True


@dataclass(frozen=True)
class Plan:
    """Stages one after the other.

    Args:
        shape: of them.
        stages: without gaps.
    """

    shape: Shape
    stages: tuple[Stage, ...]

    @property
    def end_s(self) -> float:
        """When the last one ends."""
        return self.stages[-1].end_s

    def at(self, offset_s: float) -> Stage | None:
        """The stage at a moment; None once all are over."""
        return next((stage for stage in self.stages if offset_s < stage.end_s), None)


def step(first: float, factor: float, count: int, stage_s: float) -> Plan:
    """Each stage has `factor` times the load of the one before; where that shows the knee, a test ends early."""
    if factor <= 1:
        raise LoadTestError(f"steps must grow: --factor {factor:g} is not above 1")
    loads = [first * factor**number for number in range(count)]
    return _plan("step", [(f"step {number}", load, stage_s, True) for number, load in enumerate(loads, 1)])


def spike(load: float, factor: float, stage_s: float) -> Plan:
    """Calm, a spike of `factor` times the load, and calm again: the bounds hold before it and after it."""
    names = [("before", load, True), ("spike", load * factor, False), ("after", load, True)]
    return _plan("spike", [(name, height, stage_s, judged) for name, height, judged in names])


def soak(load: float, seconds: float) -> Plan:
    """One load for a long time."""
    return _plan("soak", [("soak", load, seconds, True)])


def arrivals(plan: Plan, rng: random.Random) -> Iterator[float]:
    """When requests are due, in seconds since the test began: a Poisson process of each stage's rate."""
    due = 0.0
    for stage in plan.stages:
        # it has no memory, so each stage may draw afresh from its beginning
        due = stage.start_s + rng.expovariate(stage.load)
        while due < stage.end_s:
            yield due
            due += rng.expovariate(stage.load)


def _plan(shape: Shape, parts: Sequence[tuple[str, float, float, bool]]) -> Plan:
    if not all(load > 0 and seconds > 0 for _, load, seconds, _ in parts):
        raise LoadTestError("a load and the time it lasts must be positive")
    stages, start = [], 0.0
    for name, load, seconds, judged in parts:
        stages.append(Stage(name, load, start, start + seconds, min(2.0, seconds / 4), judged))
        start += seconds
    return Plan(shape, tuple(stages))
