"""What becomes of a domain that is evicted to make room, and the guard that says when the bound is too small."""

from __future__ import annotations

from collections.abc import Callable

from service.observer import Observer
from service.slots import Place

CHURN_S = 60.0  # an adapter that is evicted this soon after its load came in vain
_TELL_EVERY_S = 60.0


class Evictions:
    """Hears of every eviction.

    Args:
        forget: called with a natural domain whose slots are gone; the next request pulls it as cold.
        observer: told of each eviction, and of churn at most once a minute.
        limit_bytes: the bound that is too small when there is churn.
        now: seconds.
    """

    def __init__(
        self, forget: Callable[[str], None], observer: Observer, *, limit_bytes: int, now: Callable[[], float]
    ) -> None:
        self._forget = forget
        self._observer = observer
        self._limit_bytes = limit_bytes
        self._now = now
        self._churned = 0
        self._tell_at = now()

    def evicted(self, place: Place, age_s: float) -> None:
        """A place was evicted, so many seconds after its load."""
        if isinstance(place, str):
            self._forget(place)
            self._observer.evicted(place, age_s)
        if age_s < CHURN_S:
            self._churned += 1
        if self._churned and self._now() >= self._tell_at:
            self._observer.churn(self._churned, self._limit_bytes)
            self._churned = 0
            self._tell_at = self._now() + _TELL_EVERY_S
