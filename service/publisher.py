"""Publishing through this replica: verify, store, make live, flip; nothing of it on the scoring path."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from adapters_store.canonical import digest
from adapters_store.errors import BlobMissing, RecordConflict
from adapters_store.ids import check_domain, check_revision
from adapters_store.records import Condition, DomainRecord
from adapters_store.store import AdapterStore
from adapters_store.tensors import TensorLimits
from service.activation import Activation
from service.aliases import Aliases, check_division
from service.domains import Domains
from service.errors import BodyMismatch
from service.fleet import FleetRelease
from service.preparer import Preparer, Verified
from service.published import Published
from service.slots import SlotTable
from service.threads import WorkerThread


class Publisher(Aliases):
    """Entry points of the routes that take artifacts, beside those that move what a record names.

    Args:
        store: where records go: the truth.
        reader: the same store through the disk cache, if there is one; artifacts go through it, to stay on this disk.
        preparer: verifies and prepares, off the scoring path.
        activation: brings this replica and its other workers to a record that was changed.
        domains: what this replica applied.
        slots: what serves now.
        thread: the loader thread, for digests.
        limits: what an artifact may be at most.
        in_flight: publishes at once; one that serves here and only waits for the peers counts no longer.
    """

    def __init__(
        self,
        store: AdapterStore,
        reader: AdapterStore,
        preparer: Preparer,
        activation: Activation,
        domains: Domains,
        slots: SlotTable,
        thread: WorkerThread,
        *,
        limits: TensorLimits,
        in_flight: int,
    ) -> None:
        super().__init__(store, preparer, activation, domains, slots, thread, limits=limits, in_flight=in_flight)
        self._reader = reader

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
                published = await self._unchanged(domain, record, revision, fleet)
            else:
                if dry_run or not activate:  # else the change of the record itself decides
                    _check_condition(domain, revision, record, fleet, if_generation, create_only)
                verified = await self._preparer.verified(domain, body)
                check_division(record, fleet, verified.adapter.manifest)
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

    async def _checked_digest(self, body: bytes, claimed: str) -> str:
        check_revision(claimed)
        actual = await self._thread.run(partial(digest, body))
        if actual != claimed:
            raise BodyMismatch(claimed, actual)
        return actual

    async def _activate_put(
        self, verified: Verified, body: bytes, by: str, if_generation: int | Condition | None, create_only: bool
    ) -> Published:
        """Activate what was just put, and put it once more if garbage collection was about to delete it then."""
        slot = await self._activation.prepared(verified)
        try:
            return await self._activate(verified, slot, by, if_generation, create_only)
        except BlobMissing:
            await self._reader.put(body)
            return await self._activate(verified, slot, by, if_generation, create_only)


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
