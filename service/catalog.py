"""What the store records of domains, and how this replica serves them; nothing here changes anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

from adapters_store.artifact import decode_adapter
from adapters_store.errors import (
    ArtifactError,
    BlobMissing,
    DomainUnknown,
    LimitExceeded,
    RecordError,
    StoreError,
    StoreUnavailable,
)
from adapters_store.ids import check_domain
from adapters_store.manifest import AdapterManifest
from adapters_store.records import DomainRecord
from adapters_store.store import AdapterStore
from adapters_store.tensors import TensorLimits
from service.domains import TRIALS, Domains, Known, Trial
from service.fleet import FleetRelease
from service.preparer import artifact_bound
from service.slots import SlotTable
from service.threads import WorkerThread

_DOMAIN = "domain/"


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
        division: from the record, else from the bundle or the release.
        record: None when none was ever published, or when it cannot be read.
        resident: None when nothing is loaded here (cold, deleted, auxiliary, or every candidate refused).
        rejection: the live revision's, else any other's that stands in the record; None when nothing was refused.
        live: the revision that should score, by the record or by the release.
        pointer: generation of the release pointer; second half of the ETag.
        prepared: which of canary and shadow are loaded here.
        rejected: every refused revision, canary and shadow included -> why.
        fault: why the record cannot be read; None when it can.
    """

    domain: str
    division: str | None
    record: DomainRecord | None
    resident: Resident | None
    rejection: Rejection | None
    live: str | None = None
    pointer: int = 0
    prepared: tuple[Trial, ...] = ()
    rejected: Mapping[str, str] = field(default_factory=dict)
    fault: str | None = None


@dataclass(frozen=True, slots=True)
class Listed:
    """One domain of a listing.

    Args:
        domain: its id.
        record: None when it cannot be read.
        live: the revision that should score; None also when the record cannot be read.
        fault: why the record cannot be read.
    """

    domain: str
    record: DomainRecord | None
    live: str | None
    fault: str | None = None


class Catalog:
    """Reads for the routes.

    Args:
        store: the truth.
        domains: what this replica applied.
        slots: what is in memory.
        thread: the loader thread, for decoding.
        limits: what an adapter may be at most; larger ones are none of this service's.
    """

    def __init__(
        self, store: AdapterStore, domains: Domains, slots: SlotTable, thread: WorkerThread, limits: TensorLimits
    ) -> None:
        self._store = store
        self._domains = domains
        self._slots = slots
        self._thread = thread
        self._limits = limits

    async def fleet(self) -> FleetRelease:
        """The release that stands in the store now.

        Raises:
            adapters_store.errors.StoreError: the store failed.
        """
        pointer = await self._store.pointer()
        if pointer == self._domains.fleet.pointer:
            return self._domains.fleet
        return FleetRelease(pointer, None if pointer.release is None else await self._store.release(pointer.release))

    async def recorded(self, domain: str) -> DomainRecord | None:
        """The domain's record as it stands in the store now.

        Raises:
            adapters_store.errors.StoreError: the store failed, or has none that this build can read.
        """
        return await self._store.domain(domain)

    async def listing(self, after: str = "", limit: int = 100) -> list[Listed]:
        """Domains that have a record, in order of their ids, tombstones included; one fault hides no other.

        Raises:
            adapters_store.errors.StoreError: the store failed.
        """
        keys = await self._store.backend.list_records(_DOMAIN, _DOMAIN + after, limit)
        fleet = await self.fleet()
        found, faults = await self._store.stamped_domains([key.removeprefix(_DOMAIN) for key in keys])
        records = {domain: stamped.record for domain, stamped in found.items()}
        listed = [Listed(domain, record, fleet.live(domain, record)) for domain, record in records.items()]
        listed += [Listed(domain, None, None, fault) for domain, fault in faults.items()]
        return sorted(listed, key=lambda one: one.domain)

    async def records(self, after: str = "", limit: int = 100) -> list[DomainRecord]:
        """Those of `listing` that can be read."""
        return [one.record for one in await self.listing(after, limit) if one.record is not None]

    async def state(self, domain: str) -> DomainState:
        """A domain as recorded and as served here; without the store, as last applied.

        Raises:
            adapters_store.errors.DomainUnknown: neither bundle, release nor store knows it.
            adapters_store.errors.StoreUnavailable: the store failed and nothing was ever applied here.
        """
        check_domain(domain)
        known = self._domains.get(domain)
        fleet, fault = self._domains.fleet, None
        record = None if known is None else known.record
        try:
            fleet = await self.fleet()
            record = await self._store.domain(domain)
        except RecordError as error:
            fault = str(error)
        except StoreError as error:
            if not isinstance(error, StoreUnavailable):
                fault = str(error)
            elif known is None:
                raise
        division = self._domains.division_of(domain) if record is None else record.division
        if division is None and fault is None:
            raise DomainUnknown(f"domain {domain!r} is unknown: nothing was published for it and the bundle lists none")
        rejected = {} if known is None else dict(known.rejected)
        return DomainState(
            domain,
            division,
            record,
            self._resident(domain, known),
            _rejection(known, rejected),
            fleet.live(domain, record),
            fleet.pointer.generation,
            tuple(role for role in TRIALS if self._slots.get(domain, role) is not None),
            rejected,
            fault,
        )

    async def manifest(self, domain: str, revision: str) -> AdapterManifest:
        """The manifest of a stored revision of this domain.

        Raises:
            adapters_store.errors.BlobMissing: no such revision, or another domain's, or no adapter.
            adapters_store.errors.StoreError: the store failed.
        """
        missing = f"domain {domain!r} has no revision {revision}"
        try:
            body = await self._store.get(revision, artifact_bound(self._limits))
        except LimitExceeded as error:
            raise BlobMissing(f"{missing}: {error}") from error
        try:
            adapter = await self._thread.run(partial(decode_adapter, body, self._limits))
        except ArtifactError as error:
            raise BlobMissing(f"{missing}: the blob of that digest is no adapter") from error
        if adapter.manifest.domain != domain:
            raise BlobMissing(f"{missing}: it is of domain {adapter.manifest.domain!r}")
        return adapter.manifest

    def _resident(self, domain: str, known: Known | None) -> Resident | None:
        slot = self._slots.get(domain)
        if slot is None or slot.revision is None or known is None:
            return None
        return Resident(slot.revision, known.generation, dict(slot.fuses), slot.nbytes)


def _rejection(known: Known | None, rejected: Mapping[str, str]) -> Rejection | None:
    if known is None or not rejected:
        return None
    refused = known.live if known.live is not None and known.live in rejected else next(iter(rejected))
    return Rejection(refused, rejected[refused])
