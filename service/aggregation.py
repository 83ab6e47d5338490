"""Counts of several workers as those of one replica: what one of them has, and how such reports are added up.

Counters and histograms are summed. What a gauge means over workers its owner says when it is made: their sum, the
largest, or the smallest.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec
from prometheus_client import CollectorRegistry, Gauge, Metric, generate_latest
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

Merge = Literal["sum", "max", "min"]
Labels = tuple[tuple[str, str], ...]
_COUNTED = frozenset({"counter", "histogram", "summary"})
_DECODER_BYTES = 16 << 20


class Family(msgspec.Struct, frozen=True, array_like=True):
    """One metric of one worker, or of all.

    Args:
        name: without a suffix such as `_total`.
        kind: counter, gauge, histogram.
        documentation: one line.
        merge: over workers.
        samples: name, labels, value.
    """

    name: str
    kind: str
    documentation: str
    merge: Merge
    samples: Sequence[tuple[str, Labels, float]]


class Registry(CollectorRegistry):
    """A registry of the client library that also knows what its gauges mean over workers."""

    def __init__(self) -> None:
        super().__init__(auto_describe=False)
        self._merges: dict[str, Merge] = {}

    def gauge(self, name: str, documentation: str, labels: Sequence[str] = (), merge: Merge = "sum") -> Gauge:
        """A gauge of this registry.

        Args:
            name: of the metric, with its unit.
            documentation: one line.
            labels: names of its labels.
            merge: what the workers of a replica show together.
        """
        self.merge(name, merge)
        return Gauge(name, documentation, labels, registry=self)

    def merge(self, name: str, merge: Merge) -> None:
        """Say what a gauge means over workers that was registered by other means; without a word it is their sum."""
        self._merges[name] = merge

    def families(self) -> list[Family]:
        """Every metric as it stands, without the times at which the series began."""
        return [self._family(metric) for metric in self.collect()]

    def _family(self, metric: Metric) -> Family:
        created = f"{metric.name}_created"
        samples = [
            (sample.name, tuple(sorted(sample.labels.items())), float(sample.value))
            for sample in metric.samples
            if sample.name != created
        ]
        merge = self._merges.get(metric.name, "sum")
        return Family(metric.name, metric.type, metric.documentation, merge, samples)


def merged(reports: Iterable[Iterable[Family]]) -> list[Family]:
    """What the reports say together, in the order in which names and labels first appear."""
    families: dict[str, Family] = {}
    values: dict[str, dict[tuple[str, Labels], float]] = {}
    for report in reports:
        for family in report:
            families.setdefault(family.name, family)
            _add(values.setdefault(family.name, {}), family)
    return [
        msgspec.structs.replace(family, samples=[(*sample, value) for sample, value in values[name].items()])
        for name, family in families.items()
    ]


def counted(families: Iterable[Family]) -> list[Family]:
    """What stays true of a worker after its end: its counters and histograms."""
    return [family for family in families if family.kind in _COUNTED]


def exposition(families: Iterable[Family]) -> bytes:
    """Prometheus' text format."""
    return generate_latest(_Shown(families))


def packed(families: Sequence[Family]) -> bytes:
    """A report as few bytes."""
    return zlib.compress(msgspec.msgpack.encode(families), 1)


def unpacked(content: bytes) -> list[Family]:
    """A report from its bytes.

    Raises:
        ValueError: they are no report.
    """
    inflate = zlib.decompressobj()
    try:
        plain = inflate.decompress(content, _DECODER_BYTES)
        if not inflate.eof:
            raise ValueError("a report of metrics is cut off or too large")
        return msgspec.msgpack.decode(plain, type=list[Family])
    except (zlib.error, msgspec.MsgspecError) as error:
        raise ValueError(f"a report of metrics cannot be read: {error}") from error


def _add(values: dict[tuple[str, Labels], float], family: Family) -> None:
    for name, labels, value in family.samples:
        sample = (name, labels)
        before = values.get(sample)
        if before is None:
            values[sample] = value
        elif family.merge == "sum":
            values[sample] = before + value
        else:
            values[sample] = max(before, value) if family.merge == "max" else min(before, value)


class _Shown(Collector):
    """Families as the client library writes them."""

    def __init__(self, families: Iterable[Family]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        for family in self._families:
            metric = Metric(family.name, family.documentation, family.kind)
            metric.samples = [Sample(name, dict(labels), value) for name, labels, value in family.samples]
            yield metric
