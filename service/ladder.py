"""Who scores a request: live -> the revision that already serves -> previous -> auxiliary only -> backbone.

The first three are one slot, chosen by the loader when it applied the domain's record; here it is leased, or the rungs
below it are. `Fallback` says why the live revision did not score, in the words of design.md 3:

- unknown_domain: neither bundle nor store knows the domain; the backbone scores, for no division is known to place it.
- no_adapter: the domain has no live revision (never published, or deleted).
- loading: what should score is not here yet within `cold_wait_ms`, or the store's record is older than min_generation.
- adapter_rejected: this replica refuses the live revision.
- store_unavailable: the store could not give the record or the revision.
- auxiliary_only: for one of the last four reasons auxiliary adapters scored, fused with the natural one masked out.
- switched_off: an operator keeps every adapter out of the whole fleet; the backbone scores.

Users of a canary are scored by it where it is prepared; that is no fallback.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from service.auxiliary import Auxiliaries
from service.backbones import Backbones
from service.canary import in_canary
from service.clock import Clock, settled
from service.domains import Domains, Known
from service.engine import Segment
from service.errors import AuxiliaryDomain, InvalidContext
from service.loader import Loader
from service.precedence import Precedence
from service.segments import Places, rows_of, scored_by, split
from service.serving import Serving
from service.slots import Lease, Slot, SlotTable
from service.switches import Switchboard
from service.tables import Encoded, FeatureTables, Part

Fallback = Literal[
    "unknown_domain",
    "no_adapter",
    "loading",
    "adapter_rejected",
    "store_unavailable",
    "auxiliary_only",
    "switched_off",
]
Alias = Literal["live", "canary", "previous"]


@dataclass(slots=True, eq=False)
class Asked:
    """A request as the ladder sees it, encoded for one backbone.

    Args:
        domain: of a natural division, known or not.
        user_id: as given; decides whether a canary scores.
        item_ids: as given.
        context: as given.
        min_generation: the oldest generation of the record that counts as live.
        deadline: no wait is longer, `Clock.now()` seconds.
        serving: the backbone that its rows are encoded for.
        clock: times the gathering of its rows.

    Attributes:
        tables: those that encoded it, held to the last row.
        encoded: its rows.
        gathering: when its ids were found and when its rows were there, `Clock.now()` seconds.

    Raises:
        InvalidContext: a context value that its field cannot take.
    """

    domain: str
    user_id: str | int
    item_ids: Sequence[str | int]
    context: Mapping[str, Any] | None
    min_generation: int | None
    deadline: float
    serving: Serving
    clock: Clock
    tables: FeatureTables = field(init=False)
    encoded: Encoded = field(init=False)
    gathering: tuple[float, float] = field(init=False)

    def __post_init__(self) -> None:
        self.tables = self.serving.tables.current  # taken once: one response is of one pair of tables
        found = self.tables.find(self.user_id, self.item_ids)
        began = self.clock.now()
        self.encoded = self.tables.gather(found, self.domain, self.context)
        self.gathering = began, self.clock.now()

    def by(self, serving: Serving) -> Asked:
        """The same request for a backbone; itself if its rows are that one's already."""
        return self if serving is self.serving else replace(self, serving=serving)


@dataclass(slots=True, eq=False)
class Admission:
    """What scores one request, held until `release`.

    Args:
        asked: the request, encoded for the one backbone that scores it.
        encoded: its rows as they are scored, with what the adapter's id overlay knows of them.
        segments: of the request; together every row once.
        positions: rows of each segment, int64; None means all, in order.
        leases: on every slot that the segments use.
        slot: the natural adapter's slot; None when none scores.
        revision: the natural adapter's; None when none scores.
        alias: its place in the record; None when none scores.
        generation: of the applied record; None without one.
        fuses: auxiliary domain -> revision.
        fallback: why live does not score; None when it does.
    """

    asked: Asked
    encoded: Encoded
    segments: Sequence[Segment]
    positions: Places
    leases: Sequence[Lease]
    slot: Slot | None
    revision: str | None
    alias: Alias | None
    generation: int | None
    fuses: Mapping[str, str]
    fallback: Fallback | None

    def release(self) -> None:
        """Let every lease go."""
        for lease in self.leases:
            lease.release()


