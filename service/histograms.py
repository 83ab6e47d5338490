"""Prometheus histograms whose observations wait to be counted together: what a request costs is one append.

Told and shown on one thread, the event loop's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

_AT_ONCE = 4096  # values that wait to be counted


class Buckets:
    """Counts values by bucket.

    Args:
        bounds: upper bounds of the buckets, rising; the one without a bound is added.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = np.array(bounds, np.float64)
        self._labels = [*map(floatToGoString, bounds), "+Inf"]
        self._counts = np.zeros(len(bounds) + 1, np.int64)
        self._sum = 0.0
        self._arrays: list[NDArray[np.float64]] = []
        self._values: list[float] = []
        self._room = _AT_ONCE

    def observe(self, value: float) -> None:
        """Count a value."""
        self._values.append(value)
        self._room -= 1
        if self._room < 0:
            self._count()

    def observe_all(self, values: NDArray[np.float64]) -> None:
        """Count each value.

        Args:
            values: (n,), never changed afterwards: they may be counted later.
        """
        self._arrays.append(values)
        self._room -= 1 + len(values)
        if self._room < 0:
            self._count()

    def shown(self) -> tuple[list[tuple[str, float]], float]:
        """The buckets as Prometheus counts them, each holding those below it too, and the sum of all values."""
        self._count()
        return list(zip(self._labels, map(float, np.cumsum(self._counts)), strict=True)), self._sum

    def _count(self) -> None:
        waiting = [*self._arrays, np.array(self._values, np.float64)]
        self._arrays, self._values, self._room = [], [], _AT_ONCE
        values = np.concatenate(waiting)
        finite = values[np.isfinite(values)]
        places = np.searchsorted(self._bounds, finite, side="left")
        self._counts += np.bincount(places, minlength=len(self._counts))
        self._sum += float(finite.sum())


class ArrayHistogram(Buckets, Collector):
    """A histogram without labels; a value that is not finite is left out.

    Args:
        name: of the metric, with its unit.
        documentation: one line.
        bounds: as Buckets; positive, since the sum of values below zero could fall.
        registry: shows it.
    """

    def __init__(self, name: str, documentation: str, bounds: Sequence[float], registry: CollectorRegistry) -> None:
        super().__init__(bounds)
        self._name = name
        self._documentation = documentation
        registry.register(self)

    def collect(self) -> Iterable[HistogramMetricFamily]:
        """As the client library shows it."""
        family = HistogramMetricFamily(self._name, self._documentation)
        family.add_metric([], *self.shown())
        yield family


class LabelledHistogram(Collector):
    """A histogram with one label.

    Args:
        name: of the metric, with its unit.
        documentation: one line.
        label: its name.
        bounds: as ArrayHistogram.
        registry: shows it.
    """

    def __init__(
        self, name: str, documentation: str, label: str, bounds: Sequence[float], registry: CollectorRegistry
    ) -> None:
        self._name = name
        self._documentation = documentation
        self._label = label
        self._bounds = bounds
        self._children: dict[str, Buckets] = {}
        registry.register(self)

    def of(self, value: str) -> Buckets:
        """The buckets of a value of the label; few values, never those that a caller makes up."""
        child = self._children.get(value)
        if child is None:
            child = self._children[value] = Buckets(self._bounds)
        return child

    def collect(self) -> Iterable[HistogramMetricFamily]:
        """As the client library shows it."""
        family = HistogramMetricFamily(self._name, self._documentation, labels=[self._label])
        for value, child in self._children.items():
            family.add_metric([value], *child.shown())
        yield family
