"""What the service core tells whoever watches it: counts and durations, never a user id."""

from __future__ import annotations

from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from service.logs import Action
from service.prepared.outcome import Outcome

Stage = Literal["lookup", "gather", "queue", "engine", "reply"]
LoadOutcome = Literal["activated", "rejected", "store_unavailable"]
MissedIn = Literal["queue", "engine", "reply"]


class Observer(Protocol):
    """Called on the event loop by scorer, batcher, loader and publisher; must return at once and never raise.

    `service.metrics` implements it; labels stay bounded, so domain, revision and reason texts go to the log only.
    """

    def stage(self, name: Stage, seconds: float) -> None:
        """One request spent this long in a stage.

        They are lookup (ids to positions in the tables, and what scores them, with any cold wait), gather (positions to
        encoded rows), queue, engine (the gathering of embeddings included) and reply.
        """

    def batch(self, rows: int, segments: int) -> None:
        """The engine is given a batch."""

    def queue(self, rows: int) -> None:
        """Rows that wait for the engine now."""

    def fallback(self, reason: str) -> None:
        """A response left with this fallback."""

    def deadline_missed(self, where: MissedIn) -> None:
        """A request's deadline passed while it waited, while the engine scored it, or before its reply was written."""

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
        """A request was scored; all that is counted of it by domain, in one call.

        Args:
            domain: as asked.
            scores: probabilities (n,), not changed any more.
            known: whether the domain is one; ids that nobody knows may be made up without end.
            alias: the place of the revision that scored; None when none did.
            fallback: why live did not score; None when it, or the canary, did.
            tried: whether a canary runs beside live.
            made_s: when the adapter that scored was made, seconds since the epoch; None: unknown, or none scored.
        """

    def limits(self, queue_rows: int, memory_bytes: int) -> None:
        """How many rows may wait, and what prepared adapters may take."""

    def adapter_loaded(self, outcome: LoadOutcome) -> None:
        """An adapter was made ready to score, or was refused, or the store could not give it."""

    def prepared(self, outcome: Outcome) -> None:
        """A load found what was prepared before or did not, or what it prepared was kept or not (docs/prepared.md)."""

    def resident(self, adapters: int, size_bytes: int) -> None:
        """Prepared adapters in memory now, leased retired ones included."""

    def activated(
        self, domain: str, revision: str, generation: int, *, before: str | None = None, by: str = ""
    ) -> None:
        """This replica scores the domain with this revision from now on, and not with the one before; by whose word."""

    def rejected(self, domain: str, revision: str, reason: str, *, by: str = "", kind: str = "EngineFailed") -> None:
        """This replica refuses the revision that someone named; the reason names the fault, kind its error class."""

    def followed(self, action: Action, *, by: str, generation: int, **facts: object) -> None:
        """This replica acts from now on by a change that someone made in the store; for the audit log.

        Args:
            action: what was changed.
            by: who.
            generation: of the record.
            facts: `domain`, `from`, `to` and the like.
        """

    def refused(self, action: Action, *, by: str, **facts: object) -> None:
        """This replica does not follow a change that someone made in the store; for the audit log as `followed`."""

    def evicted(self, domain: str, age_s: float) -> None:
        """An adapter left memory to make room, so many seconds after its load."""

    def churn(self, evictions: int, limit_bytes: int) -> None:
        """So many adapters were evicted within a minute of their load; told at most once a minute."""

    def feed(self, lag_s: float | None, resync: bool) -> None:
        """The feed told of something, so many seconds after it was written (None: unknown), or cannot tell what."""

    def feed_answered(self) -> None:
        """The feed answered, whatever it told; told first when the feed begins to be followed."""

    def swapped(self, seconds: float) -> None:
        """A domain that served already is scored by another revision, so many seconds after its record was read."""

    def propagated(self, written: str) -> None:
        """A domain that served already is scored by another revision, which a record names that was written then."""

    def store_called(self, backend: str, operation: str, seconds: float, error: BaseException | None) -> None:
        """A call to the store ended, so many seconds after it began; a failure is given, an answer of no is none."""

    def reconciled(self, untold: int) -> None:
        """This replica was compared with every record; so many had moved of which the feed should have told."""

    def store_failed(self, operation: str) -> None:
        """The store failed at something that no request waits for; operation is one of a few fixed words."""

    def store_refused(self, reason: str) -> None:
        """The store does not keep the promises that writing needs, so nothing is written there; told once a reason."""

    def staged(self, release: str | None, prepared: int, of: int) -> None:
        """How far this replica is with a staged release; None when nothing is staged."""

    def prewarmed(self, domains: int, seconds: float) -> None:
        """Before the service was ready, so many domains were loaded."""

    def table_rows(self, side: str, rows: int) -> None:
        """So many rows the table of users or items has that a backbone begins with."""

    def tables_swapped(self, side: str, revision: str, rows: int) -> None:
        """Requests are looked up in this table of users or items from now on."""

    def backbone_only(self, on: bool) -> None:
        """Whether the switch keeps every adapter out."""

    def backbones(self, default: str | None, beside: str | None, refused: str | None, reason: str | None) -> None:
        """Which bundles are in memory now, and which default is recorded but cannot serve here, and why.

        Args:
            default: None before the first is in memory.
            beside: None when there is none.
            refused: None when the recorded default serves.
            reason: why it does not.
        """

    def canary_scored(self, rows: int) -> None:
        """Rows of a response were scored by a canary."""

    def shadow_scored(self, differences: NDArray[np.float64], rank_correlation: float | None) -> None:
        """A request was scored by a shadow too.

        Args:
            differences: the shadow's probability minus the one answered, (n,).
            rank_correlation: Spearman's; None where the order says nothing (one row, or all equal).
        """

    def shadow_dropped(self) -> None:
        """A request's shadow was left out, or gave nothing to compare."""


