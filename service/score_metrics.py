"""Metrics of what was scored: rows, by domain, the scores themselves, and how old the adapters are that gave them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from prometheus_client import Counter

from service.aggregation import Registry
from service.domain_counts import DomainTally
from service.histograms import ArrayHistogram
from service.observer import MissedIn
from service.together import Together
from service.totals import DomainStats

# click-through rates crowd near 0, other targets spread over the whole range
SCORES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
_HOUR_S, _DAY_S = 3600.0, 86_400.0
ADAPTER_AGES = (60.0, _HOUR_S, 6 * _HOUR_S, _DAY_S, 3 * _DAY_S, 7 * _DAY_S, 30 * _DAY_S, 90 * _DAY_S)
_TALLIED = 512  # domains whose counts wait to be moved into the table


class ScoreMetrics:
    """The part of `service.observer.Observer` that hears of every scored request.

    Args:
        registry: shows the metrics.
        together: adds up what is counted by domain.
        wall: seconds since the epoch, for the age of adapters.
    """

    def __init__(self, registry: Registry, together: Together, wall: Callable[[], float]) -> None:
        self._together = together
        self._wall = wall
        self._tally = DomainTally()
        self._rows = Counter("espalier_rows", "Rows (user, item) answered.", registry=registry)
        self._fallbacks = Counter(
            "espalier_fallbacks", "Responses that no live adapter scored.", ["reason"], registry=registry
        )
        self._missed = Counter(
            "espalier_deadline_misses", "Requests whose deadline passed, by where.", ["where"], registry=registry
        )
        self._scores = ArrayHistogram("espalier_score", "Probabilities scored, by row.", SCORES, registry)
        self._canary_scores = ArrayHistogram(
            "espalier_canary_score", "Probabilities scored by canaries, by row.", SCORES, registry
        )
        self._live_scores = ArrayHistogram(
            "espalier_live_score",
            "Probabilities of live adapters beside which a canary runs, by row.",
            SCORES,
            registry,
        )
        self._ages = ArrayHistogram(
            "espalier_adapter_age_seconds",
            "From the making of the adapter that scored a request to the request.",
            ADAPTER_AGES,
            registry,
        )

    def rows(self, count: int) -> None:
        """Rows left in a response."""
        self._rows.inc(count)

    def fallback(self, reason: str) -> None:
        """A response left with this fallback."""
        self._fallbacks.labels(reason).inc()

    def deadline_missed(self, where: MissedIn) -> None:
        """A request's deadline passed."""
        self._missed.labels(where).inc()

    def scored(
        self,
        domain: str,
        scores: NDArray[np.float64],
        *,
        known: bool,
        alias: str | None,
        fallback: str | None,
        tried: bool,
        made_s: float | None,
    ) -> None:
        """A request was scored; see Observer."""
        self._tally.scored(domain, len(scores), alias, fallback, known=known)
        if len(self._tally) > _TALLIED:
            self.settle()
        self._scores.observe_all(scores)
        if alias == "canary":
            self._canary_scores.observe_all(scores)
        elif tried and alias == "live":
            self._live_scores.observe_all(scores)
        if made_s is not None:
            self._ages.observe(max(0.0, self._wall() - made_s))

    def settle(self) -> None:
        """Hand over what was counted by domain since this was called last."""
        if len(self._tally):
            self._together.add(self._tally.take())

    async def domain_stats(self, domain: str) -> DomainStats:
        """What all workers of this replica counted for a domain.

        Raises:
            service.refusals.NotReady: whoever adds them up does not answer.
        """
        self.settle()
        return await self._together.stats(domain)
