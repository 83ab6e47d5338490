"""Prometheus metrics of one replica. No label grows with domains, revisions or callers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, ProcessCollector, generate_latest
from prometheus_client.registry import Collector
from structlog.typing import FilteringBoundLogger

from service.lifecycle import LifecycleMetrics
from service.logs import Action, AuditLog
from service.observer import LoadOutcome

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
STAGES = ("parse", "lookup", "queue", "engine", "reply", "encode")
SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
ROWS = (1, 10, 32, 100, 320, 1000, 3200, 10_000, 32_000)


class Metrics(LifecycleMetrics):
    """What `/metrics` shows; the `service.observer.Observer` of the core, and the HTTP edge's own counts.

    Args:
        log: where activations and rejections are written, which name a domain and so are no label.
        labels: that every series carries, such as which worker's it is: a scrape meets any worker of a socket, and
            without them the counters of one would look like a restart of another.
    """

    def __init__(self, log: FilteringBoundLogger, labels: Mapping[str, str] | None = None) -> None:
        self.registry = registry = CollectorRegistry()
        super().__init__(log, registry)
        self._audit = AuditLog(log)
        ProcessCollector(registry=registry)
        self._shown = _Shown(registry, labels or {})
        self._requests = Counter("espalier_requests", "HTTP requests answered.", ["route", "status"], registry=registry)
        self._rows = Counter("espalier_rows", "Rows (user, item) scored.", registry=registry)
        stage = Histogram(
            "espalier_stage_seconds", "Time of a request by stage.", ["stage"], buckets=SECONDS, registry=registry
        )
        # label lookups cost more than the observation, so each stage's child is taken once
        self._stages = {name: stage.labels(name) for name in STAGES}
        self._batch_rows = Histogram("espalier_batch_rows", "Rows of a batch.", buckets=ROWS, registry=registry)
        self._batch_segments = Histogram(
            "espalier_batch_segments", "Segments of a batch.", buckets=ROWS[:6], registry=registry
        )
        self._queue_rows = Gauge("espalier_queue_rows", "Rows that wait for the engine.", registry=registry)
        self._fallbacks = Counter(
            "espalier_fallbacks", "Responses that no live adapter scored.", ["reason"], registry=registry
        )
        self._loads = Counter(
            "espalier_adapter_loads", "Attempts to load a live adapter.", ["outcome"], registry=registry
        )
        self._resident = Gauge("espalier_resident_adapters", "Prepared adapters in memory.", registry=registry)
        self._resident_bytes = Gauge(
            "espalier_resident_adapter_bytes", "Memory of prepared adapters.", registry=registry
        )

    def exposition(self) -> bytes:
        """Every metric in Prometheus' text format (`CONTENT_TYPE`)."""
        return generate_latest(self._shown)

    def request(self, route: str, status: int) -> None:
        """A request was answered; `route` is the route's template, never a path."""
        self._requests.labels(route, str(status)).inc()

    def rows(self, count: int) -> None:
        """Rows left in a response."""
        self._rows.inc(count)

    def stage(self, name: str, seconds: float) -> None:
        """A request spent this long in a stage, one of STAGES."""
        self._stages[name].observe(seconds)

    def batch(self, rows: int, segments: int) -> None:
        """The engine is given a batch."""
        self._batch_rows.observe(rows)
        self._batch_segments.observe(segments)

    def queue(self, rows: int) -> None:
        """Rows that wait for the engine now."""
        self._queue_rows.set(rows)

    def fallback(self, reason: str) -> None:
        """A response left with this fallback."""
        self._fallbacks.labels(reason).inc()

    def adapter_loaded(self, outcome: LoadOutcome) -> None:
        """An attempt to load a domain's live adapter ended."""
        self._loads.labels(outcome).inc()

    def resident(self, adapters: int, size_bytes: int) -> None:
        """Prepared adapters in memory now."""
        self._resident.set(adapters)
        self._resident_bytes.set(size_bytes)

    def activated(
        self, domain: str, revision: str, generation: int, *, before: str | None = None, by: str = ""
    ) -> None:
        """This replica scores the domain with this revision from now on."""
        moved = {"from": before, "to": revision, "generation": generation}
        self._audit.followed("activate", by=by, domain=domain, revision=revision, **moved)

    def rejected(self, domain: str, revision: str, reason: str, *, by: str = "") -> None:
        """This replica refuses the revision; the reason names the fault."""
        self._audit.refused("reject", by=by, domain=domain, revision=revision, reason=reason)

    def followed(self, action: Action, *, by: str, generation: int, **facts: object) -> None:
        """This replica acts by a change that someone made in the store."""
        self._audit.followed(action, by=by, generation=generation, **facts)


class _Shown(Collector):
    """A registry's metrics with labels added, and without the time at which each series began.

    The library's own switch for that time is global: it would act on whatever else lives in the process.
    """

    def __init__(self, registry: CollectorRegistry, labels: Mapping[str, str]) -> None:
        self._registry = registry
        self._labels = labels

    def collect(self) -> Iterable[Metric]:
        for metric in self._registry.collect():
            metric.samples = [
                sample._replace(labels={**sample.labels, **self._labels})
                for sample in metric.samples
                if sample.name != f"{metric.name}_created"
            ]
            yield metric
