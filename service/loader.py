"""Bring a domain to what its record says: load new, verify, flip one reference, retire old when its leases end.

Refreshing is single flight for each domain: cold requests, the watcher and the publisher share one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress

from adapters_store.errors import ArtifactError, BlobMissing, DigestMismatch, MalformedRecord, MissingPin, StoreError
from adapters_store.records import DomainRecord
from adapters_store.store import AdapterStore
from service.clock import Clock
from service.domains import Domains, Known
from service.errors import EngineFailed
from service.observer import Observer
from service.preparer import Preparer
from service.slots import Slot, SlotTable

# what a stored revision suffers when the store lost or damaged it or a pin of it; publishing the blob again heals it
LOST = (BlobMissing, DigestMismatch, MissingPin)
_RETRY_S = 1.0  # cold requests do not ask a store that failed again for so long


class Loader:
    """Loads domains by their records.

    Args:
        store: where records are read.
        preparer: turns a revision into a slot, off the scoring path.
        domains: where the outcome is applied.
        slots: what serves now.
        clock: when the store may be asked again after it failed.
        observer: told of outcomes.
        in_flight: domains that may be pulled at once.
    """

    def __init__(
        self,
        store: AdapterStore,
        preparer: Preparer,
        domains: Domains,
        slots: SlotTable[str],
        clock: Clock,
        observer: Observer,
        *,
        in_flight: int,
    ) -> None:
        self._store = store
        self._preparer = preparer
        self._domains = domains
        self._slots = slots
        self._clock = clock
        self._observer = observer
        self._in_flight = in_flight
        self._flights: dict[str, asyncio.Task[None]] = {}
        self._ask_again_at = 0.0

    @property
    def store_failed(self) -> bool:
        """Whether the store failed so lately that a cold request need not wait for it."""
        return self._clock.now() < self._ask_again_at

    def pull(self, domain: str) -> asyncio.Task[None] | None:
        """Join or start the refresh of a domain; None when too many are in flight already."""
        flight = self._flights.get(domain)
        if flight is None and len(self._flights) < self._in_flight:
            flight = self._start(domain)
        return flight

    async def refresh(self, domain: str, generation: int = 0) -> None:
        """Read the domain's record, load what it names and apply it.

        Args:
            domain: any id.
            generation: what the caller knows the record to have; a flight in the air that leads elsewhere may have read
                the record before, and is followed by one of our own.

        Raises:
            adapters_store.errors.StoreError: the store failed; what serves keeps serving.
        """
        joined = self._flights.get(domain)
        if joined is not None:
            with suppress(StoreError):  # what an earlier look met says nothing about now
                await asyncio.shield(joined)
                if generation in (0, self._domains.generation(domain)):
                    return
        await asyncio.shield(self._flights.get(domain) or self._start(domain))

    async def stop(self) -> None:
        """Cancel what is in flight."""
        for flight in self._flights.values():
            flight.cancel()
        await asyncio.gather(*self._flights.values(), return_exceptions=True)

    def _start(self, domain: str) -> asyncio.Task[None]:
        flight = asyncio.get_running_loop().create_task(self._refresh(domain))
        self._flights[domain] = flight

        def landed(done: asyncio.Task[None]) -> None:
            del self._flights[domain]
            error = None if done.cancelled() else done.exception()
            if error is not None and not isinstance(error, StoreError):  # perhaps nobody awaits it
                done.get_loop().call_exception_handler({"message": f"loading {domain!r} failed", "exception": error})

        flight.add_done_callback(landed)
        return flight

    async def _refresh(self, domain: str) -> None:
        record: DomainRecord | None = None
        since = self._domains.get(domain)
        try:
            record = await self._store.domain(domain)
            if record is None:
                self._domains.absent(domain)
            elif self._domains.is_auxiliary(record.division) or record.live is None:
                self._domains.apply(record, None, since=since)
            else:
                await self._load(record, since)
        except StoreError as error:
            if isinstance(error, MalformedRecord):
                self._domains.unreadable(domain, self._clock.now() + _RETRY_S)
            elif not isinstance(error, LOST):
                self._ask_again_at = self._clock.now() + _RETRY_S
            self._observer.adapter_loaded("store_unavailable")
            raise
        except Exception:
            if record is not None:  # a fault of ours: asked for again, but not by every request
                self._domains.unreadable(domain, self._clock.now() + _RETRY_S)
            raise

    async def _load(self, record: DomainRecord, since: Known | None) -> None:
        """Flip to the first revision of the ladder that this replica accepts."""
        known = self._domains.get(record.domain)
        same = known is not None and known.generation == record.generation
        rejected = dict(known.rejected) if known is not None and same else {}
        slot: Slot | None = None
        missing: StoreError | None = None
        for revision in self._candidates(record):
            if revision in rejected:
                continue
            serving = self._slots.get(record.domain)
            if serving is not None and serving.revision == revision:
                slot = serving
                break
            try:
                slot = await self._slot(record.domain, revision)
                break
            except LOST as error:  # the store's fault, not the artifact's
                missing = error
            except (ArtifactError, EngineFailed) as error:
                rejected[revision] = str(error)
                self._observer.adapter_loaded("rejected")
                self._observer.rejected(record.domain, revision, str(error))
        retry_at = None if missing is None else self._clock.now() + _RETRY_S
        self._domains.apply(record, slot, rejected, retry_at=retry_at, since=since)
        if missing is not None:
            raise missing

    async def _slot(self, domain: str, revision: str) -> Slot:
        return await self._preparer.slot(await self._preparer.verified_revision(domain, revision))

    def _candidates(self, record: DomainRecord) -> Iterator[str]:
        """The ladder over revisions: live, the one that serves already, then earlier ones; none rolled back from."""
        if record.live is not None:
            yield record.live.revision
        rolled_back = {entry.revision for entry in record.previous if entry.rolled_back}
        serving = self._slots.get(record.domain)
        if serving is not None and serving.revision is not None and serving.revision not in rolled_back:
            yield serving.revision
        for entry in record.previous:
            if not entry.rolled_back:
                yield entry.revision
