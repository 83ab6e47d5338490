"""A Prometheus histogram that takes whole arrays: one call a request, not one a row."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString


class ArrayHistogram(Collector):
    """Counts values by bucket; told and shown on one thread, the event loop's.

    Args:
        name: of the metric, with its unit.
        documentation: one line.
        bounds: upper bounds of the buckets, rising and positive; the one without a bound is added.
        registry: shows it.
    """

    def __init__(self, name: str, documentation: str, bounds: Sequence[float], registry: CollectorRegistry) -> None:
        self._name = name
        self._documentation = documentation
        self._bounds = np.array(bounds, np.float64)
        self._labels = [*map(floatToGoString, bounds), "+Inf"]
        self._counts = np.zeros(len(bounds) + 1, np.int64)
        self._sum = 0.0
        registry.register(self)

    def observe(self, values: NDArray[np.float64]) -> None:
        """Count each value; one that is not finite is left out."""
        finite = values[np.isfinite(values)]
        places = np.searchsorted(self._bounds, finite, side="left")
        self._counts += np.bincount(places, minlength=len(self._counts))
        self._sum += float(finite.sum())

    def collect(self) -> Iterable[HistogramMetricFamily]:
        """The buckets as Prometheus counts them: each holds those below it too."""
        family = HistogramMetricFamily(self._name, self._documentation)
        cumulative = zip(self._labels, map(float, np.cumsum(self._counts)), strict=True)
        family.add_metric([], list(cumulative), self._sum)
        yield family
