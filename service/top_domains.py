"""Which domains have metric series of their own: the busiest few; all others count together as `other`.

Counters never fall, and no increase is lost or shown twice when one domain makes way for another. What was shown as
`other` stays there; a domain's own series counts only what comes while it has one. A change takes three looks at least
`EVERY_S` apart: at the first the newcomer's series appears with the value that it had when it left last (0 if never),
and the one that makes way stands still; from the second on the newcomer counts and the other is gone. Every scraper
that comes at least that often has then seen both ends of both series.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.domain_counts import FALLBACKS, REQUESTS, ROWS, Counts, DomainCounts

OTHER = "other"
EVERY_S = 60.0
HALF_LIFE_S = 600.0  # of past requests in the order of domains
_AHEAD = 1.25  # a newcomer is busier by this much, or two equal ones would change places again and again
_AT_ONCE = 5  # one of so many places changes at one look


@dataclass(slots=True)
class _Place:
    """A series of a domain.

    Args:
        shown: counts as it shows them; while `since` is set, those before.
        since: the domain's counts from which on it counts; None while it stands still.
        leaving: it is gone at the next look.
    """

    shown: Counts
    since: Counts | None = None
    leaving: bool = False


class TopDomains:
    """Chooses domains, and counts what each of them shows.

    Args:
        counts: of all domains.
        places: domains with series of their own.
        now: seconds.
        every_s: between two looks at the order of domains; no scraper that counts comes more seldom.
    """

    def __init__(
        self, counts: DomainCounts, places: int, now: Callable[[], float], *, every_s: float = EVERY_S
    ) -> None:
        self._counts = counts
        self._limit = places
        self._now = now
        self._every_s = every_s
        self._looked_at = now()
        self._places: dict[int, _Place] = {}  # by row of the table
        self._left: dict[int, Counts] = {}  # what a domain that made way showed last
        self._moved = np.zeros_like(counts.total)  # all that was ever counted by a domain's own series
        self._seen = 0  # rows that were there when something was shown
        self._recent = np.zeros(0)
        self._before = np.zeros(0, np.int64)

    def shown(self) -> list[tuple[str, Counts]]:
        """Each series by its domain, `other` last: counts in the columns of `service.domain_counts`."""
        now = self._now()
        self._fill()
        if now - self._looked_at >= self._every_s:
            self._look(now - self._looked_at)
            self._looked_at = now
        self._seen = len(self._counts)
        series = [(self._counts.name(row), self._value(row, place)) for row, place in self._places.items()]
        counting = sum((self._value(row, place) - place.shown for row, place in self._places.items()), self._moved)
        return [*series, (OTHER, self._counts.total - counting)]

    def _fill(self) -> None:
        """Give free places to domains that no one has seen in `other` yet."""
        new = self._candidates(self._counts.table[:, REQUESTS], self._seen)
        for row in new[: max(0, self._limit - len(self._places))]:
            # what it counted before it was known has been seen in `other`, and stays there
            self._places[row] = _Place(np.zeros_like(self._moved), self._counts.brought(row))

    def _look(self, elapsed_s: float) -> None:
        self._age(elapsed_s)
        for row, place in list(self._places.items()):
            if place.leaving:
                self._left[row] = self._places.pop(row).shown
            elif place.since is None:
                place.since = self._counts.table[row].copy()
        for leaving, coming in self._changes():
            self._rest(leaving)
            self._places[coming] = _Place(self._left.pop(coming, np.zeros_like(self._moved)))

    def _changes(self) -> Iterator[tuple[int, int]]:
        """Who makes way for whom, the busiest newcomer first; as long as a place is free nobody waits for one."""
        staying = sorted(self._places, key=lambda row: self._recent[row])[: max(1, self._limit // _AT_ONCE)]
        for leaving, coming in zip(staying, self._candidates(self._recent), strict=False):
            if self._recent[coming] <= _AHEAD * self._recent[leaving]:
                return
            yield leaving, coming

    def _candidates(self, busy: NDArray[np.float64] | Counts, first: int = 0) -> list[int]:
        """Rows without a series from `first` on, the busiest first; at most as many as there are places."""
        if self._limit == 0 or first >= len(busy):
            return []
        wanted = min(len(busy) - first, self._limit + len(self._places) + 1)
        part = np.argpartition(busy[first:], -wanted)[-wanted:] + first
        order = part[np.argsort(-busy[part], kind="stable")]
        names = self._counts.name
        return [int(row) for row in order if int(row) not in self._places and names(int(row)) != OTHER]

    def _age(self, elapsed_s: float) -> None:
        """Let past requests count less, and add those since the last look."""
        requests = self._counts.table[:, REQUESTS].copy()
        recent, before = np.zeros(len(requests)), np.zeros(len(requests), np.int64)
        recent[: len(self._recent)] = self._recent
        before[: len(self._before)] = self._before
        self._recent = recent * 0.5 ** (elapsed_s / HALF_LIFE_S) + (requests - before)
        self._before = requests

    def _rest(self, row: int) -> None:
        """Let a series stand still; it is gone at the next look."""
        place = self._places[row]
        value = self._value(row, place)
        self._moved += value - place.shown
        place.shown, place.since, place.leaving = value, None, True

    def _value(self, row: int, place: _Place) -> Counts:
        if place.since is None:
            return place.shown
        value: Counts = place.shown + self._counts.table[row] - place.since
        return value


def figures(counts: Counts) -> tuple[float, float, float]:
    """Requests, rows and fallbacks."""
    return float(counts[REQUESTS]), float(counts[ROWS]), float(counts[FALLBACKS].sum())
