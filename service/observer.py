"""What the service core tells whoever watches it: counts and durations, never a user id."""

from __future__ import annotations

from typing import Literal, Protocol

Stage = Literal["lookup", "queue", "engine", "reply"]
LoadOutcome = Literal["activated", "rejected", "store_unavailable"]


class Observer(Protocol):
    """Called on the event loop by scorer, batcher, loader and publisher; must return at once and never raise.

    `service.metrics` implements it; labels stay bounded, so domain, revision and reason texts go to the log only.
    """

    def stage(self, name: Stage, seconds: float) -> None:
        """One request spent this long in a stage (lookup: ids to rows, with any cold wait; queue; engine; reply)."""

    def batch(self, rows: int, segments: int) -> None:
        """The engine is given a batch."""

    def queue(self, rows: int) -> None:
        """Rows that wait for the engine now."""

    def fallback(self, reason: str) -> None:
        """A response left with this fallback."""

    def adapter_loaded(self, outcome: LoadOutcome) -> None:
        """An adapter was made ready to score, or was refused, or the store could not give it."""

    def resident(self, adapters: int, size_bytes: int) -> None:
        """Prepared adapters in memory now, leased retired ones included."""

    def activated(self, domain: str, revision: str, generation: int) -> None:
        """This replica scores the domain with this revision from now on."""

    def rejected(self, domain: str, revision: str, reason: str) -> None:
        """This replica refuses the revision; the reason names the fault."""


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

    def adapter_loaded(self, outcome: LoadOutcome) -> None:
        """Ignored."""

    def resident(self, adapters: int, size_bytes: int) -> None:
        """Ignored."""

    def activated(self, domain: str, revision: str, generation: int) -> None:
        """Ignored."""

    def rejected(self, domain: str, revision: str, reason: str) -> None:
        """Ignored."""
