"""A Prometheus histogram that takes whole arrays and counts many at once: what a request costs is one append."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

_AT_ONCE = 4096  # values that wait to be counted


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
        self._waiting: list[NDArray[np.float64]] = []
        self._room = _AT_ONCE
        registry.register(self)

    def observe(self, values: NDArray[np.float64]) -> None:
        """Count each value; one that is not finite is left out.

        Args:
            values: (n,), never changed afterwards: they may be counted later.
        """
        self._waiting.append(values)
        self._room -= 1 + len(values)
        if self._room < 0:
            self._count()

    def collect(self) -> Iterable[HistogramMetricFamily]:
        """The buckets as Prometheus counts them: each holds those below it too."""
        self._count()
        family = HistogramMetricFamily(self._name, self._documentation)
        cumulative = zip(self._labels, map(float, np.cumsum(self._counts)), strict=True)
        family.add_metric([], list(cumulative), self._sum)
        yield family

    def _count(self) -> None:
        waiting, self._waiting, self._room = self._waiting, [], _AT_ONCE
        if not waiting:
            return
        values = np.concatenate(waiting)
        finite = values[np.isfinite(values)]
        places = np.searchsorted(self._bounds, finite, side="left")
        self._counts += np.bincount(places, minlength=len(self._counts))
        self._sum += float(finite.sum())
