"""Who scores a request: live -> the revision that already serves -> previous -> auxiliary only -> backbone.

The first three are one slot, chosen by the loader when it applied the domain's record; here it is leased, or the rungs
below it are. `Fallback` says why the live revision did not score, in the words of design.md 3:

- unknown_domain: neither bundle nor store knows the domain; the backbone scores, for no division is known to place it.
- no_adapter: the domain has no live revision (never published, or deleted).
- loading: what should score is not here yet within `cold_wait_ms`, or the store's record is older than min_generation.
- adapter_rejected: this replica refuses the live revision.
- store_unavailable: the store could not give the record or the revision.
- auxiliary_only: for one of the last four reasons auxiliary adapters scored.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from adapters_store.errors import StoreError
from features.rows import EncodedRows
from service.auxiliary import Auxiliaries
from service.clock import Clock, settled
from service.domains import Domains, Known
from service.engine import Prepared, Segment
from service.errors import AuxiliaryDomain
from service.loader import Loader
from service.slots import Lease, Slot, SlotTable
from service.tables import Encoded, FeatureTables, Part

Fallback = Literal["unknown_domain", "no_adapter", "loading", "adapter_rejected", "store_unavailable", "auxiliary_only"]
Alias = Literal["live", "previous"]


@dataclass(slots=True, eq=False)
class Admission:
    """What scores one request, held until `release`.

    Args:
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

    segments: Sequence[Segment]
    positions: Sequence[NDArray[np.int64] | None]
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
        slots: natural adapters.
        auxiliaries: auxiliary adapters alone.
        loader: pulls cold domains.
        tables: tell the auxiliary domains of rows.
        backbone: the engine's prepared backbone, the last rung.
        clock: bounds cold waits.
        cold_wait_s: how long a request waits for what is not resident.
    """

    def __init__(
        self,
        domains: Domains,
        slots: SlotTable[str],
        auxiliaries: Auxiliaries,
        loader: Loader,
        tables: FeatureTables,
        backbone: Prepared,
        clock: Clock,
        *,
        cold_wait_s: float,
    ) -> None:
        self._domains = domains
        self._slots = slots
        self._auxiliaries = auxiliaries
        self._loader = loader
        self._tables = tables
        self._backbone = backbone
        self._clock = clock
        self._cold_wait_s = cold_wait_s

    async def admit(self, domain: str, encoded: Encoded, min_generation: int | None, deadline: float) -> Admission:
        """Choose the rung and lease it, after any cold wait; the caller releases.

        Args:
            domain: of a natural division, known or not.
            encoded: the request's rows.
            min_generation: the oldest generation of the record that counts as live.
            deadline: no wait is longer, `Clock.now()` seconds.

        Raises:
            AuxiliaryDomain: the domain belongs to an auxiliary division.
        """
        until = min(self._clock.now() + self._cold_wait_s, deadline)
        failure = await self._warm(domain, min_generation, until)
        division = self._domains.division_of(domain)
        if division is not None and self._domains.is_auxiliary(division):
            raise AuxiliaryDomain(domain, division)
        if self._slots.get(domain) is None and not self._domains.is_unknown(domain):
            await self._warm_auxiliaries(encoded, until)
        # nothing below awaits: reason, leases and names are of one moment
        fallback = self._fallback(domain, min_generation, failure)
        lease = self._slots.lease(domain)
        if lease is not None:
            return self._by_slot(domain, encoded, lease, fallback)
        return self._by_auxiliaries(domain, encoded, fallback)

    def by_backbone(self, rows: EncodedRows, generation: int | None, fallback: Fallback | None) -> Admission:
        """The last rung, which always stands."""
        return Admission([Segment(rows, self._backbone)], [None], [], None, None, None, generation, {}, fallback)

    async def _warm(self, domain: str, min_generation: int | None, until: float) -> Fallback | None:
        """Pull the domain if it is cold or too old; why that failed, else None."""
        if not self._is_cold(domain, min_generation):
            return None
        for _ in range(2):  # a flight that was joined may have read the record before the generation asked for
            if self._loader.store_failed:
                return "store_unavailable"
            flight = self._loader.pull(domain)
            if flight is None or not await settled(flight, self._clock, until - self._clock.now()):
                return "loading"
            if flight.cancelled() or isinstance(flight.exception(), StoreError):
                return "store_unavailable"
            if not self._is_cold(domain, min_generation):
                return None
        return "loading"

    def _is_cold(self, domain: str, min_generation: int | None) -> bool:
        known = self._domains.get(domain)
        if known is None:
            return min_generation is not None or not self._domains.is_unknown(domain)
        retry = known.retry_at is not None and self._clock.now() >= known.retry_at
        return retry or (min_generation is not None and known.generation < min_generation)

    async def _warm_auxiliaries(self, encoded: Encoded, until: float) -> None:
        """Load the auxiliary adapters of the request's rows, as far as the rest of the cold wait allows."""
        for part in self._parts(encoded):
            if self._auxiliaries.is_ready(part.combination):
                continue
            task = asyncio.ensure_future(self._auxiliaries.ready(part.combination))
            if not await settled(task, self._clock, until - self._clock.now()):
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

    def _by_slot(self, domain: str, encoded: Encoded, lease: Lease, fallback: Fallback | None) -> Admission:
        slot, known = lease.slot, self._domains.get(domain)
        parts = self._tables.parts(encoded, slot.divisions)
        return Admission(
            [Segment(_rows(encoded, part), slot.prepared(part.combination)) for part in parts],
            [part.positions for part in parts],
            [lease],
            slot,
            slot.revision,
            "live" if known is not None and known.live == slot.revision else "previous",
            _generation(known),
            slot.fuses,
            fallback,
        )

    def _by_auxiliaries(self, domain: str, encoded: Encoded, fallback: Fallback | None) -> Admission:
        generation = _generation(self._domains.get(domain))
        parts = [] if fallback == "unknown_domain" else self._parts(encoded)
        leases = [self._auxiliaries.lease(part.combination) for part in parts]
        if not any(leases):
            return self.by_backbone(encoded.rows, generation, fallback)
        segments = [
            Segment(_rows(encoded, part), self._backbone if lease is None else lease.slot.prepared(()))
            for part, lease in zip(parts, leases, strict=True)
        ]
        held = [lease for lease in leases if lease is not None]
        fuses = {domain: revision for lease in held for domain, revision in lease.slot.fuses.items()}
        positions = [part.positions for part in parts]
        return Admission(segments, positions, held, None, None, None, generation, fuses, "auxiliary_only")

    def _parts(self, encoded: Encoded) -> list[Part]:
        return self._tables.parts(encoded, self._domains.auxiliary_divisions)


def _rows(encoded: Encoded, part: Part) -> EncodedRows:
    return encoded.rows if part.positions is None else encoded.rows.take(part.positions)


def _generation(known: Known | None) -> int | None:
    return None if known is None or known.record is None else known.record.generation
