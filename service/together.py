"""What all workers of this replica count, as one of them asks for it; a process that serves alone answers itself."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Protocol

from service.aggregation import Family, exposition
from service.totals import DomainStats, Totals


class Together(Protocol):
    """All workers of this replica."""

    def add(self, counts: Mapping[str, Sequence[int]]) -> None:
        """Add what this worker scored by domain since it last said so."""

    async def exposition(self, own: Sequence[Family]) -> bytes:
        """The metrics of all workers in Prometheus' text format, within a bounded time.

        Args:
            own: what this worker counted since its start.

        Raises:
            service.refusals.NotReady: whoever adds them up does not answer.
        """

    async def stats(self, domain: str) -> DomainStats:
        """What all workers counted for a domain, within a bounded time.

        Raises:
            service.refusals.NotReady: whoever adds them up does not answer.
        """


class Alone:
    """The only process of its replica.

    Args:
        totals: of it.
    """

    def __init__(self, totals: Totals) -> None:
        self._totals = totals

    def add(self, counts: Mapping[str, Sequence[int]]) -> None:
        """See Together."""
        self._totals.add(counts)

    async def exposition(self, own: Sequence[Family]) -> bytes:
        """See Together."""
        self._totals.report(1, own)
        # the text takes longest: in a thread it lets the event loop have its turns
        return await asyncio.to_thread(exposition, self._totals.families({1: True}))

    async def stats(self, domain: str) -> DomainStats:
        """See Together."""
        return self._totals.stats(domain, all_answered=True)
