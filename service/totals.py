"""What all workers of a replica counted, together, since the first of them started.

Kept outside the workers, so that the end of one takes nothing back: its counters stay in the sums, and a worker that
does not answer counts with what it said last. Nothing here waits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import msgspec

from adapters_store.records import rfc3339
from service.aggregation import Family, counted, merged
from service.domain_counts import CANARY_REQUESTS, CANARY_ROWS, FALLBACKS, REASONS, REQUESTS, ROWS, DomainCounts
from service.top_domains import TopDomains, figures

_DOMAIN_METRICS = (
    ("espalier_domain_requests", "Requests scored, by domain; the busiest have series of their own."),
    ("espalier_domain_rows", "Rows scored, by domain; the busiest have series of their own."),
    ("espalier_domain_fallbacks", "Requests that live did not score, by domain; the busiest have series of their own."),
)


class DomainStats(msgspec.Struct, frozen=True):
    """What a replica counted for one domain.

    Args:
        domain: its id.
        since: when the counting began, RFC 3339.
        requests: scored for it.
        rows: of them.
        canary_requests: those of them that a canary scored.
        canary_rows: of them.
        fallbacks: reason -> requests that live did not score; reasons that never came are left out.
        exact: every worker told all; false after one ended without a last word, or did not answer in time.
    """

    domain: str
    since: str
    requests: int
    rows: int
    canary_requests: int
    canary_rows: int
    fallbacks: dict[str, int]
    exact: bool


class Totals:
    """Adds up.

    Args:
        places: domains with metric series of their own.
        now: seconds, for the order of domains.
        wall: seconds since the epoch, for the beginning of the counting.
    """

    def __init__(
        self, places: int, *, now: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time
    ) -> None:
        self._since = rfc3339(wall())
        self._domains = DomainCounts()
        self._top = TopDomains(self._domains, places, now)
        self._reports: dict[int, Sequence[Family]] = {}
        self._ended: list[Family] = []
        self._complete = True

    def add(self, counts: Mapping[str, Sequence[int]]) -> None:
        """Add what was scored by domain, as `service.domain_counts.DomainTally` gives it."""
        self._domains.add(counts)

    def report(self, worker: int, families: Sequence[Family]) -> None:
        """Everything else that a worker counted since its start."""
        self._reports[worker] = families

    def ended(self, worker: int, *, told_all: bool) -> None:
        """A worker is gone, and another may take its number."""
        self._ended = merged([self._ended, counted(self._reports.pop(worker, []))])
        self._complete = self._complete and told_all

    def stats(self, domain: str, *, all_answered: bool) -> DomainStats:
        """One domain's counts.

        Args:
            domain: any id.
            all_answered: every worker has told what it had.
        """
        counts = self._domains.of(domain)
        reasons = zip(REASONS, counts[FALLBACKS].tolist(), strict=True)
        return DomainStats(
            domain,
            self._since,
            int(counts[REQUESTS]),
            int(counts[ROWS]),
            int(counts[CANARY_REQUESTS]),
            int(counts[CANARY_ROWS]),
            {reason: number for reason, number in reasons if number},
            all_answered and self._complete and self._domains.knows_all_of(domain),
        )

    def families(self, up: Mapping[int, bool]) -> list[Family]:
        """All metrics.

        Args:
            up: worker -> whether it answered this scrape.
        """
        answered = [("espalier_worker_up", (("worker", str(number)),), float(is_up)) for number, is_up in up.items()]
        workers = Family("espalier_worker_up", "gauge", "1 if the worker answered this scrape.", "max", answered)
        return [*merged([self._ended, *self._reports.values()]), *self._by_domain(), workers]

    def _by_domain(self) -> list[Family]:
        shown = [(domain, figures(counts)) for domain, counts in self._top.shown()]
        return [
            Family(
                name,
                "counter",
                documentation,
                "sum",
                [(f"{name}_total", (("domain", domain),), values[number]) for domain, values in shown],
            )
            for number, (name, documentation) in enumerate(_DOMAIN_METRICS)
        ]
