"""Metrics: what is told becomes what /metrics shows, and nothing unbounded becomes a label."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.logs import open_log
from service.metrics import STAGES, Metrics
from service.observer import Observer

BOUNDED = {"route", "status", "stage", "reason", "outcome", "le", "operation", "side"}


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


def test_the_life_of_adapters_is_shown() -> None:
    """Law: each call on residency, feed, comparison, staging and tables moves its metric."""
    metrics = Metrics(open_log(stream=io.StringIO()))
    metrics.evicted("women", 12.0)
    metrics.churn(3, 1000)
    metrics.feed(0.2, resync=False)
    metrics.feed(None, resync=True)
    metrics.reconciled(4)
    metrics.shadow_dropped()
    metrics.canary_scored(50)
    metrics.staged("a" * 64, 7, 9)
    metrics.store_failed("read_record")
    metrics.prewarmed(40, 1.5)
    metrics.tables_swapped("items", "b" * 64, 1000)
    metrics.backbone_only(True)
    samples = told(metrics)
    assert samples["espalier_evicted_adapter_age_seconds_count", ()] == 1
    assert samples["espalier_churned_adapters_total", ()] == 3
    assert samples["espalier_feed_lag_seconds_sum", ()] == pytest.approx(0.2)
    assert samples["espalier_feed_resyncs_total", ()] == 1
    assert (samples["espalier_reconciles_total", ()], samples["espalier_reconciled_records_total", ()]) == (1, 4)
    assert samples["espalier_shadow_dropped_total", ()] == 1
    assert samples["espalier_canary_rows_total", ()] == 50
    assert samples["espalier_staged_adapters", ()] == 9
    assert samples["espalier_staged_prepared_adapters", ()] == 7
    assert samples["espalier_store_failures_total", (("operation", "read_record"),)] == 1
    assert (samples["espalier_prewarmed_domains", ()], samples["espalier_prewarm_seconds", ()]) == (40, 1.5)
    assert samples["espalier_table_swaps_total", (("side", "items"),)] == 1
    assert samples["espalier_table_rows", (("side", "items"),)] == 1000
    assert samples["espalier_adapters_only_backbone", ()] == 1


def test_shadow_differences_are_counted_row_by_row() -> None:
    """Law: every finite row falls into its bucket by its absolute difference; a bound belongs to its bucket."""
    metrics = Metrics(open_log(stream=io.StringIO()))
    metrics.shadow_scored(np.array([0.0, -0.001, 0.5, np.nan]), 0.93)
    metrics.shadow_scored(np.array([0.02]), None)
    samples = told(metrics)
    buckets = {labels[0][1]: n for (name, labels), n in samples.items() if name == "espalier_shadow_difference_bucket"}
    assert (buckets["0.0003"], buckets["0.001"], buckets["0.03"], buckets["0.3"], buckets["+Inf"]) == (1, 2, 3, 3, 4)
    assert samples["espalier_shadow_difference_count", ()] == 4
    assert samples["espalier_shadow_difference_sum", ()] == pytest.approx(0.521)
    assert samples["espalier_shadow_rank_correlation_count", ()] == 1


def test_a_memory_limit_that_is_too_small_says_what_to_set() -> None:
    """Law: churn is a log line with the limit, the setting and a value that is larger."""
    stream = io.StringIO()
    Metrics(open_log(stream=stream)).churn(5, 2_000_000)
    line = json.loads(stream.getvalue())
    assert (line["event"], line["level"], line["evictions"], line["limit_bytes"]) == ("churn", "warning", 5, 2_000_000)
    assert "memory_bytes" in line["advice"]
    assert "4000000" in line["advice"]


def test_staging_and_switching_are_logged_once() -> None:
    """Law: progress is told again and again, its beginning and its end are logged, and so is each throw of a switch."""
    stream = io.StringIO()
    metrics = Metrics(open_log(stream=stream))
    for prepared, of in ((0, 0), (0, 2), (1, 2), (2, 2), (2, 2)):
        metrics.staged("a" * 64, prepared, of)
        metrics.backbone_only(prepared == 2)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(line["event"], line.get("prepared")) for line in lines] == [
        ("staged", 0),
        ("staged", 2),
        ("adapters_only_backbone", None),
    ]


def test_no_series_tells_when_it_began() -> None:
    """Law: the client library's `_created` series, one for each other series, are left out."""
    metrics = Metrics(open_log(stream=io.StringIO()))
    metrics.request("/score", 200)
    assert "_created" not in metrics.exposition().decode()


def test_domains_and_revisions_go_to_the_log_and_become_no_label() -> None:
    """A label whose values grow with the domains would drown the one who scrapes."""
    stream = io.StringIO()
    metrics = Metrics(open_log(stream=stream))
    metrics.activated("women", "a" * 64, 3)
    metrics.rejected("women", "b" * 64, "tower.0.down is not finite")
    metrics.evicted("women", 3.0)
    metrics.tables_swapped("users", "c" * 64, 1)
    for stage in STAGES:
        metrics.stage(stage, 0.1)
    assert {name for _, labels in told(metrics) for name, _ in labels} <= BOUNDED
    assert "women" not in metrics.exposition().decode()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 3
    assert "c" * 64 not in metrics.exposition().decode()
    assert '"reason": "tower.0.down is not finite"' in lines[1]


def test_two_replicas_in_one_process_share_nothing() -> None:
    """Each has a registry of its own."""
    first, second = (Metrics(open_log(stream=io.StringIO())) for _ in range(2))
    first.rows(3)
    assert told(second)["espalier_rows_total", ()] == 0


def test_a_worker_marks_every_series_as_its_own() -> None:
    """Law: given labels stand on each sample, beside its own; a scrape of another worker then moves other series."""
    metrics = Metrics(open_log(stream=io.StringIO()), labels={"worker": "2"})
    metrics.request("/score", 200)
    metrics.shadow_scored(np.array([0.1]), 0.5)
    samples = told(metrics)
    assert all(dict(labels)["worker"] == "2" for _, labels in samples)
    assert samples["espalier_requests_total", (("route", "/score"), ("status", "200"), ("worker", "2"))] == 1
