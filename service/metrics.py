"""Prometheus metrics of one replica. No label grows with domains, revisions or callers."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.metadata import version

from prometheus_client import Counter, ProcessCollector
from structlog.typing import FilteringBoundLogger

from service.aggregation import Family, Registry, exposition
from service.backbone_metrics import BackboneMetrics
from service.histograms import ArrayHistogram, LabelledHistogram
from service.lifecycle import LifecycleMetrics
from service.logs import Action, AuditLog
from service.observer import LoadOutcome
from service.prepared.outcome import Outcome
from service.score_metrics import ScoreMetrics
from service.store_metrics import StoreMetrics
from service.together import Alone, Together
from service.totals import Totals

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
STAGES = ("parse", "lookup", "gather", "queue", "engine", "reply", "encode")
SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
ROWS = (1, 10, 32, 100, 320, 1000, 3200, 10_000, 32_000)
DOMAINS = 50
_LATEST = ("process_start_time_seconds", "process_max_fds")


class Metrics(ScoreMetrics, StoreMetrics, LifecycleMetrics, BackboneMetrics):
    """What `/metrics` shows; the `service.observer.Observer` of the core, and the HTTP edge's own counts.

    Args:
        log: where activations and rejections are written, which name a domain and so are no label.
        domains: busiest domains that have series of their own.
        together: adds up what all workers of this replica count; without it this process is alone.
        now: seconds.
        wall: seconds since the epoch.
    """

    def __init__(
        self,
        log: FilteringBoundLogger,
        domains: int = DOMAINS,
        together: Together | None = None,
        *,
        now: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.registry = registry = Registry()
        self._together = together or Alone(Totals(domains, now=now, wall=wall))
        ScoreMetrics.__init__(self, registry, self._together, wall)
        StoreMetrics.__init__(self, registry, now, wall)
        LifecycleMetrics.__init__(self, log, registry)
        BackboneMetrics.__init__(self, log, registry)
        self._audit = AuditLog(log)
        ProcessCollector(registry=registry)
        for name in _LATEST:
            registry.merge(name, "max")
        build = registry.gauge("espalier_build_info", "The build that answers; always 1.", ["version"], merge="max")
        build.labels(version("espalier")).set(1)
        self._open_requests(registry)
        self._open_batches(registry)
        self._loads = Counter(
            "espalier_adapter_loads", "Attempts to load a live adapter.", ["outcome"], registry=registry
        )
        self._prepared = Counter(
            "espalier_prepared_blobs", "Prepared blobs that loads looked for or left.", ["outcome"], registry=registry
        )
        self._rejects = Counter(
            "espalier_adapter_rejects", "Revisions refused, by the class of the error.", ["reason"], registry=registry
        )

    def _open_requests(self, registry: Registry) -> None:
        self._requests = Counter("espalier_requests", "HTTP requests answered.", ["route", "status"], registry=registry)
        # label lookups cost more than counting, so each child is taken once
        self._by_route: dict[tuple[str, int], Counter] = {}
        self._request_seconds = LabelledHistogram(
            "espalier_request_seconds", "From a request's headers to the end of its answer.", "route", SECONDS, registry
        )
        stage = LabelledHistogram("espalier_stage_seconds", "Time of a request by stage.", "stage", SECONDS, registry)
        self._stages = {name: stage.of(name) for name in STAGES}

    def _open_batches(self, registry: Registry) -> None:
        self._batch_rows = ArrayHistogram("espalier_batch_rows", "Rows of a batch.", ROWS, registry)
        self._batch_segments = ArrayHistogram("espalier_batch_segments", "Segments of a batch.", ROWS[:6], registry)
        self._queue_rows = registry.gauge("espalier_queue_rows", "Rows that wait for the engine, over all workers.")
        self._queue_limit = registry.gauge("espalier_queue_limit_rows", "Rows that may wait, over all workers.")

    def works_as(self, number: int, workers: int, pid: int) -> None:
        """Say which of several workers this process is."""
        info = self.registry.gauge(
            "espalier_worker_info", "Each worker's process; always 1.", ["worker", "workers", "pid"]
        )
        info.labels(str(number), str(workers), str(pid)).set(1)

    def families(self) -> list[Family]:
        """What this process counted since its start; counts by domain are handed over apart, by `settle`."""
        return self.registry.families()

    def exposition(self) -> bytes:
        """This process' own metrics in Prometheus' text format (`CONTENT_TYPE`)."""
        return exposition(self.families())

    async def shown(self) -> bytes:
        """The metrics of all workers of this replica, in the same format.

        Raises:
            service.refusals.NotReady: whoever adds them up does not answer.
        """
        self.settle()
        return await self._together.exposition(self.families())

    def request(self, route: str, status: int, seconds: float | None = None) -> None:
        """A request was answered; `route` is the route's template, never a path."""
        counter = self._by_route.get((route, status))
        if counter is None:
            counter = self._by_route[route, status] = self._requests.labels(route, str(status))
        counter.inc()
        if seconds is not None:
            self._request_seconds.of(route).observe(seconds)

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

    def limits(self, queue_rows: int, memory_bytes: int) -> None:
        """How many rows may wait, and what prepared adapters may take."""
        self._queue_limit.set(queue_rows)
        self._resident_limit.set(memory_bytes)

    def adapter_loaded(self, outcome: LoadOutcome) -> None:
        """An attempt to load a domain's live adapter ended."""
        self._loads.labels(outcome).inc()

    def prepared(self, outcome: Outcome) -> None:
        """A load found what was prepared before or did not, or what it prepared was kept or not."""
        self._prepared.labels(outcome).inc()

    def activated(
        self, domain: str, revision: str, generation: int, *, before: str | None = None, by: str = ""
    ) -> None:
        """This replica scores the domain with this revision from now on."""
        moved = {"from": before, "to": revision, "generation": generation}
        self._audit.followed("activate", by=by, domain=domain, revision=revision, **moved)

    def rejected(self, domain: str, revision: str, reason: str, *, by: str = "", kind: str = "EngineFailed") -> None:
        """This replica refuses the revision; the reason names the fault."""
        self._rejects.labels(kind).inc()
        self._audit.refused("reject", by=by, domain=domain, revision=revision, reason=reason)

    def followed(self, action: Action, *, by: str, generation: int, **facts: object) -> None:
        """This replica acts by a change that someone made in the store."""
        self._audit.followed(action, by=by, generation=generation, **facts)

    def refused(self, action: Action, *, by: str, **facts: object) -> None:
        """This replica does not follow a change that someone made in the store."""
        self._audit.refused(action, by=by, **facts)
