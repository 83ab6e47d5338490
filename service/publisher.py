"""Publishing through this replica: verify, store, make live, flip; nothing of it on the scoring path."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from adapters_store.canonical import digest
from adapters_store.errors import BlobMissing, RecordConflict, StoreError
from adapters_store.ids import check_domain, check_revision
from adapters_store.manifest import AdapterManifest
from adapters_store.records import Condition, DomainRecord
from adapters_store.store import AdapterStore
from adapters_store.tensors import TensorLimits
from service.catalog import Catalog, DomainState, Listed, Rejection, Resident
from service.domains import Domains, Known, Trial
from service.errors import BodyMismatch, DivisionMismatch, NeverTried, PublishBusy
from service.fleet import FleetRelease
from service.loader import Loader
from service.peers import Peers
from service.preparer import Preparer, Verified
from service.slots import Slot, SlotTable
from service.threads import WorkerThread

__all__ = ["DomainState", "Listed", "Published", "Publisher", "Rejection", "Resident", "Status"]

Alias = Literal["live", "canary", "shadow"]
Status = Literal["created", "unchanged", "stored", "verified"]

_RETRY_S = 1.0


@dataclass(frozen=True, slots=True)
class Published:
    """What a publish did.

    Args:
        domain: the domain; empty for a fusion.
        revision: sha256 of the body.
        generation: of the domain's record now; None when it has none, and for a fusion.
        status: created (named by its alias now; a fusion: stored now), unchanged (was so already), stored (not live),
            verified (dry run).
        pointer: generation of the release pointer under which this holds; second half of the ETag.
        before: the revision that its alias named when the change was looked into; None for none, and for a fusion.
    """

    domain: str
    revision: str
    generation: int | None
    status: Status
    pointer: int = 0
    before: str | None = None


class Publisher(Catalog):
    """Entry points of the publishing routes. Store errors pass through unchanged (`adapters_store.errors`).

    Args:
        store: where records go: the truth.
        reader: the same store through the disk cache, if there is one; artifacts go through it, to stay on this disk.
        preparer: verifies and prepares, off the scoring path.
        loader: brings this replica to a record that was changed.
        domains: what this replica applied.
        slots: what serves now.
        thread: the loader thread, for digests.
        peers: the other workers of this replica; a change returns once they have applied it too.
        limits: what an artifact may be at most.
        in_flight: publishes at once; one that serves here and only waits for the peers counts no longer.
    """

    def __init__(
        self,
        store: AdapterStore,
        reader: AdapterStore,
        preparer: Preparer,
        loader: Loader,
        domains: Domains,
        slots: SlotTable,
        thread: WorkerThread,
        peers: Peers,
        *,
        limits: TensorLimits,
        in_flight: int,
    ) -> None:
        super().__init__(store, domains, slots, thread, limits)
        self._reader = reader
        self._preparer = preparer
        self._loader = loader
        self._peers = peers
        self._places = in_flight
        self._taken = 0

    async def publish(
        self,
        domain: str,
        body: bytes,
        *,
        claimed_digest: str,
        by: str,
        if_generation: int | Condition | None = None,
        create_only: bool = False,
        activate: bool = True,
        dry_run: bool = False,
        landed: Callable[[], None] = lambda: None,
    ) -> Published:
        """Verify an adapter, store it and make it live here.

        Args:
            domain: of the path.
            body: the artifact.
            claimed_digest: sha256 in hex that the client sent.
            by: the caller's name, for the record.
            if_generation: the record must have this generation still, and the release pointer its.
            create_only: nothing may be live.
            activate: False stores only, if the condition holds as the domain stands when the artifact comes.
            dry_run: only verify, the condition too.
            landed: called once this replica is done with the body and only the other workers are waited for.

        Raises:
            PublishBusy: too many publishes in flight.
            BodyMismatch: the body is not what claimed_digest names.
            DivisionMismatch: the domain is known in another division.
            adapters_store.errors.ArtifactError: the artifact is refused; the live revision keeps serving.
            adapters_store.errors.RecordConflict: if_generation or create_only lost; the blob of what was to become live
                stays stored.
            adapters_store.errors.StoreError: the store failed.
        """
        check_domain(domain)
        with self._place():
            revision = await self._checked_digest(body, claimed_digest)
            record, fleet = await self._store.domain(domain), await self.fleet()
            if fleet.live(domain, record) == revision and not dry_run:
                await self._reader.put(body)  # heals a store that lost or damaged the blob
                published = await self._unchanged(domain, record, revision, fleet.pointer.generation)
            else:
                if dry_run or not activate:  # else the change of the record itself decides
                    _check_condition(domain, revision, record, fleet, if_generation, create_only)
                verified = await self._preparer.verified(domain, body)
                _check_division(record, fleet, verified.adapter.manifest)
                generation = None if record is None else record.generation
                if dry_run:
                    return Published(domain, revision, generation, "verified", fleet.pointer.generation)
                await self._reader.put(body)
                if not activate:
                    return Published(domain, revision, generation, "stored", fleet.pointer.generation)
                published = await self._activate_put(verified, body, by, if_generation, create_only)
                published = replace(published, before=fleet.live(domain, record))
                del verified
        del body  # however long a worker hangs, its publishes hold neither memory nor a place
        landed()
        return await self._everywhere(published)

    async def publish_fusion(self, body: bytes, *, claimed_digest: str, by: str) -> Published:
        """Verify a fusion and store it, for adapters to pin; nothing becomes live by it.

        Raises:
            PublishBusy: too many publishes in flight.
            BodyMismatch: the body is not what claimed_digest names.
            adapters_store.errors.ArtifactError: the fusion is refused.
            adapters_store.errors.StoreError: the store failed.
        """
        with self._place():
            revision = await self._checked_digest(body, claimed_digest)
            if await self._store.has(revision):
                return Published("", revision, None, "unchanged")
            await self._preparer.verified_fusion(body)
            await self._reader.put(body)
            return Published("", revision, None, "created")

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
                published = await self._unchanged(domain, record, revision, fleet.pointer.generation)
            else:
                verified = await self._preparer.verified_revision(domain, revision)
                _check_division(record, fleet, verified.adapter.manifest)
                slot = await self._slot(verified)
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
        await self._try_beside(record, since, alias)
        await self._peers.applied(domain, record.generation)
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
        await self._caught_up(record)
        await self._peers.applied(domain, record.generation)
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
        await self._flip(record, None, since)
        await self._peers.applied(domain, record.generation)
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

    async def _checked_digest(self, body: bytes, claimed: str) -> str:
        check_revision(claimed)
        actual = await self._thread.run(partial(digest, body))
        if actual != claimed:
            raise BodyMismatch(claimed, actual)
        return actual

    async def _unchanged(self, domain: str, record: DomainRecord | None, revision: str, pointer: int) -> Published:
        """Nothing to change in the store; this replica is brought to it, if it lags or never loaded the domain."""
        if record is None:  # it serves by the release alone
            await self._loader.refresh(domain)
            return Published(domain, revision, None, "unchanged", pointer, revision)
        await self._loader.refresh(domain, record.generation)
        # of the record that names this revision: a later one, or none after an eviction, says nothing of it
        return Published(domain, revision, record.generation, "unchanged", pointer, revision)

    async def _everywhere(self, published: Published) -> Published:
        """Wait until the other workers have applied what this replica has."""
        if published.generation is not None:
            await self._peers.applied(published.domain, published.generation)
        return published

    async def _slot(self, verified: Verified) -> Slot | None:
        """Prepared before the record moves, so that nothing is left that could fail then; None for an auxiliary one."""
        if self._domains.is_auxiliary(verified.adapter.manifest.division):
            return None
        return await self._preparer.slot(verified)

    async def _activate_put(
        self, verified: Verified, body: bytes, by: str, if_generation: int | Condition | None, create_only: bool
    ) -> Published:
        """Activate what was just put, and put it once more if garbage collection was about to delete it then."""
        slot = await self._slot(verified)
        try:
            return await self._activate(verified, slot, by, if_generation, create_only)
        except BlobMissing:
            await self._reader.put(body)
            return await self._activate(verified, slot, by, if_generation, create_only)

    async def _activate(
        self,
        verified: Verified,
        slot: Slot | None,
        by: str,
        if_generation: int | Condition | None,
        create_only: bool,
    ) -> Published:
        """Change the record and flip."""
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
        await self._flip(record, slot, since)
        return Published(manifest.domain, revision, record.generation, "created", record.epoch)

    async def _flip(self, record: DomainRecord, slot: Slot | None, since: Known | None) -> None:
        """Apply a record that was just written; where another came between, what the store says now decides."""
        revision = None if slot is None else slot.revision
        if not self._domains.is_auxiliary(record.division):
            live = self._domains.fleet.live(record.domain, record)
            if live != revision:  # a release was flipped to, here already
                await self._caught_up(record)
                return
        if not self._domains.apply(record.domain, record, slot, since=since):
            await self._caught_up(record)

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
        _check_division(before, fleet, manifest)
        since = self._domains.get(domain)
        change = self._store.set_canary if alias == "canary" else self._store.set_shadow
        record = await change(domain, revision, percent, by, if_generation, manifest.fuses, manifest.fusion)
        await self._try_beside(record, since, alias, slot)
        changed = before is None or before.generation != record.generation
        # the pointer of before: a condition on a later one would overlook what a flip in between brought
        pointer = fleet.pointer.generation
        held = None if before is None else (before.canary if alias == "canary" else before.shadow)
        was = None if held is None else held.revision
        return Published(domain, revision, record.generation, "created" if changed else "unchanged", pointer, was)

    def _check_scored(self, domain: str, division: str | None, alias: Trial) -> None:
        if division is not None and self._domains.is_auxiliary(division):
            raise NeverTried(domain, division, alias)

    async def _try_beside(
        self, record: DomainRecord, since: Known | None, alias: Trial, prepared: Slot | None = None
    ) -> None:
        """Apply a record whose canary or shadow was just changed.

        A slot that was in memory before the change is found again or not: it may have been freed meanwhile.
        """
        domain, slot = record.domain, self._slots.get(record.domain)
        serves = slot is not None and slot.revision == self._domains.fleet.live(domain, record)
        if serves and self._domains.apply(domain, record, slot, since=since):
            if prepared is not None:
                self._domains.attach(domain, alias, prepared)
            if self._domains.wants(domain, alias) is None:
                return
        await self._caught_up(record)

    async def _caught_up(self, record: DomainRecord) -> None:
        """Bring this replica to a record that was just written, as far as the store lets it.

        The change is done: a failure to load it is no failure of the change. The domain's state shows it, and requests
        and the watcher try again.
        """
        with suppress(StoreError):
            await self._loader.refresh(record.domain, again=True)


def _check_condition(
    domain: str,
    revision: str,
    record: DomainRecord | None,
    fleet: FleetRelease,
    if_generation: int | Condition | None,
    create_only: bool,
) -> None:
    """Hold a publish that will change no record to its condition, as the change would be held to it."""
    serving = fleet.live(domain, record)
    if serving == revision:
        return
    if create_only and serving is not None:
        raise RecordConflict(f"domain {domain!r} already serves {serving}")
    condition = Condition.of(if_generation)
    if condition is not None:
        condition.check(f"domain/{domain}", 0 if record is None else record.generation, fleet.pointer.generation)


def _check_division(record: DomainRecord | None, fleet: FleetRelease, manifest: AdapterManifest) -> None:
    """The store would refuse it too, but only after the blob was stored, and not in a dry run."""
    held = fleet.division_of(manifest.domain) if record is None or record.deleted else record.division
    if held is not None and held != manifest.division:
        raise DivisionMismatch(manifest.domain, manifest.division, held)
