"""What was scored for each domain, exactly: a tally for the moment, and a compact table of everything so far.

A request adds to a small dict; now and then its counts are moved into the table, one row of integers a domain. Ids that
nobody knows can be made up without end, so they have no row: they count in the total alone, and the last of them are
kept aside, because a domain whose adapter came too late for its first request is one of them until it is known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from service.ladder import Fallback

REASONS: tuple[str, ...] = get_args(Fallback)
COLUMNS = ("requests", "rows", "canary_requests", "canary_rows", *REASONS)
REQUESTS, ROWS, CANARY_REQUESTS, CANARY_ROWS = range(4)
FALLBACKS = slice(4, len(COLUMNS))
LIMIT = 1 << 18  # domains with a row: 25 MB of counts and about as much of ids
_REASON = {reason: 4 + number for number, reason in enumerate(REASONS)}
# before an id that is counted by name only if it was before: no id begins with it
_UNSURE = "?"
_FIRST_ROWS = 1024
_ASIDE = 10_000  # ids that may yet turn out to be domains

Counts = NDArray[np.int64]


class DomainTally:
    """Counts of a moment, by domain; whoever takes them sees to it that they stay few."""

    def __init__(self) -> None:
        self._counts: dict[str, list[int]] = {}

    def __len__(self) -> int:
        return len(self._counts)

    def scored(self, domain: str, rows: int, alias: str | None, fallback: str | None, *, known: bool) -> None:
        """A request was scored.

        Args:
            domain: as asked.
            rows: of it.
            alias: what scored.
            fallback: why live did not.
            known: whether the domain is one; else it is counted by name only if it was one before.
        """
        name = domain if known else _UNSURE + domain
        counts = self._counts.get(name)
        if counts is None:
            counts = self._counts[name] = [0] * len(COLUMNS)
        counts[REQUESTS] += 1
        counts[ROWS] += rows
        if alias == "canary":
            counts[CANARY_REQUESTS] += 1
            counts[CANARY_ROWS] += rows
        if fallback is not None:
            counts[_REASON[fallback]] += 1

    def take(self) -> dict[str, list[int]]:
        """The counts so far; the tally begins anew."""
        counts, self._counts = self._counts, {}
        return counts


class DomainCounts:
    """Counts by domain since it was made; none is ever forgotten.

    Args:
        limit: domains with a row; those that come later count in the total alone.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self.total: Counts = np.zeros(len(COLUMNS), np.int64)
        self._limit = limit
        self._rows: dict[str, int] = {}
        self._names: list[str] = []
        self._table: Counts = np.zeros((_FIRST_ROWS, len(COLUMNS)), np.int64)
        self._aside: dict[str, Counts] = {}  # the oldest first
        self._brought: dict[int, Counts] = {}
        self._forgot = False

    def __len__(self) -> int:
        return len(self._names)

    @property
    def table(self) -> Counts:
        """(domains, columns), in the order in which the domains were first scored; a view."""
        return self._table[: len(self._names)]

    @property
    def full(self) -> bool:
        """Whether further domains get no row."""
        return len(self._names) >= self._limit

    def name(self, row: int) -> str:
        """Whose row it is."""
        return self._names[row]

    def of(self, domain: str) -> Counts:
        """A domain's counts, also those that are kept aside for it; zeros where it has none."""
        row = self._rows.get(domain)
        counts = self._aside.get(domain) if row is None else self._table[row]
        return np.zeros(len(COLUMNS), np.int64) if counts is None else counts.copy()

    def knows_all_of(self, domain: str) -> bool:
        """Whether `of` tells every request: the domain has a row, or none was refused one or forgotten so far."""
        return domain in self._rows or not (self.full or self._forgot)

    def brought(self, row: int) -> Counts:
        """What a domain had counted before it had its row; it was in the total alone."""
        return self._brought.get(row, np.zeros(len(COLUMNS), np.int64))

    def add(self, counts: Mapping[str, Sequence[int]]) -> None:
        """Add what a tally gave."""
        if not counts:
            return
        added = np.array(list(counts.values()), np.int64)
        self.total += added.sum(axis=0)
        rows = np.array([self._row(name) for name in counts], np.int64)
        named = rows >= 0
        # one domain may stand in it twice, by name and as unsure
        np.add.at(self._table, rows[named], added[named])
        if bool(named.all()):
            return
        for name, own, has_row in zip(counts, added, named, strict=True):
            if not has_row and name.startswith(_UNSURE):
                self._keep_aside(name.removeprefix(_UNSURE), own)

    def _keep_aside(self, domain: str, own: Counts) -> None:
        if domain in self._rows:  # it became known by the same tally
            self._table[self._rows[domain]] += own
            return
        self._aside[domain] = self._aside.pop(domain, 0) + own
        if len(self._aside) > _ASIDE:
            del self._aside[next(iter(self._aside))]
            self._forgot = True

    def _row(self, name: str) -> int:
        """The row of a domain, made if there is room; -1 for none."""
        unsure = name.startswith(_UNSURE)
        domain = name.removeprefix(_UNSURE)
        row = self._rows.get(domain)
        if row is not None:
            return row
        if unsure or self.full:
            return -1
        row = self._rows[domain] = len(self._names)
        self._names.append(domain)
        if row == len(self._table):
            self._table = np.concatenate((self._table, np.zeros_like(self._table)))
        if (aside := self._aside.pop(domain, None)) is not None:
            self._table[row] += aside
            self._brought[row] = aside
        return row
