"""Histograms that count later count the same."""

from __future__ import annotations

import math
from bisect import bisect_left

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from service.histograms import Buckets, LabelledHistogram

BOUNDS = (0.1, 0.5, 1.0)
VALUES = st.floats(0, 3, width=16) | st.sampled_from([*BOUNDS, math.nan, math.inf])


@given(st.lists(VALUES | st.lists(VALUES, max_size=20)), st.sets(st.integers(0, 30)))
def test_every_finite_value_is_counted_once_in_the_first_bucket_that_holds_it(
    told: list[float | list[float]], looks: set[int]
) -> None:
    """Law: one by one or as arrays, looked at in between or not; a bound belongs to its bucket (Prometheus' `le`)."""
    buckets, counts, total = Buckets(BOUNDS), [0] * 4, 0.0
    for number, each in enumerate(told):
        if isinstance(each, list):
            buckets.observe_all(np.array(each, np.float64))
        else:
            buckets.observe(each)
        for value in each if isinstance(each, list) else [each]:
            if math.isfinite(value):
                counts[bisect_left(BOUNDS, value)] += 1
                total += value
        if number in looks:
            buckets.shown()
    shown, seen = buckets.shown()
    assert shown == [(str(b), sum(counts[: n + 1])) for n, b in enumerate((*BOUNDS, "+Inf"))]
    assert seen == pytest.approx(total)


def test_what_waits_to_be_counted_is_bounded() -> None:
    """Law: however much is told between two looks, only some thousand values are kept; the rest is counted already."""
    buckets = Buckets(BOUNDS)
    for _ in range(20_000):
        buckets.observe(0.2)
        buckets.observe_all(np.empty(0))
        buckets.observe_all(np.full(7, 0.2))
    waiting = len(buckets._values) + len(buckets._arrays) + sum(map(len, buckets._arrays))
    assert waiting <= 4100
    assert buckets.shown()[0][1] == ("0.5", 160_000)


def test_values_of_a_label_are_counted_apart() -> None:
    """Law: each value of the label has buckets of its own, under the label's name."""
    registry = CollectorRegistry()
    histogram = LabelledHistogram("espalier_try_seconds", "Time.", "stage", BOUNDS, registry)
    histogram.of("queue").observe(0.3)
    histogram.of("engine").observe(0.7)
    histogram.of("queue").observe(0.05)
    assert registry.get_sample_value("espalier_try_seconds_bucket", {"stage": "queue", "le": "0.5"}) == 2
    assert registry.get_sample_value("espalier_try_seconds_bucket", {"stage": "engine", "le": "0.5"}) == 0
    assert registry.get_sample_value("espalier_try_seconds_count", {"stage": "engine"}) == 1
    assert registry.get_sample_value("espalier_try_seconds_sum", {"stage": "queue"}) == pytest.approx(0.35)