class SilentObserver:
    """An observer for whoever needs none."""

    def stage(self, name: Stage, seconds: float) -> None:
        """Ignored."""

    def batch(self, rows: int, segments: int) -> None:
        """Ignored."""

    def queue(self, rows: int) -> None:
        """Ignored."""

    def fallback(self, reason: str) -> None:
        """Ignored."""

    def deadline_missed(self, where: MissedIn) -> None:
        """Ignored."""

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
        """Ignored."""

    def limits(self, queue_rows: int, memory_bytes: int) -> None:
        """Ignored."""

    def adapter_loaded(self, outcome: LoadOutcome) -> None:
        """Ignored."""

    def prepared(self, outcome: Outcome) -> None:
        """Ignored."""

    def resident(self, adapters: int, size_bytes: int) -> None:
        """Ignored."""

    def activated(
        self, domain: str, revision: str, generation: int, *, before: str | None = None, by: str = ""
    ) -> None:
        """Ignored."""

    def rejected(self, domain: str, revision: str, reason: str, *, by: str = "", kind: str = "EngineFailed") -> None:
        """Ignored."""

    def followed(self, action: Action, *, by: str, generation: int, **facts: object) -> None:
        """Ignored."""

    def refused(self, action: Action, *, by: str, **facts: object) -> None:
        """Ignored."""

    def evicted(self, domain: str, age_s: float) -> None:
        """Ignored."""

    def churn(self, evictions: int, limit_bytes: int) -> None:
        """Ignored."""

    def feed(self, lag_s: float | None, resync: bool) -> None:
        """Ignored."""

    def feed_answered(self) -> None:
        """Ignored."""

    def swapped(self, seconds: float) -> None:
        """Ignored."""

    def propagated(self, written: str) -> None:
        """Ignored."""

    def store_called(self, backend: str, operation: str, seconds: float, error: BaseException | None) -> None:
        """Ignored."""

    def reconciled(self, untold: int) -> None:
        """Ignored."""

    def store_failed(self, operation: str) -> None:
        """Ignored."""

    def store_refused(self, reason: str) -> None:
        """Ignored."""

    def staged(self, release: str | None, prepared: int, of: int) -> None:
        """Ignored."""

    def prewarmed(self, domains: int, seconds: float) -> None:
        """Ignored."""

    def table_rows(self, side: str, rows: int) -> None:
        """Ignored."""

    def tables_swapped(self, side: str, revision: str, rows: int) -> None:
        """Ignored."""

    def backbone_only(self, on: bool) -> None:
        """Ignored."""

    def backbones(self, default: str | None, beside: str | None, refused: str | None, reason: str | None) -> None:
        """Ignored."""

    def canary_scored(self, rows: int) -> None:
        """Ignored."""

    def shadow_scored(self, differences: NDArray[np.float64], rank_correlation: float | None) -> None:
        """Ignored."""

    def shadow_dropped(self) -> None:
        """Ignored."""
