"""Metrics: what is told becomes what /metrics shows, and nothing unbounded becomes a label."""

from __future__ import annotations

import io

from prometheus_client.parser import text_string_to_metric_families

from service.logs import open_log
from service.metrics import STAGES, Metrics
from service.observer import Observer

BOUNDED = {"route", "status", "stage", "reason", "outcome", "le"}


def told(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample by name and labels."""
    families = text_string_to_metric_families(metrics.exposition().decode())
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def test_what_the_core_tells_is_shown() -> None:
    """Each call of the observer moves its metric."""
    metrics = Metrics(open_log(stream=io.StringIO()))
    observer: Observer = metrics
    observer.stage("queue", 0.002)
    observer.batch(rows=300, segments=3)
    observer.queue(17)
    observer.fallback("loading")
    observer.adapter_loaded("rejected")
    observer.resident(5, 1000)
    metrics.rows(100)
    metrics.request("/score", 200)
    samples = told(metrics)
    assert samples["espalier_stage_seconds_count", (("stage", "queue"),)] == 1
    assert samples["espalier_batch_rows_sum", ()] == 300
    assert samples["espalier_queue_rows", ()] == 17
    assert samples["espalier_fallbacks_total", (("reason", "loading"),)] == 1
    assert samples["espalier_adapter_loads_total", (("outcome", "rejected"),)] == 1
    assert samples["espalier_resident_adapters", ()] == 5
    assert samples["espalier_rows_total", ()] == 100
    assert samples["espalier_requests_total", (("route", "/score"), ("status", "200"))] == 1


def test_domains_and_revisions_go_to_the_log_and_become_no_label() -> None:
    """A label whose values grow with the domains would drown the one who scrapes."""
    stream = io.StringIO()
    metrics = Metrics(open_log(stream=stream))
    metrics.activated("women", "a" * 64, 3)
    metrics.rejected("women", "b" * 64, "tower.0.down is not finite")
    for stage in STAGES:
        metrics.stage(stage, 0.1)
    assert {name for _, labels in told(metrics) for name, _ in labels} <= BOUNDED
    assert "women" not in metrics.exposition().decode()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2
    assert '"reason": "tower.0.down is not finite"' in lines[1]


def test_two_replicas_in_one_process_share_nothing() -> None:
    """Each has a registry of its own."""
    first, second = (Metrics(open_log(stream=io.StringIO())) for _ in range(2))
    first.rows(3)
    assert told(second)["espalier_rows_total", ()] == 0
