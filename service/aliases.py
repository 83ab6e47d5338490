"""Moving what a domain's record names, through this replica: live, canary, shadow, back, away."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from adapters_store.ids import check_domain, check_revision
from adapters_store.manifest import AdapterManifest
from adapters_store.records import Condition, DomainRecord
from adapters_store.store import AdapterStore
from adapters_store.tensors import TensorLimits
from service.activation import Activation
from service.catalog import Catalog
from service.domains import Domains, Trial
from service.errors import DivisionMismatch, NeverTried, PublishBusy
from service.fleet import FleetRelease
from service.preparer import Preparer, Verified
from service.published import Alias, Published
from service.slots import Slot, SlotTable
from service.threads import WorkerThread

_RETRY_S = 1.0


class Aliases(Catalog):
    """Entry points of the routes that change records. Store errors pass through unchanged (`adapters_store.errors`).

    Args:
        store: where records go: the truth.
        preparer: verifies and prepares, off the scoring path.
        activation: brings this replica and its other workers to a record that was changed.
        domains: what this replica applied.
        slots: what serves now.
        thread: the loader thread, for decoding.
        limits: what an artifact may be at most.
        in_flight: publishes at once; one that serves here and only waits for the peers counts no longer.
    """

    def __init__(
        self,
        store: AdapterStore,
        preparer: Preparer,
        activation: Activation,
        domains: Domains,
        slots: SlotTable,
        thread: WorkerThread,
        *,
        limits: TensorLimits,
        in_flight: int,
    ) -> None:
        super().__init__(store, domains, slots, thread, limits)
        self._preparer = preparer
        self._activation = activation
        self._places = in_flight
        self._taken = 0

    async def set_live(
        self, domain: str, revision: str, *, by: str, if_generation: int | Condition | None = None
    ) -> Published:
        """Make a stored revision live, after verifying it here.

        Raises:
            PublishBusy: too many publishes in flight.
            DivisionMismatch: the domain is known in another division.
            adapters_store.errors.BlobMissing: the store does not have it.
            adapters_store.errors.ArtifactError: this replica refuses it.
            adapters_store.errors.RecordConflict: if_generation lost.
            adapters_store.errors.StoreError: the store failed.
        """
        check_domain(domain)
        check_revision(revision)
        with self._place():
            record, fleet = await self._store.domain(domain), await self.fleet()
            if fleet.live(domain, record) == revision:
                published = await self._unchanged(domain, record, revision, fleet)
            else:
                verified = await self._preparer.verified_revision(domain, revision)
                check_division(record, fleet, verified.adapter.manifest)
                slot = await self._activation.prepared(verified)
                published = await self._activate(verified, slot, by, if_generation, create_only=False)
                published = replace(published, before=fleet.live(domain, record))
        return await self._everywhere(published)

    async def set_alias(
        self,
        domain: str,
        alias: Alias,
        revision: str,
        percent: float | None = None,
        *,
        by: str,
        if_generation: int | Condition | None = None,
    ) -> Published:
        """Let an alias name a stored revision, after verifying and preparing it here.

        Args:
            domain: whose.
            alias: which.
            revision: what it shall name.
            percent: share of the users (canary) or of the requests (shadow); not for live.
            by: the caller's name, for the record.
            if_generation: the record must have this generation still, and the release pointer its.

        Raises:
            ValueError: percent is missing, or given for live.
            PublishBusy: too many publishes in flight.
            NeverTried: a canary or shadow of an auxiliary domain.
            DivisionMismatch: the domain is known in another division.
            adapters_store.errors.BlobMissing: the store does not have the revision.
            adapters_store.errors.ArtifactError: this replica refuses it.
            adapters_store.errors.RecordConflict: if_generation lost, or nothing is live, or this revision is.
            adapters_store.errors.Frozen: changes are stopped.
            adapters_store.errors.StoreError: the store failed.
        """
        if (percent is None) != (alias == "live"):
            raise ValueError(f"alias {alias!r} takes {'no' if alias == 'live' else 'a'} percent")
        if alias == "live" or percent is None:
            return await self.set_live(domain, revision, by=by, if_generation=if_generation)
        check_domain(domain)
        check_revision(revision)
        self._check_scored(domain, self._domains.division_of(domain), alias)
        with self._place():
            published = await self._set_beside(domain, alias, revision, percent, by, if_generation)
        return await self._everywhere(published)

    async def clear_alias(
        self, domain: str, alias: Trial, *, by: str, if_generation: int | Condition | None = None
    ) -> DomainRecord:
        """End the canary or the shadow; if there is none, nothing changes.

        Raises:
            adapters_store.errors.DomainUnknown: the store has no record of it.
            adapters_store.errors.RecordConflict: if_generation lost.
            adapters_store.errors.Frozen: changes are stopped.
            adapters_store.errors.StoreError: the store failed.
        """
        check_domain(domain)
        since = self._domains.get(domain)
        clear = self._store.clear_canary if alias == "canary" else self._store.clear_shadow
        record = await clear(domain, by, if_generation)
        await self._activation.beside(record, since, alias)
        await self._activation.everywhere(domain, record.generation)
        return record

    async def rollback(
        self, domain: str, from_revision: str, *, by: str, if_generation: int | Condition | None = None
    ) -> DomainRecord:
        """Walk back from a revision if it is the live one; this replica scores with the new live one on return.

        The record's change counts: where the store cannot give the new live revision, the ladder scores until it can.

        Raises:
            adapters_store.errors.RecordConflict: another revision is live, or if_generation lost.
            adapters_store.errors.NothingToRollBack: no earlier revision is left.
            adapters_store.errors.StoreError: the store failed.
        """
        record = await self._store.rollback(domain, from_revision, by, if_generation)
        await self._activation.caught_up(record)
        await self._activation.everywhere(domain, record.generation)
        return record

    async def delete(self, domain: str, *, by: str, if_generation: int | Condition | None = None) -> DomainRecord:
        """Leave a tombstone; the domain is scored by the ladder from now on.

        Raises:
            adapters_store.errors.DomainUnknown: the store has no record of it.
            adapters_store.errors.RecordConflict: if_generation lost.
            adapters_store.errors.StoreError: the store failed.
        """
        since = self._domains.get(domain)
        record = await self._store.delete(domain, by, if_generation)
        await self._activation.live(record, None, since)
        await self._activation.everywhere(domain, record.generation)
        return record

    @contextmanager
    def _place(self) -> Iterator[None]:
        if self._taken >= self._places:
            raise PublishBusy(self._places, _RETRY_S)
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1

    async def _unchanged(
        self, domain: str, record: DomainRecord | None, revision: str, fleet: FleetRelease
    ) -> Published:
        """Nothing to change in the store; this replica is brought to it."""
        await self._activation.reached(domain, record)
        # of the record that names this revision: a later one, or none after an eviction, says nothing of it
        generation = None if record is None else record.generation
        return Published(domain, revision, generation, "unchanged", fleet.pointer.generation, revision)

    async def _everywhere(self, published: Published) -> Published:
        await self._activation.everywhere(published.domain, published.generation)
        return published

    async def _activate(
        self,
        verified: Verified,
        slot: Slot | None,
        by: str,
        if_generation: int | Condition | None,
        create_only: bool,
    ) -> Published:
        """Let the record name a verified adapter as live, and flip."""
        manifest, revision = verified.adapter.manifest, verified.adapter.revision
        since = self._domains.get(manifest.domain)
        record = await self._store.set_live(
            manifest.domain,
            manifest.division,
            revision,
            by,
            if_generation,
            create_only,
            pins=manifest.fuses,
            fusion=manifest.fusion,
        )
        await self._activation.live(record, slot, since)
        return Published(manifest.domain, revision, record.generation, "created", record.epoch)

    async def _set_beside(
        self,
        domain: str,
        alias: Trial,
        revision: str,
        percent: float,
        by: str,
        if_generation: int | Condition | None,
    ) -> Published:
        """Verify and prepare a revision, then let the record name it as its canary or shadow."""
        slot: Slot | None = None
        if self._slots.find(domain, revision) is None:
            verified = await self._preparer.verified_revision(domain, revision)
            manifest, slot = verified.adapter.manifest, await self._preparer.slot(verified)
        else:
            manifest = await self.manifest(domain, revision)
        self._check_scored(domain, manifest.division, alias)  # a domain that only the store knows
        before, fleet = await self._store.domain(domain), await self.fleet()
        check_division(before, fleet, manifest)
        since = self._domains.get(domain)
        change = self._store.set_canary if alias == "canary" else self._store.set_shadow
        record = await change(domain, revision, percent, by, if_generation, manifest.fuses, manifest.fusion)
        await self._activation.beside(record, since, alias, slot)
        changed = before is None or before.generation != record.generation
        # the pointer of before: a condition on a later one would overlook what a flip in between brought
        pointer = fleet.pointer.generation
        held = None if before is None else (before.canary if alias == "canary" else before.shadow)
        was = None if held is None else held.revision
        return Published(domain, revision, record.generation, "created" if changed else "unchanged", pointer, was)

    def _check_scored(self, domain: str, division: str | None, alias: Trial) -> None:
        if division is not None and self._domains.is_auxiliary(division):
            raise NeverTried(domain, division, alias)


def check_division(record: DomainRecord | None, fleet: FleetRelease, manifest: AdapterManifest) -> None:
    """Hold an adapter to the division in which its domain is known.

    The store would refuse it too, but only after the blob was stored, and not in a dry run.

    Raises:
        DivisionMismatch: it is another one.
    """
    held = fleet.division_of(manifest.domain) if record is None or record.deleted else record.division
    if held is not None and held != manifest.division:
        raise DivisionMismatch(manifest.domain, manifest.division, held)
