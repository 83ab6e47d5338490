"""Metrics of the backbones in memory: a series each for the default, the one beside it, and one that is refused."""

from __future__ import annotations

from structlog.typing import FilteringBoundLogger

from service.aggregation import Registry


class BackboneMetrics:
    """The part of `service.observer.Observer` that tells of backbones.

    Args:
        log: where the reason of a refusal is written.
        registry: shows the metrics.
    """

    def __init__(self, log: FilteringBoundLogger, registry: Registry) -> None:
        self._log = log
        self._backbones = registry.gauge(
            "espalier_resident_backbones", "Backbones in memory; the most of a worker.", merge="max"
        )
        self._backbone_info = registry.gauge(
            "espalier_backbone_info",
            "1 for each bundle: the default, the one beside it, the recorded default that is refused here.",
            ["revision", "role"],
            merge="max",
        )

    def backbones(self, default: str | None, beside: str | None, refused: str | None, reason: str | None) -> None:
        """Which bundles are in memory now, and which recorded default cannot serve here, and why."""
        roles = {"default": default, "beside": beside, "refused": refused}
        self._backbones.set((default is not None) + (beside is not None))
        self._backbone_info.clear()
        for role, revision in roles.items():
            if revision is not None:
                self._backbone_info.labels(revision, role).set(1)
        tell = self._log.info if refused is None else self._log.error
        tell("backbones", default=default, beside=beside, refused=refused, reason=reason)
