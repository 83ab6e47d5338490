"""Metrics of feedback, on the registry of the service's own. How workers add up is said beside each gauge."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import Counter, Gauge

from service.aggregation import Registry
from service.feedback.online import Figures

OUTCOMES = ("matched", "contradicting", "unmatched", "completed", "refused")


class FeedbackMetrics:
    """What `/metrics` shows of feedback; three series a domain of the busiest ones.

    Args:
        registry: of the service's metrics.
        limit_bytes: what of feedback may be on this disk alone.
    """

    def __init__(self, registry: Registry, limit_bytes: int) -> None:
        events = Counter(
            "espalier_feedback_events", "Events of feedback by what became of them.", ["outcome"], registry=registry
        )
        self._events = {outcome: events.labels(outcome) for outcome in OUTCOMES}
        self._shipped = Counter(
            "espalier_feedback_shipped_segments", "Segments that the object store took.", registry=registry
        )
        # the folder is one, and every worker looks at all of it
        self._unshipped = registry.gauge(
            "espalier_feedback_unshipped_bytes", "Feedback on this disk alone, in all workers' segments.", merge="max"
        )
        registry.gauge(
            "espalier_feedback_limit_bytes", "Past so much on this disk alone feedback is refused.", merge="max"
        ).set(limit_bytes)
        # each worker has its own window; shown is the one that calls for a look soonest
        self._auc = registry.gauge(
            "espalier_online_auc", "AUC of the last labelled rows of a domain.", ["domain"], merge="min"
        )
        self._calibration = registry.gauge(
            "espalier_online_calibration_ratio",
            "Observed over predicted positives of the last labelled rows of a domain (COPC).",
            ["domain"],
            merge="max",
        )
        self._psi = registry.gauge(
            "espalier_score_psi",
            "Population stability index of a domain's scores against the first ones of its live revision.",
            ["domain"],
            merge="max",
        )

    def events(self, outcome: str, count: int) -> None:
        """Events came to this end, one of OUTCOMES."""
        self._events[outcome].inc(count)

    def shipped(self) -> None:
        """The object store took a segment."""
        self._shipped.inc()

    def unshipped(self, size_bytes: int) -> None:
        """Bytes that are on this disk alone, now."""
        self._unshipped.set(size_bytes)

    def online(self, figures: Mapping[str, Figures]) -> None:
        """The figures now; domains that are no longer among them lose their series."""
        _show(self._auc, {domain: each.auc for domain, each in figures.items()})
        _show(self._calibration, {domain: each.calibration_ratio for domain, each in figures.items()})
        _show(self._psi, {domain: each.psi for domain, each in figures.items()})


def _show(gauge: Gauge, values: Mapping[str, float | None]) -> None:
    known = {domain: value for domain, value in values.items() if value is not None}
    for sample in next(iter(gauge.collect())).samples:
        if sample.labels["domain"] not in known:
            gauge.remove(sample.labels["domain"])
    for domain, value in known.items():
        gauge.labels(domain).set(value)
