"""Publishing through this replica: verify, store, make live, flip; nothing of it on the scoring path."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Literal

from adapters_store.artifact import decode_adapter
from adapters_store.canonical import digest
from adapters_store.errors import ArtifactError, BlobMissing, DomainUnknown, StoreError, StoreUnavailable
from adapters_store.ids import check_domain, check_revision
from adapters_store.manifest import AdapterManifest
from adapters_store.records import DomainRecord
from adapters_store.store import AdapterStore
from service.domains import Domains, Known
from service.errors import BodyMismatch, DivisionMismatch, PublishBusy
from service.loader import Loader
from service.preparer import Preparer, Verified
from service.slots import Slot, SlotTable
from service.threads import WorkerThread

Status = Literal["created", "unchanged", "stored", "verified"]

_RETRY_S = 1.0


@dataclass(frozen=True, slots=True)
class Published:
    """What a publish did.

    Args:
        domain: the domain; empty for a fusion.
        revision: sha256 of the body.
        generation: of the domain's record now; None when it has none, and for a fusion.
        status: created (live now; a fusion: stored now), unchanged (was so already), stored (not live),
            verified (dry run).
    """

    domain: str
    revision: str
    generation: int | None
    status: Status


@dataclass(frozen=True, slots=True)
class Resident:
    """The slot that scores a domain here."""

    revision: str
    generation: int
    fuses: dict[str, str]
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Rejection:
    """A revision that this replica refused for a domain, and why."""

    revision: str
    reason: str


@dataclass(frozen=True, slots=True)
class DomainState:
    """A domain as the store records it and as this replica serves it.

    Args:
        domain: its id.
        division: from the record, else from the bundle.
        record: None when none was ever published.
        resident: None when nothing is loaded here (cold, deleted, auxiliary, or every candidate refused).
        rejection: the live revision's, else any other's that stands in the record; None when nothing was refused.
    """

    domain: str
    division: str | None
    record: DomainRecord | None
    resident: Resident | None
    rejection: Rejection | None


class Publisher:
    """Entry points of the publishing routes. Store errors pass through unchanged (`adapters_store.errors`).

    Args:
        store: where artifacts and records go.
        preparer: verifies and prepares, off the scoring path.
        loader: brings this replica to a record that was changed.
        domains: what this replica applied.
        slots: what serves now.
        thread: the loader thread, for digests.
        in_flight: publishes at once.
    """

    def __init__(
        self,
        store: AdapterStore,
        preparer: Preparer,
        loader: Loader,
        domains: Domains,
        slots: SlotTable[str],
        thread: WorkerThread,
        *,
        in_flight: int,
    ) -> None:
        self._store = store
        self._preparer = preparer
        self._loader = loader
        self._domains = domains
        self._slots = slots
        self._thread = thread
        self._places = in_flight
        self._taken = 0

    async def publish(
        self,
        domain: str,
        body: bytes,
        *,
        claimed_digest: str,
        by: str,
        if_generation: int | None = None,
        create_only: bool = False,
        activate: bool = True,
        dry_run: bool = False,
    ) -> Published:
        """Verify an adapter, store it and make it live here.

        Args:
            domain: of the path.
            body: the artifact.
            claimed_digest: sha256 in hex that the client sent.
            by: the caller's name, for the record.
            if_generation: the record must have this generation still.
            create_only: nothing may be live.
            activate: False stores only.
            dry_run: only verify.

        Raises:
            PublishBusy: too many publishes in flight.
            BodyMismatch: the body is not what claimed_digest names.
            DivisionMismatch: the domain is known in another division.
            adapters_store.errors.ArtifactError: the artifact is refused; the live revision keeps serving.
            adapters_store.errors.RecordConflict: if_generation or create_only lost; the blob stays stored.
            adapters_store.errors.StoreError: the store failed.
        """
        check_domain(domain)
        with self._place():
            revision = await self._checked_digest(body, claimed_digest)
            record = await self._store.domain(domain)
            if record is not None and not dry_run and _is_live(record, revision):
                await self._store.put(body)  # heals a store that lost or damaged the blob
                return await self._unchanged(record, revision)
            verified = await self._preparer.verified(domain, body)
            _check_division(record, verified.adapter.manifest)
            if dry_run:
                return Published(domain, revision, None if record is None else record.generation, "verified")
            await self._store.put(body)
            if not activate:
                return Published(domain, revision, None if record is None else record.generation, "stored")
            return await self._activate(verified, by, if_generation, create_only)

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
            await self._store.put(body)
            return Published("", revision, None, "created")

    async def set_live(self, domain: str, revision: str, *, by: str, if_generation: int | None = None) -> Published:
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
            record = await self._store.domain(domain)
            if record is not None and _is_live(record, revision):
                return await self._unchanged(record, revision)
            verified = await self._preparer.verified_revision(domain, revision)
            _check_division(record, verified.adapter.manifest)
            return await self._activate(verified, by, if_generation, create_only=False)

    async def rollback(
        self, domain: str, from_revision: str, *, by: str, if_generation: int | None = None
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
        return record

    async def delete(self, domain: str, *, by: str, if_generation: int | None = None) -> DomainRecord:
        """Leave a tombstone; the domain is scored by the ladder from now on.

        Raises:
            adapters_store.errors.DomainUnknown: the store has no record of it.
            adapters_store.errors.RecordConflict: if_generation lost.
            adapters_store.errors.StoreError: the store failed.
        """
        since = self._domains.get(domain)
        record = await self._store.delete(domain, by, if_generation)
        await self._flip(record, None, since)
        return record

    async def records(self, after: str = "", limit: int = 100) -> list[DomainRecord]:
        """Domain records in order of domain id, tombstones included."""
        return await self._store.domains(after, limit)

    async def state(self, domain: str) -> DomainState:
        """A domain as recorded and as served here; without the store, as last applied.

        Raises:
            adapters_store.errors.DomainUnknown: neither bundle nor store knows it.
            adapters_store.errors.StoreUnavailable: the store failed and nothing was ever applied here.
        """
        known = self._domains.get(domain)
        try:
            record = await self._store.domain(domain)
        except StoreUnavailable:
            if known is None:
                raise
            record = known.record
        division = record.division if record is not None else self._domains.division_of(domain)
        if division is None:
            raise DomainUnknown(f"domain {domain!r} is unknown: nothing was published for it and the bundle lists none")
        slot = self._slots.get(domain)
        resident = None
        if slot is not None and slot.revision is not None and known is not None:
            resident = Resident(slot.revision, known.generation, dict(slot.fuses), slot.nbytes)
        rejected = {} if known is None else known.rejected
        refused = known.live if known is not None and known.live in rejected else next(iter(rejected), None)
        rejection = None if refused is None else Rejection(refused, rejected[refused])
        return DomainState(domain, division, record, resident, rejection)

    async def manifest(self, domain: str, revision: str) -> AdapterManifest:
        """The manifest of a stored revision of this domain.

        Raises:
            adapters_store.errors.BlobMissing: no such revision, or another domain's, or no adapter.
            adapters_store.errors.StoreError: the store failed.
        """
        body = await self._store.get(revision)
        missing = f"domain {domain!r} has no revision {revision}"
        try:
            adapter = await self._thread.run(partial(decode_adapter, body))
        except ArtifactError as error:
            raise BlobMissing(f"{missing}: the blob of that digest is no adapter") from error
        if adapter.manifest.domain != domain:
            raise BlobMissing(f"{missing}: it is of domain {adapter.manifest.domain!r}")
        return adapter.manifest

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

    async def _unchanged(self, record: DomainRecord, revision: str) -> Published:
        """Nothing to change in the store; this replica is brought to it, if it lags or never loaded the domain."""
        await self._loader.refresh(record.domain, record.generation)
        return Published(record.domain, revision, self._domains.generation(record.domain), "unchanged")

    async def _activate(self, verified: Verified, by: str, if_generation: int | None, create_only: bool) -> Published:
        """Prepare, change the record, flip: the record moves only when nothing is left that could fail here."""
        manifest, revision = verified.adapter.manifest, verified.adapter.revision
        slot: Slot | None = None
        if not self._domains.is_auxiliary(manifest.division):
            slot = await self._preparer.slot(verified)
        since = self._domains.get(manifest.domain)
        record = await self._store.set_live(
            manifest.domain, manifest.division, revision, by, if_generation, create_only
        )
        await self._flip(record, slot, since)
        return Published(manifest.domain, revision, record.generation, "created")

    async def _flip(self, record: DomainRecord, slot: Slot | None, since: Known | None) -> None:
        """Apply a record that was just written; where another came between, what the store says now decides."""
        if not self._domains.apply(record, slot, since=since):
            await self._caught_up(record)

    async def _caught_up(self, record: DomainRecord) -> None:
        """Bring this replica to a record that was just written, as far as the store lets it.

        The change is done: a failure to load it is no failure of the change. The domain's state shows it, and requests
        and the watcher try again.
        """
        with suppress(StoreError):
            await self._loader.refresh(record.domain, record.generation)


def _is_live(record: DomainRecord, revision: str) -> bool:
    return record.live is not None and record.live.revision == revision


def _check_division(record: DomainRecord | None, manifest: AdapterManifest) -> None:
    """The store would refuse it too, but only after the blob was stored, and not in a dry run."""
    if record is not None and not record.deleted and record.division != manifest.division:
        raise DivisionMismatch(manifest.domain, manifest.division, record.division)
