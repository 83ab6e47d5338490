"""Shadows: a revision that scores a share of the requests for comparison, and changes no byte of a response."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from service.batcher import Logits
from service.domains import Domains
from service.engine import Segment
from service.errors import InvalidContext
from service.ladder import Asked
from service.observer import Observer
from service.segments import Places, in_order, probability, scored_by, split
from service.slots import Lease, Slot, SlotTable

# a shadow with which the engine fails so many times in a row is set aside: each time costs a batch a second run
_STRIKES = 3

Scores = NDArray[np.float64]


class Shadows:
    """Chooses which requests a shadow scores, and compares.

    Args:
        domains: knows the shadows.
        slots: has them prepared.
        observer: told of differences, and of what was left out.
        crowded: whether the queue is so full that shadows are left out.
        random: uniform in [0, 1).
    """

    def __init__(
        self,
        domains: Domains,
        slots: SlotTable,
        observer: Observer,
        *,
        crowded: Callable[[], bool],
        random: Callable[[], float],
    ) -> None:
        self._domains = domains
        self._slots = slots
        self._observer = observer
        self._crowded = crowded
        self._random = random
        self._strikes: dict[str, int] = {}

    def choose(self, asked: Asked) -> ShadowRun | None:
        """The shadow's part in a request that live scores; None when it has none.

        A shadow of another backbone than live's is encoded by that one's own tables.

        Args:
            asked: the request, as live scores it.
        """
        domain = asked.domain
        known = self._domains.get(domain)
        shadow = None if known is None else known.shadow
        if shadow is None or self._random() * 100.0 >= shadow.percent or not len(asked.encoded.items):
            return None
        if self._crowded():
            self._observer.shadow_dropped()
            return None
        lease = self._slots.lease(domain, "shadow")
        if lease is None:
            return None
        try:
            asked = asked.by(lease.slot.serving)
        except InvalidContext:  # no fault of the request, which live takes
            lease.release()
            self._observer.shadow_dropped()
            return None
        segments, places = split(asked.tables, scored_by(asked.encoded, lease.slot), lease.slot)
        return ShadowRun(self, domain, segments, places, lease)

    def left_out(self, domain: str, slot: Slot, *, failed: bool) -> None:
        """A run gave nothing to compare."""
        self._observer.shadow_dropped()
        if not failed:
            return
        self._strikes[domain] = self._strikes.get(domain, 0) + 1
        if self._strikes[domain] >= _STRIKES:
            del self._strikes[domain]
            reason = f"as a shadow: the engine failed on {_STRIKES} batches in a row with it"
            self._domains.set_aside(domain, slot, reason)

    def compare(self, domain: str, answered: Scores, shadowed: Scores) -> None:
        """Tell how a shadow's probabilities differ from those answered."""
        self._strikes.pop(domain, None)
        self._observer.shadow_scored(shadowed - answered, rank_correlation(answered, shadowed))


class ShadowRun:
    """A shadow's rows in one request's batch (`service.batcher.Riders`).

    Args:
        shadows: compares.
        domain: of the request.
        segments: of the request, by the shadow's combinations.
        places: rows of each segment.
        lease: on the shadow's slot, let go when the batch is done with it.
    """

    def __init__(
        self, shadows: Shadows, domain: str, segments: Sequence[Segment], places: Places, lease: Lease
    ) -> None:
        self.segments = segments
        self._shadows = shadows
        self._domain = domain
        self._places = places
        self._lease = lease
        self._answered: Scores | None = None

    def answer(self, scores: Scores) -> None:
        """What the response says; without it there is nothing to compare with."""
        self._answered = scores

    def arrived(self, logits: Logits | None, *, failed: bool = False) -> None:
        """The batch is done with these rows, or leaves them out."""
        self._lease.release()
        if logits is None or self._answered is None or not all(np.isfinite(part).all() for part in logits):
            self._shadows.left_out(self._domain, self._lease.slot, failed=failed)
            return
        self._shadows.compare(self._domain, self._answered, probability(in_order(logits, self._places)))


def rank_correlation(a: Scores, b: Scores) -> float | None:
    """Spearman's rank correlation, ties at their average rank; None where the order says nothing.

    Args:
        a: scores (n,), finite.
        b: scores (n,), finite.
    """
    left, right = _ranks(a), _ranks(b)
    left, right = left - left.mean(), right - right.mean()
    spread = float(np.sqrt((left @ left) * (right @ right)))
    return float(left @ right) / spread if spread else None


def _ranks(values: Scores) -> Scores:
    """Ranks from 1, ties at their average, (n,)."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    average: Scores = (last - (counts - 1) / 2.0)[which]
    return average
