"""Adding up what several workers counted."""

from __future__ import annotations

import numpy as np
import pytest
from prometheus_client import Counter, Histogram
from prometheus_client.parser import text_string_to_metric_families

from service.aggregation import Family, Registry, counted, exposition, merged, packed, unpacked
from service.histograms import ArrayHistogram


class Worker:
    """What one worker counts."""

    def __init__(self) -> None:
        self.registry = Registry()
        self.requests = Counter("espalier_tries", "Tries.", ["route"], registry=self.registry)
        self.seconds = Histogram("espalier_try_seconds", "Time.", buckets=(0.1, 1.0), registry=self.registry)
        self.scores = ArrayHistogram("espalier_try_score", "Scores.", (0.5,), self.registry)
        self.rows = self.registry.gauge("espalier_try_rows", "Rows.")
        self.oldest = self.registry.gauge("espalier_try_age_seconds", "Age.", ["feed"], merge="max")
        self.reached = self.registry.gauge("espalier_try_reached", "Reached.", merge="min")


def samples(families: list[Family]) -> dict[str, float]:
    """Sample with its labels, as Prometheus writes it -> value."""
    text = exposition(families).decode()
    parsed = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {s.name + "".join(f"/{s.labels[name]}" for name in sorted(s.labels)): s.value for s in parsed}


def test_counters_and_histograms_are_summed_and_gauges_as_their_owner_says() -> None:
    """Law: each bucket and each labelled series adds up by itself; a gauge is the sum, the largest or the smallest."""
    one, two = Worker(), Worker()
    for worker, number in ((one, 1), (two, 3)):
        worker.requests.labels("/score").inc(number)
        worker.seconds.observe(0.05 * number)
        worker.scores.observe_all(np.array([0.2, 0.4 * number]))
        worker.rows.set(10 * number)
        worker.oldest.labels("redis").set(number)
        worker.reached.set(number - 1)
    two.requests.labels("/metrics").inc(5)
    both = samples(merged([one.registry.families(), two.registry.families()]))
    assert both["espalier_tries_total//score"] == 4
    assert both["espalier_tries_total//metrics"] == 5
    assert (both["espalier_try_seconds_bucket/0.1"], both["espalier_try_seconds_bucket/1.0"]) == (1, 2)
    assert both["espalier_try_seconds_count"] == 2
    assert both["espalier_try_seconds_sum"] == pytest.approx(0.2)
    assert (both["espalier_try_score_bucket/0.5"], both["espalier_try_score_count"]) == (3, 4)
    assert both["espalier_try_rows"] == 40
    assert both["espalier_try_age_seconds/redis"] == 3
    assert both["espalier_try_reached"] == 0


def test_one_report_is_shown_as_the_client_library_would() -> None:
    """Law: a family keeps its type and its help; no series tells when it began."""
    worker = Worker()
    worker.requests.labels("/score").inc()
    text = exposition(merged([worker.registry.families()])).decode()
    assert "# HELP espalier_tries_total Tries.\n# TYPE espalier_tries_total counter\n" in text
    assert "# TYPE espalier_try_seconds histogram" in text
    assert "_created" not in text


def test_what_stays_of_a_worker_that_ended_is_what_it_counted() -> None:
    """Law: counters and histograms stay, gauges go."""
    kinds = {family.name: family.kind for family in counted(Worker().registry.families())}
    assert kinds == {
        "espalier_tries": "counter",
        "espalier_try_seconds": "histogram",
        "espalier_try_score": "histogram",
    }


def test_a_report_survives_the_wire_and_a_broken_one_is_refused() -> None:
    """Law: packing loses nothing, not even infinity; bytes that are no report are an error, and no bomb."""
    worker = Worker()
    worker.rows.set(float("inf"))
    families = worker.registry.families()
    assert unpacked(packed(families)) == families
    for broken in (b"", b"no report", packed(families)[:-3], packed([])[:-1]):
        with pytest.raises(ValueError, match="report of metrics"):
            unpacked(broken)
