"""Metrics of the store as this replica meets it: its calls, its feed, comparisons with it, tables read from it."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import Counter, Histogram

from adapters_store.errors import StoreUnavailable
from adapters_store.records import seconds_of
from service.aggregation import Registry

LAGS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 120.0)
CALLS = (0.0005, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0)
# it waits for something to happen; how long says nothing of the store
_WAITING = "changes"


class StoreMetrics:
    """The part of `service.observer.Observer` that hears of the store.

    Args:
        registry: shows the metrics.
        now: seconds, for the age of the feed.
        wall: seconds since the epoch, for what records say of their time.
    """

    def __init__(self, registry: Registry, now: Callable[[], float], wall: Callable[[], float]) -> None:
        self._store_registry = registry
        self._now = now
        self._wall_s = wall
        self._fed_at: float | None = None
        self._open_calls(registry)
        self._open_feed(registry)

    def _open_calls(self, registry: Registry) -> None:
        self._calls = Histogram(
            "espalier_store_call_seconds",
            "Calls to the store, retries and failures included; the feed's waiting is left out.",
            ["backend", "operation"],
            buckets=CALLS,
            registry=registry,
        )
        self._errors = Counter(
            "espalier_store_errors", "Calls that the store failed.", ["backend", "operation"], registry=registry
        )
        self._reachable = registry.gauge(
            "espalier_store_reachable", "1 if the last call was answered, in every worker.", ["backend"], merge="min"
        )
        self._store_failures = Counter(
            "espalier_store_failures",
            "Work in the background that the store failed, by what it was for.",
            ["operation"],
            registry=registry,
        )

    def _open_feed(self, registry: Registry) -> None:
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
            "Records that reconciling found changed 20 s ago or longer, and no feed had told.",
            registry=registry,
        )
        self._swap = Histogram(
            "espalier_swap_seconds",
            "From reading a domain's record to scoring by the other revision that it names.",
            buckets=LAGS,
            registry=registry,
        )
        self._propagation = Histogram(
            "espalier_propagation_seconds",
            "From writing a domain's record to scoring by the other revision that it names.",
            buckets=LAGS,
            registry=registry,
        )

    def store_called(self, backend: str, operation: str, seconds: float, error: BaseException | None) -> None:
        """A call to the store ended.

        Args:
            backend: its kind, such as redis or s3.
            operation: name of a method, never a key.
            seconds: that it took.
            error: that it failed with; what the store answers, such as that a blob is missing, is none.
        """
        if operation != _WAITING:
            self._calls.labels(backend, operation).observe(seconds)
        if error is not None:
            self._errors.labels(backend, operation).inc()
        self._reachable.labels(backend).set(not isinstance(error, StoreUnavailable))

    def store_failed(self, operation: str) -> None:
        """Something in the background failed with the store; `operation` is one of a few fixed words."""
        self._store_failures.labels(operation).inc()

    def feed(self, lag_s: float | None, resync: bool) -> None:
        """The feed told of changes, this long after they were made (None: unknown), or that it cannot tell them."""
        if lag_s is not None:
            self._feed_lag.observe(max(0.0, lag_s))
        if resync:
            self._resyncs.inc()

    def feed_answered(self) -> None:
        """The feed answered, or it is followed from now on."""
        if self._fed_at is None:
            age = self._store_registry.gauge(
                "espalier_feed_age_seconds", "Since the store's feed last answered; the oldest worker's.", merge="max"
            )
            age.set_function(self._feed_age_s)
        self._fed_at = self._now()

    def reconciled(self, untold: int) -> None:
        """The replica compared itself with every record and found so many of which the feed should have told."""
        self._reconciles.inc()
        self._reconciled.inc(untold)

    def swapped(self, seconds: float) -> None:
        """A domain that served is scored by another revision, so long after its record was read."""
        self._swap.observe(max(0.0, seconds))

    def propagated(self, written: str) -> None:
        """A domain that served is scored by another revision, which a record names that was written then."""
        written_s = seconds_of(written)
        if written_s is not None:
            self._propagation.observe(max(0.0, self._wall_s() - written_s))

    def _feed_age_s(self) -> float:
        return 0.0 if self._fed_at is None else self._now() - self._fed_at
