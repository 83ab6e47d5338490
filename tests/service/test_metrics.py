"""Metrics: what is told becomes what /metrics shows, and nothing unbounded becomes a label."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import shutil
import time
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from adapters_store.errors import StoreRefused, StoreUnavailable
from service.access_log import AccessLog
from service.feedback.metrics import FeedbackMetrics
from service.feedback.online import Figures
from service.logs import open_log
from service.metrics import STAGES, Metrics
from service.observer import Observer
from service.rate_limits import Limits, RateLimits
from service.refusals import RateLimited
from tests.service.clockwork import ManualClock

BOUNDED = {"route", "status", "stage", "reason", "outcome", "le", "operation", "side", "version", "backend", "where"}

REFERENCE = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")


def tell_everything(metrics: Metrics) -> None:
    """Every call of the observer, so that every metric has a series."""
    metrics.stage("queue", 0.002)
    metrics.batch(rows=300, segments=3)
    metrics.queue(17)
    metrics.limits(100, 1000)
    metrics.fallback("loading")
    metrics.deadline_missed("queue")
    metrics.adapter_loaded("rejected")
    metrics.prepared("used")
    metrics.rejected("women", "a" * 64, "no", kind="BadTensor")
    metrics.resident(5, 1000)
    metrics.rows(100)
    metrics.request("/score", 200, 0.1)
    metrics.scored("women", np.array([0.5]), known=True, alias="canary", fallback=None, tried=True, made_s=0.0)
    metrics.scored("women", np.array([0.5]), known=True, alias="live", fallback=None, tried=True, made_s=0.0)
    metrics.evicted("women", 12.0)
    metrics.churn(3, 1000)
    metrics.feed(0.2, resync=True)
    metrics.feed_answered()
    metrics.swapped(0.1)
    metrics.propagated("1970-01-01T00:00:00Z")
    metrics.store_called("file", "read_record", 0.1, StoreUnavailable("down"))
    metrics.store_failed("reconcile")
    metrics.reconciled(4)
    metrics.shadow_scored(np.array([0.1]), 0.5)
    metrics.shadow_dropped()
    metrics.canary_scored(50)
    metrics.staged("a" * 64, 7, 9)
    metrics.prewarmed(40, 1.5)
    metrics.tables_swapped("items", "b" * 64, 1000)
    metrics.backbone_only(True)
    metrics.backbones("a" * 64, None, None, None)


def tell_of_others(metrics: Metrics) -> None:
    """What others register on the same registry."""
    log = open_log(stream=io.StringIO())
    AccessLog(log, metrics.registry, share=1.0, clock=ManualClock())
    limits = RateLimits(ManualClock(), metrics.registry, 10)
    limits.request("me", Limits(requests_per_s=1.0))
    with pytest.raises(RateLimited):
        limits.request("me", Limits(requests_per_s=1.0))
    FeedbackMetrics(metrics.registry, 1 << 30).online({"women": Figures(auc=0.7, calibration_ratio=1.0, psi=0.1)})


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


def read(shown: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample by name and labels."""
    families = text_string_to_metric_families(shown.decode())
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def score(metrics: Metrics, domain: str, scores: list[float], **options: Any) -> None:
    """A scored request."""
    given = {"known": True, "alias": "live", "fallback": None, "tried": False, "made_s": None}
    metrics.scored(domain, np.array(scores), **{**given, **options})


def buckets(samples: dict[tuple[str, tuple[tuple[str, str], ...]], float], name: str) -> dict[str, float]:
    """Upper bound -> count, of a histogram without other labels."""
    return {labels[0][1]: value for (sample, labels), value in samples.items() if sample == f"{name}_bucket"}


def test_what_happens_to_the_store_is_shown_by_backend_and_operation() -> None:
    """Law: a call is timed, a failure counted, and the store is down after a call that it did not answer, then up."""
    metrics = Metrics(open_log(stream=io.StringIO()))
    metrics.store_called("redis", "read_record", 0.003, None)
    metrics.store_called("redis", "changes", 5.0, None)
    samples = told(metrics)
    call = (("backend", "redis"), ("operation", "read_record"))
    assert samples["espalier_store_call_seconds_count", call] == 1
    assert ("espalier_store_call_seconds_count", (("backend", "redis"), ("operation", "changes"))) not in samples
    assert samples["espalier_store_reachable", (("backend", "redis"),)] == 1
    metrics.store_called("redis", "read_record", 2.0, StoreUnavailable("down"))
    samples = told(metrics)
    assert samples["espalier_store_errors_total", call] == 1
    assert samples["espalier_store_reachable", (("backend", "redis"),)] == 0
    metrics.store_called("redis", "put_blob", 0.1, StoreRefused("it may evict"))
    assert told(metrics)["espalier_store_reachable", (("backend", "redis"),)] == 1


