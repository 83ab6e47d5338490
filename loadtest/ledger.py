"""Which revision may score which domain when: the load test is the only one that changes them, and keeps book.

A revision may score a request if at some moment between its sending and its answer it was live or canary, or named by
a change in flight. A change whose outcome is unknown (no answer, 202, 5xx) leaves both possible until the next one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Alias = Literal["live", "canary"]
KEPT = 64


@dataclass(slots=True)
class Claim:
    """A revision that an alias of a domain may name, and when; seconds of one monotonic clock."""

    alias: Alias
    revision: str
    since: float
    until: float = math.inf


@dataclass(slots=True)
class _Domain:
    claims: list[Claim] = field(default_factory=list)
    ever: set[str] = field(default_factory=set)


class Ledger:
    """Keeps book of changes. Each domain has one writer at a time.

    Args:
        propagation_s: how long after a change's answer other replicas may still score by what was before; 0 where one
            replica answers all.
    """

    def __init__(self, propagation_s: float = 0.0) -> None:
        self._propagation_s = propagation_s
        self._domains: dict[str, _Domain] = {}

    def found(self, domain: str, named: Mapping[Alias, str | None]) -> None:
        """What a domain's aliases name before the test changes anything."""
        for alias, revision in named.items():
            if revision is not None:
                self._add(domain, alias, revision, -math.inf)

    def live(self, domain: str) -> str | None:
        """The revision that became live last, as far as it is known."""
        named = [c.revision for c in self._of(domain).claims if c.alias == "live" and c.until == math.inf]
        return named[-1] if named else None

    def proposed(self, domain: str, alias: Alias, revision: str, now: float) -> None:
        """A change that names a revision is about to be sent."""
        self._add(domain, alias, revision, now)

    def settled(self, domain: str, alias: Alias, revision: str | None, now: float) -> None:
        """A change was acknowledged: from now on the alias names this revision alone (None: nothing)."""
        state = self._of(domain)
        named = [claim for claim in state.claims if claim.alias == alias and claim.until == math.inf]
        for claim in named:
            if claim.revision != revision:
                claim.until = now + self._propagation_s
        ended = [claim for claim in state.claims if claim.until < math.inf]
        for claim in ended[:-KEPT]:
            state.claims.remove(claim)

    def refused(self, domain: str, alias: Alias, revision: str, now: float) -> None:
        """A change was refused: the revision it named scores nothing by it."""
        open_ = [c for c in self._of(domain).claims if (c.alias, c.revision, c.until) == (alias, revision, math.inf)]
        if open_:
            open_[-1].until = now

    def allows(self, domain: str, alias: str | None, revision: str, sent: float, answered: float) -> bool:
        """Whether a request that was under way from `sent` to `answered` may have been scored so."""
        return any(
            claim.revision == revision and claim.alias == alias and claim.since <= answered and claim.until >= sent
            for claim in self._of(domain).claims
        )

    def knows(self, domain: str, revision: str) -> bool:
        """Whether the revision was ever named for this domain; an earlier one may score as a fallback."""
        return revision in self._of(domain).ever

    def _of(self, domain: str) -> _Domain:
        return self._domains.setdefault(domain, _Domain())

    def _add(self, domain: str, alias: Alias, revision: str, since: float) -> None:
        state = self._of(domain)
        state.claims.append(Claim(alias, revision, since))
        state.ever.add(revision)
