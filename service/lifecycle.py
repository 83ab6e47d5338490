"""Metrics of the life of adapters on one replica: residency, canary, shadow, staging, tables."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from prometheus_client import Counter, Histogram
from structlog.typing import FilteringBoundLogger

from service.aggregation import Registry
from service.histograms import ArrayHistogram

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

    def __init__(self, log: FilteringBoundLogger, registry: Registry) -> None:
        self._log = log
        self._open_residency(registry)
        self._open_tables(registry)
        self._open_comparison(registry)
        self._told: tuple[str | None, bool] = (None, False)
        self._only_backbone_on = False

    def _open_residency(self, registry: Registry) -> None:
        self._evicted_age = Histogram(
            "espalier_evicted_adapter_age_seconds",
            "How long an evicted adapter was in memory.",
            buckets=AGES,
            registry=registry,
        )
        self._churned = Counter(
            "espalier_churned_adapters",
            "Adapters evicted within a minute of their load: the memory limit is too small.",
            registry=registry,
        )
        self._evictions = Counter(
            "espalier_evictions", "Domains whose adapter left memory to make room.", registry=registry
        )
        self._resident = registry.gauge("espalier_resident_adapters", "Prepared adapters in memory, over all workers.")
        self._resident_bytes = registry.gauge(
            "espalier_resident_adapter_bytes", "Memory of prepared adapters, over all workers."
        )
        self._resident_limit = registry.gauge(
            "espalier_resident_limit_bytes", "What prepared adapters may take, over all workers."
        )
        self._prewarmed = registry.gauge(
            "espalier_prewarmed_domains",
            "Domains loaded before the service was ready; the fewest of a worker.",
            (),
            "min",
        )
        self._prewarm_seconds = registry.gauge(
            "espalier_prewarm_seconds", "Time that prewarming took; the longest of a worker.", merge="max"
        )
        self._staged = registry.gauge(
            "espalier_staged_adapters", "Adapters of the staged release, as known so far.", merge="max"
        )
        self._staged_prepared = registry.gauge(
            "espalier_staged_prepared_adapters",
            "Adapters of the staged release that are prepared; the fewest of a worker.",
            merge="min",
        )
        self._only_backbone = registry.gauge(
            "espalier_adapters_only_backbone", "1 while the switch keeps every adapter out, in any worker.", merge="max"
        )

    def _open_tables(self, registry: Registry) -> None:
        self._swaps = Counter("espalier_table_swaps", "Feature tables swapped.", ["side"], registry=registry)
        self._table_rows = registry.gauge("espalier_table_rows", "Rows of the feature table.", ["side"], merge="max")

    def _open_comparison(self, registry: Registry) -> None:
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
            "espalier_shadow_dropped",
            "Requests whose shadow was not compared: left out under load, failed, or with too little to compare.",
            registry=registry,
        )

    def resident(self, adapters: int, size_bytes: int) -> None:
        """Prepared adapters in memory now."""
        self._resident.set(adapters)
        self._resident_bytes.set(size_bytes)

    def evicted(self, domain: str, age_s: float) -> None:
        """An adapter left memory to make room, this long after its load."""
        self._evictions.inc()
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

    def shadow_scored(self, differences: NDArray[np.float64], rank_correlation: float | None) -> None:
        """A request was scored by a shadow too.

        Args:
            differences: (rows,) shadow's probability minus the one answered.
            rank_correlation: Spearman's, None where the order says nothing (one row, all equal).
        """
        self._differences.observe_all(np.abs(differences))
        if rank_correlation is not None:
            self._correlations.observe(rank_correlation)

    def shadow_dropped(self) -> None:
        """A request's shadow was left out, because the queue is half full."""
        self._shadow_dropped.inc()

    def canary_scored(self, rows: int) -> None:
        """Rows were scored by a canary."""
        self._canary_rows.inc(rows)

    def store_refused(self, reason: str) -> None:
        """The store does not keep the promises that writing needs, so nothing is written there."""
        self._log.error("store_refused", reason=reason)

    def staged(self, release: str | None, prepared: int, of: int) -> None:
        """How far this replica is with a staged release; None when nothing is staged."""
        self._staged.set(of)
        self._staged_prepared.set(prepared)
        # how many there are is known only once the release's manifest was read
        told = (release, 0 < of == prepared)
        if told != self._told:
            self._log.info("staged", release=release, prepared=prepared, of=of)
        self._told = told

    def prewarmed(self, domains: int, seconds: float) -> None:
        """Before the service was ready, so many domains were loaded in this time."""
        self._prewarmed.set(domains)
        self._prewarm_seconds.set(seconds)
        self._log.info("prewarmed", domains=domains, seconds=round(seconds, 3))

    def table_rows(self, side: str, rows: int) -> None:
        """So many rows the table of users or items has that a backbone begins with."""
        self._table_rows.labels(side).set(rows)

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