def test_the_age_of_the_feed_grows_until_it_answers() -> None:
    """Law: seconds since the last answer; no series before the feed is followed."""
    now = [100.0]
    metrics = Metrics(open_log(stream=io.StringIO()), now=lambda: now[0])
    assert ("espalier_feed_age_seconds", ()) not in told(metrics)
    metrics.feed_answered()
    now[0] += 7.5
    assert told(metrics)["espalier_feed_age_seconds", ()] == 7.5
    metrics.feed_answered()
    assert told(metrics)["espalier_feed_age_seconds", ()] == 0


def test_swaps_are_timed_from_the_reading_and_from_the_writing_of_the_record() -> None:
    """Law: both histograms move; where nobody knows when the record was written, the first alone."""
    metrics = Metrics(open_log(stream=io.StringIO()), wall=lambda: 1000.0)
    metrics.swapped(0.03)
    metrics.propagated("1970-01-01T00:16:39.800Z")
    metrics.propagated("at some time")
    metrics.propagated("1970-01-01T00:16:41Z")  # by a clock that is ahead
    samples = told(metrics)
    assert samples["espalier_swap_seconds_count", ()] == 1
    assert samples["espalier_swap_seconds_sum", ()] == pytest.approx(0.03)
    assert samples["espalier_propagation_seconds_count", ()] == 2
    assert samples["espalier_propagation_seconds_sum", ()] == pytest.approx(0.2)


def test_limits_deadlines_and_rejections_are_shown() -> None:
    """Law: each has its metric; a rejection's label is the class of the error, not its text."""
    metrics = Metrics(open_log(stream=io.StringIO()))
    metrics.limits(queue_rows=65_536, memory_bytes=1 << 30)
    metrics.deadline_missed("engine")
    metrics.rejected("women", "a" * 64, "tower.0.down is not finite", kind="NotFinite")
    metrics.request("/score", 200, 0.02)
    samples = told(metrics)
    assert samples["espalier_queue_limit_rows", ()] == 65_536
    assert samples["espalier_resident_limit_bytes", ()] == 1 << 30
    assert samples["espalier_deadline_misses_total", (("where", "engine"),)] == 1
    assert samples["espalier_adapter_rejects_total", (("reason", "NotFinite"),)] == 1
    assert samples["espalier_request_seconds_bucket", (("le", "0.025"), ("route", "/score"))] == 1


def test_scores_fall_into_buckets_and_apart_where_a_canary_runs() -> None:
    """Law: every row counts once as a score; beside a canary also as the canary's or live's; a fallback as none."""
    metrics = Metrics(open_log(stream=io.StringIO()))
    score(metrics, "women", [0.004, 0.05, 0.97])
    score(metrics, "men", [0.5], tried=True)
    score(metrics, "men", [0.6, 0.7], alias="canary", tried=True)
    score(metrics, "men", [0.9], alias="previous", fallback="adapter_rejected", tried=True)
    samples = told(metrics)
    scores = buckets(samples, "espalier_score")
    assert (scores["0.005"], scores["0.05"], scores["0.9"], scores["0.99"], scores["+Inf"]) == (1, 2, 6, 7, 7)
    assert samples["espalier_canary_score_count", ()] == 2
    assert samples["espalier_live_score_count", ()] == 1
    assert samples["espalier_live_score_sum", ()] == pytest.approx(0.5)


def test_the_age_of_an_adapter_counts_from_its_making() -> None:
    """Law: by request; none where no adapter scored, and never below zero."""
    metrics = Metrics(open_log(stream=io.StringIO()), wall=lambda: 1_000_000.0)
    score(metrics, "women", [0.5], made_s=1_000_000.0 - 3700)
    score(metrics, "women", [0.5], made_s=1_000_005.0)
    score(metrics, "women", [0.5], alias=None, fallback="no_adapter")
    ages = buckets(told(metrics), "espalier_adapter_age_seconds")
    assert (ages["60.0"], ages["3600.0"], ages["21600.0"], ages["+Inf"]) == (1, 1, 2, 2)