class Ladder:
    """Admits requests.

    Args:
        domains: what is known here.
        slots: what is in memory.
        auxiliaries: auxiliary adapters alone.
        loader: pulls cold domains.
        switches: may keep every adapter out.
        backbones: those in memory; the last rung.
        clock: bounds cold waits.
        precedence: told while a request waits for a load.
        cold_wait_s: how long a request waits for what is not resident.
    """

    def __init__(
        self,
        domains: Domains,
        slots: SlotTable,
        auxiliaries: Auxiliaries,
        loader: Loader,
        switches: Switchboard,
        backbones: Backbones,
        clock: Clock,
        *,
        precedence: Precedence,
        cold_wait_s: float,
    ) -> None:
        self._domains = domains
        self._slots = slots
        self._auxiliaries = auxiliaries
        self._loader = loader
        self._switches = switches
        self._backbones = backbones
        self._clock = clock
        self._precedence = precedence
        self._cold_wait_s = cold_wait_s

    def serving(self, domain: str) -> Serving:
        """The backbone that would score the domain now; `admit` looks again after any wait."""
        backbones = self._backbones
        return backbones.default if backbones.beside is None else backbones.of(self._slots.get(domain))

    async def admit(self, asked: Asked) -> Admission:
        """Choose the rung and lease it, after any cold wait; the caller releases.

        Raises:
            AuxiliaryDomain: the domain belongs to an auxiliary division.
            InvalidContext: a context value that its field cannot take, in the backbone that the domain came to since.
        """
        domain = asked.domain
        if self._switches.backbone_only:
            self._refuse_auxiliary(domain)
            default = asked.by(self._backbones.default)
            return self.by_backbone(default, _generation(self._domains.get(domain)), "switched_off")
        until = min(self._clock.now() + self._cold_wait_s, asked.deadline)
        failure = await self._warm(domain, asked.min_generation, until)
        self._refuse_auxiliary(domain)
        if self._slots.get(domain) is None and not self._domains.is_unknown(domain):
            await self._warm_auxiliaries(asked, until)
        # nothing below awaits: reason, leases, names and backbone are of one moment
        fallback = self._fallback(domain, asked.min_generation, failure)
        canary = self._canary(asked)
        if canary is not None:
            return self._by_slot(asked, canary, "canary", None)
        lease = self._slots.lease(domain)
        if lease is not None:
            known = self._domains.get(domain)
            is_live = known is not None and known.live == lease.slot.revision
            return self._by_slot(asked, lease, "live" if is_live else "previous", fallback)
        return self._by_auxiliaries(asked.by(self._backbones.default), fallback)

    def by_backbone(self, asked: Asked, generation: int | None, fallback: Fallback | None) -> Admission:
        """The last rung, which always stands: the backbone that the rows are encoded for."""
        segment = Segment(asked.encoded.rows, asked.serving.prepared, asked.serving.engine)
        return Admission(asked, asked.encoded, [segment], [None], [], None, None, None, generation, {}, fallback)

    async def _warm(self, domain: str, min_generation: int | None, until: float) -> Fallback | None:
        """Pull the domain if it is cold or too old; why that failed, else None."""
        if not self._is_cold(domain, min_generation):
            return None
        # a flight that was joined may have read the record before the generation asked for, or have brought already
        # what was evicted since
        for _ in range(3):
            if self._loader.store_failed(domain):
                return "store_unavailable"
            flight = self._loader.pull(domain)
            if flight is None:
                return "loading"
            with self._precedence.waiting():
                arrived = await settled(flight, self._clock, until - self._clock.now())
            if not arrived:
                return "loading"
            if not flight.result():
                return "store_unavailable"
            if not self._is_cold(domain, min_generation):
                return None
        return "loading"

    def _is_cold(self, domain: str, min_generation: int | None) -> bool:
        known = self._domains.get(domain)
        if known is None:
            return min_generation is not None or not self._domains.is_unknown(domain)
        retry_at = known.retry_at
        missing = self._is_missing(domain, known) if retry_at is None else self._clock.now() >= retry_at
        return missing or (min_generation is not None and known.generation < min_generation)

    def _is_missing(self, domain: str, known: Known) -> bool:
        """Whether a release gave the domain its first revision after the last look."""
        if known.live is None or known.live in known.rejected or self._slots.get(domain) is not None:
            return False
        return not self._domains.is_auxiliary(self._domains.division_of(domain))

    def _canary(self, asked: Asked) -> Lease | None:
        """Hold the canary's slot if the user is one of its; a canary that is not prepared is served by live."""
        known = self._domains.get(asked.domain)
        canary = None if known is None else known.canary
        if known is None or canary is None:
            return None
        if asked.min_generation is not None and known.generation < asked.min_generation:
            return None
        if not in_canary(canary.salt, asked.user_id, canary.percent):
            return None
        return self._slots.lease(asked.domain, "canary")

    def _refuse_auxiliary(self, domain: str) -> None:
        division = self._domains.division_of(domain)
        if division is not None and self._domains.is_auxiliary(division):
            raise AuxiliaryDomain(domain, division)

    async def _warm_auxiliaries(self, asked: Asked, until: float) -> None:
        """Load the auxiliary adapters of the request's rows, as far as the rest of the cold wait allows."""
        combinations = [part.combination for part in self._parts(asked)]
        for _ in range(2):  # while one was loaded the revisions of another may have changed
            cold = [combination for combination in combinations if not self._auxiliaries.is_ready(combination)]
            for combination in cold:
                task = asyncio.ensure_future(self._auxiliaries.ready(combination))
                with self._precedence.waiting():
                    arrived = await settled(task, self._clock, until - self._clock.now())
                if not arrived:
                    task.cancel()
                    return

    def _fallback(self, domain: str, min_generation: int | None, failure: Fallback | None) -> Fallback | None:
        known = self._domains.get(domain)
        if known is None:
            return "unknown_domain" if self._domains.is_unknown(domain) else (failure or "loading")
        if min_generation is not None and known.generation < min_generation:
            return failure or "loading"
        if known.live is None:
            return "no_adapter" if known.retry_at is None else "store_unavailable"
        slot = self._slots.get(domain)
        if slot is not None and slot.revision == known.live:
            return None
        if known.live in known.rejected:
            return "adapter_rejected"
        return "loading" if known.retry_at is None else "store_unavailable"

    def _by_slot(self, asked: Asked, lease: Lease, alias: Alias, fallback: Fallback | None) -> Admission:
        slot = lease.slot
        try:
            asked = asked.by(slot.serving)
        except InvalidContext:
            lease.release()
            raise
        encoded = scored_by(asked.encoded, slot)
        segments, places = split(asked.tables, encoded, slot)
        generation = _generation(self._domains.get(asked.domain))
        return Admission(
            asked, encoded, segments, places, [lease], slot, slot.revision, alias, generation, slot.fuses, fallback
        )

    def _by_auxiliaries(self, asked: Asked, fallback: Fallback | None) -> Admission:
        generation = _generation(self._domains.get(asked.domain))
        parts = [] if fallback == "unknown_domain" else self._parts(asked)
        leases = self._auxiliaries.lease([part.combination for part in parts])
        if not any(leases):
            return self.by_backbone(asked, generation, fallback)
        alone, engine = asked.serving.prepared, asked.serving.engine
        segments = [
            Segment(rows_of(asked.encoded, part), alone if lease is None else lease.slot.prepared(()), engine)
            for part, lease in zip(parts, leases, strict=True)
        ]
        held = [lease for lease in leases if lease is not None]
        fuses = {domain: revision for lease in held for domain, revision in lease.slot.fuses.items()}
        positions = [part.positions for part in parts]
        return Admission(
            asked, asked.encoded, segments, positions, held, None, None, None, generation, fuses, "auxiliary_only"
        )

    def _parts(self, asked: Asked) -> list[Part]:
        return asked.tables.parts(asked.encoded, asked.tables.auxiliary_divisions)


def _generation(known: Known | None) -> int | None:
    return None if known is None or known.record is None else known.record.generation
