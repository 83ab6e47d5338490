"""Metrics of the life of adapters on one replica: feed, residency, canary, shadow, staging, tables."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from structlog.typing import FilteringBoundLogger

from service.histograms import ArrayHistogram

LAGS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 120.0)
AGES = (1.0, 10.0, 60.0, 600.0, 3600.0, 21_600.0, 86_400.0)
DIFFERENCES = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
# the first bound is negative, so the client library shows no sum, which could fall and read as a restart
CORRELATIONS = (-0.5, 0.0, 0.5, 0.8, 0.9, 0.95, 0.99, 0.999)


class LifecycleMetrics:
    """The part of `service.observer.Observer` that tells of adapters coming, going and being compared.

    Args:
        log: where what names a domain or a revision is written, because those are no label.
        registry: shows the metrics.
    """

    def __init__(self, log: FilteringBoundLogger, registry: CollectorRegistry) -> None:
        self._log = log
        self._open_residency(registry)
        self._open_store(registry)
        self._open_comparison(registry)
        self._told: tuple[str | None, bool] = (None, False)
        self._only_backbone_on = False

    def _open_residency(self, registry: CollectorRegistry) -> None:
        self._evicted_age = Histogram(
            "espalier_evicted_adapter_age_seconds",
            "How long an evicted adapter was in memory; the count is that of evictions.",
            buckets=AGES,
            registry=registry,
        )
        self._churned = Counter(
            "espalier_churned_adapters",
            "Adapters evicted within a minute of their load: the memory limit is too small.",
            registry=registry,
        )
        self._prewarmed = Gauge(
            "espalier_prewarmed_domains", "Domains loaded before the service was ready.", registry=registry
        )
        self._prewarm_seconds = Gauge("espalier_prewarm_seconds", "Time that prewarming took.", registry=registry)
        self._staged = Gauge("espalier_staged_adapters", "Adapters of the staged release.", registry=registry)
        self._staged_prepared = Gauge(
            "espalier_staged_prepared_adapters", "Adapters of the staged release that are prepared.", registry=registry
        )
        self._only_backbone = Gauge(
            "espalier_adapters_only_backbone", "1 while the switch keeps every adapter out.", registry=registry
        )

    def _open_store(self, registry: CollectorRegistry) -> None:
        self._feed_lag = Histogram(
            "espalier_feed_lag_seconds",
            "From a change in the store to its arrival here.",
            buckets=LAGS,
            registry=registry,
        )
        self._resyncs = Counter(
            "espalier_feed_resyncs", "Times that the feed could not tell what had changed.", registry=registry
        )
        self._reconciles = Counter("espalier_reconciles", "Comparisons with every record.", registry=registry)
        self._reconciled = Counter(
            "espalier_reconciled_records",
            "Records that reconciling found changed, and no feed had told.",
            registry=registry,
        )
        self._store_failures = Counter(
            "espalier_store_failures", "Calls to the store that failed.", ["operation"], registry=registry
        )
        self._swaps = Counter("espalier_table_swaps", "Feature tables swapped.", ["side"], registry=registry)
        self._table_rows = Gauge("espalier_table_rows", "Rows of the feature table.", ["side"], registry=registry)

    def _open_comparison(self, registry: CollectorRegistry) -> None:
        self._canary_rows = Counter("espalier_canary_rows", "Rows scored by a canary.", registry=registry)
        self._differences = ArrayHistogram(
            "espalier_shadow_difference",
            "Absolute difference between the shadow's probability and the one answered, by row.",
            DIFFERENCES,
            registry,
        )
        self._correlations = Histogram(
            "espalier_shadow_rank_correlation",
            "Spearman's rank correlation between shadow and answer, by request.",
            buckets=CORRELATIONS,
            registry=registry,
        )
        self._shadow_dropped = Counter(
            "espalier_shadow_dropped", "Requests whose shadow was left out under load.", registry=registry
        )

    def evicted(self, domain: str, age_s: float) -> None:
        """An adapter left memory to make room, this long after its load."""
        self._evicted_age.observe(age_s)
        self._log.debug("evicted", domain=domain, age_s=round(age_s, 3))

    def churn(self, evictions: int, limit_bytes: int) -> None:
        """So many adapters were evicted within a minute of their load."""
        self._churned.inc(evictions)
        self._log.warning(
            "churn",
            evictions=evictions,
            limit_bytes=limit_bytes,
            advice=f"adapters are evicted within a minute of their load: the memory limit is too small; set "
            f"memory_bytes (ESPALIER_MEMORY_BYTES) above {limit_bytes}, for example to {2 * limit_bytes}",
        )

    def feed(self, lag_s: float | None, resync: bool) -> None:
        """The feed told of changes, this long after they were made (None: unknown), or that it cannot tell them."""
        if lag_s is not None:
            self._feed_lag.observe(max(0.0, lag_s))
        if resync:
            self._resyncs.inc()

    def reconciled(self, moved: int) -> None:
        """The replica compared itself with every record and found so many changed."""
        self._reconciles.inc()
        self._reconciled.inc(moved)

    def shadow_scored(self, differences: NDArray[np.float64], rank_correlation: float | None) -> None:
        """A request was scored by a shadow too.

        Args:
            differences: (rows,) shadow's probability minus the one answered.
            rank_correlation: Spearman's, None where the order says nothing (one row, all equal).
        """
        self._differences.observe(np.abs(differences))
        if rank_correlation is not None:
            self._correlations.observe(rank_correlation)

    def shadow_dropped(self) -> None:
        """A request's shadow was left out, because the queue is half full."""
        self._shadow_dropped.inc()

    def canary_scored(self, rows: int) -> None:
        """Rows were scored by a canary."""
        self._canary_rows.inc(rows)

    def staged(self, release: str | None, prepared: int, of: int) -> None:
        """How far this replica is with a staged release; None when nothing is staged."""
        self._staged.set(of)
        self._staged_prepared.set(prepared)
        # how many there are is known only once the release's manifest was read
        told = (release, 0 < of == prepared)
        if told != self._told:
            self._log.info("staged", release=release, prepared=prepared, of=of)
        self._told = told

    def store_failed(self, operation: str) -> None:
        """A call to the store failed; `operation` is the name of a method, never a key."""
        self._store_failures.labels(operation).inc()

    def prewarmed(self, domains: int, seconds: float) -> None:
        """Before the service was ready, so many domains were loaded in this time."""
        self._prewarmed.set(domains)
        self._prewarm_seconds.set(seconds)
        self._log.info("prewarmed", domains=domains, seconds=round(seconds, 3))

    def tables_swapped(self, side: str, revision: str, rows: int) -> None:
        """Requests are looked up in this table of users or items from now on."""
        self._swaps.labels(side).inc()
        self._table_rows.labels(side).set(rows)
        self._log.info("tables_swapped", side=side, revision=revision, rows=rows)

    def backbone_only(self, on: bool) -> None:
        """Whether the switch keeps every adapter out."""
        self._only_backbone.set(int(on))
        if on != self._only_backbone_on:
            self._log.warning("adapters_only_backbone", on=on)
        self._only_backbone_on = on