async def test_a_process_that_serves_alone_shows_its_domains_too() -> None:
    """Law: requests, rows and fallbacks by domain; what nobody knows is `other`; counts of one domain are exact."""
    metrics = Metrics(open_log(stream=io.StringIO()), domains=1, wall=lambda: 0.0)
    for _ in range(3):
        score(metrics, "women", [0.5, 0.5])
    score(metrics, "women", [0.5], fallback="loading", alias=None)
    score(metrics, "made-up", [0.5], known=False, alias=None, fallback="unknown_domain")
    samples = read(await metrics.shown())
    women, other = (("domain", "women"),), (("domain", "other"),)
    assert [samples[f"espalier_domain_{what}_total", women] for what in ("requests", "rows", "fallbacks")] == [4, 7, 1]
    assert [samples[f"espalier_domain_{what}_total", other] for what in ("requests", "rows", "fallbacks")] == [1, 1, 1]
    assert samples["espalier_worker_up", (("worker", "1"),)] == 1
    stats = await metrics.domain_stats("women")
    assert (stats.requests, stats.rows, stats.fallbacks, stats.exact) == (4, 7, {"loading": 1}, True)
    assert stats.since == "1970-01-01T00:00:00.000Z"
    made_up = await metrics.domain_stats("made-up")
    assert (made_up.requests, made_up.exact) == (1, True)


async def test_with_the_largest_fleet_series_stay_few_and_a_scrape_quick() -> None:
    """Law: with 69,102 domains scored and everything told: fewer than 2,000 series, at most 100 ms of this process."""
    metrics = Metrics(open_log(stream=io.StringIO()), domains=200)
    for number in range(69_102):
        score(metrics, f"domain-{number}", [0.5], fallback=None if number % 7 else "loading")
    for route in range(25):
        for status in (200, 400, 401, 403, 404, 422, 429, 503):
            metrics.request(f"/route-{route}", status, 0.01)
    for operation in range(18):
        metrics.store_called("redis", f"operation-{operation}", 0.01, StoreUnavailable("down"))
    for stage in STAGES:
        metrics.stage(stage, 0.1)
    await metrics.shown()
    spent = []
    for _ in range(3):
        began = time.process_time()
        shown = await metrics.shown()
        spent.append(time.process_time() - began)
    series = [line for line in shown.decode().splitlines() if not line.startswith("#")]
    assert 600 < len(series) < 2000
    assert min(spent) < 0.1
    assert (await metrics.domain_stats("domain-69101")).requests == 1
    assert (await metrics.domain_stats("domain-7")).fallbacks == {"loading": 1}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian: prometheus) is not installed")
async def test_promtool_finds_no_fault() -> None:
    """Law: names, units, types and help are as Prometheus' own linter wants them."""
    metrics = Metrics(open_log(stream=io.StringIO()))
    tell_everything(metrics)
    tell_of_others(metrics)
    promtool = shutil.which("promtool")
    assert promtool is not None
    child = await asyncio.create_subprocess_exec(
        promtool, "check", "metrics", stdin=PIPE, stdout=PIPE, stderr=PIPE, env={"PATH": os.environ["PATH"]}
    )
    said = await child.communicate(await metrics.shown())
    assert (child.returncode, *said) == (0, b"", b"")


async def test_every_metric_stands_in_the_reference_as_it_is() -> None:
    """Law: docs/metrics.md has each metric with its type and its labels, and none that does not exist."""
    metrics = Metrics(open_log(stream=io.StringIO()))
    tell_everything(metrics)
    tell_of_others(metrics)
    metrics.works_as(1, 2, 4711)
    documented = {
        name: (kind, tuple(sorted(re.findall(r"`(\w+)`", labels))))
        for name, kind, labels in re.findall(r"^\| `(\w+)` \| (\w+) \|[^|]*\|([^|]*)\|", REFERENCE, re.MULTILINE)
    }
    shown = {}
    for family in text_string_to_metric_families((await metrics.shown()).decode()):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        shown[name] = (family.type, tuple(sorted(labels)))
    assert documented == {name: what for name, what in shown.items() if not name.startswith("process_")}
