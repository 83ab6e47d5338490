"""Bring a domain to what its record or the release says: load new, verify, flip one reference, retire old.

Refreshing is single flight for each domain: cold requests, the watcher and the publisher share one.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from adapters_store.errors import (
    ArtifactError,
    BlobMissing,
    DigestMismatch,
    MalformedRecord,
    MissingPin,
    NewerSchema,
    StoreError,
    StoreUnavailable,
)
from adapters_store.records import DomainRecord
from adapters_store.store import AdapterStore
from service.clock import Clock
from service.domains import TRIALS, Domains, Known
from service.errors import EngineFailed
from service.observer import Observer
from service.preparer import Preparer
from service.slots import Slot, SlotTable

# what a stored revision suffers when the store lost or damaged it or a pin of it; publishing the blob again heals it
LOST = (BlobMissing, DigestMismatch, MissingPin)
UNREADABLE = (MalformedRecord, NewerSchema)
_ANY = ""  # where one failure of the store stands for all domains
_REMEMBERED = 10_000  # domains that the store failed to give
_RETRY_S = 1.0  # cold requests do not ask a store that failed again for so long


@dataclass(frozen=True, slots=True, eq=False)
class _Flight:
    """One refresh in the air.

    Args:
        task: all of it, canary and shadow included.
        ready: done once live is applied, which is all that a request waits for; False when the store failed.
        landed: done once all of it is; True.
    """

    task: asyncio.Task[None]
    ready: asyncio.Future[bool]
    landed: asyncio.Future[bool]


@dataclass(frozen=True, slots=True, eq=False)
class _Look:
    """What a look into the store found for a domain.

    Args:
        record: None when there is none.
        version: of the record.
        since: what was known here before the look.
        in_vain: the record was out of reach, so the release alone decides for a moment.
        read_at: when it ended, `Clock.now()` seconds.
    """

    domain: str
    record: DomainRecord | None
    version: str | None
    since: Known | None
    in_vain: bool = False
    read_at: float = 0.0


class Loader:
    """Loads domains by their records and by the release that stands.

    Args:
        store: where records are read, through the disk cache if there is one.
        truth: the same without the disk cache.
        preparer: turns a revision into a slot, off the scoring path.
        domains: where the outcome is applied.
        slots: what is in memory now.
        clock: when the store may be asked again after it failed.
        observer: told of outcomes.
        in_flight: domains that may be pulled at once.
    """

    def __init__(
        self,
        store: AdapterStore,
        truth: AdapterStore,
        preparer: Preparer,
        domains: Domains,
        slots: SlotTable,
        clock: Clock,
        observer: Observer,
        *,
        in_flight: int,
    ) -> None:
        self._store = store
        self._truth = truth
        self._preparer = preparer
        self._domains = domains
        self._slots = slots
        self._clock = clock
        self._observer = observer
        self._in_flight = in_flight
        self._flights: dict[str, _Flight] = {}
        self._ask_again_at: OrderedDict[str, float] = OrderedDict()

    def store_failed(self, domain: str) -> bool:
        """Whether the store failed so lately that a cold request need not wait for it.

        With a disk cache this says nothing of another domain, which may be on this disk.
        """
        whose = domain if self._store is not self._truth else _ANY
        return self._clock.now() < self._ask_again_at.get(whose, 0.0)

    def is_loading(self, domain: str) -> bool:
        """Whether a refresh of the domain is in the air."""
        return domain in self._flights

    @property
    def loading(self) -> list[str]:
        """Domains whose refresh is in the air."""
        return list(self._flights)

    def pull(self, domain: str) -> asyncio.Future[bool] | None:
        """Join or start the refresh of a domain; None when too many are in flight already.

        Returns:
            Done once live is applied; False when the store failed. Where a flight has done that already and only
            prepares canary and shadow, done once it has landed: whoever still lacks something pulls once more then. It
            is shared: never cancel it.
        """
        flight = self._flights.get(domain)
        if flight is None and len(self._flights) < self._in_flight:
            flight = self._start(domain)
        if flight is None:
            return None
        return flight.landed if flight.ready.done() else flight.ready

    async def refresh(self, domain: str, generation: int = 0, *, again: bool = False) -> None:
        """Read the domain's record, load what it names and apply it.

        Args:
            domain: any id.
            generation: what the caller knows the record to have; a flight in the air that leads elsewhere may have read
                the record before, and is followed by one of our own.
            again: the caller knows that something changed: no flight that is in the air already is enough.

        Raises:
            adapters_store.errors.StoreError: the store failed; what serves keeps serving.
        """
        joined = self._flights.get(domain)
        if joined is not None:
            with suppress(StoreError):  # what an earlier look met says nothing about now
                await asyncio.shield(joined.task)
                if not again and generation in (0, self._domains.generation(domain)):
                    return
        flight = self._flights.get(domain) or self._start(domain)
        await asyncio.shield(flight.task)

    async def reach(self, domain: str, generation: int) -> None:
        """Bring the domain to a record of at least this generation, with the revision that it makes live.

        Raises:
            adapters_store.errors.StoreError: the store failed, gave an older record, or not what the record names.
        """
        known = self._domains.get(domain)
        if known is not None and known.generation >= generation and known.retry_at is None:
            return
        await self.refresh(domain, generation)
        known = self._domains.get(domain)
        behind = self._domains.is_unknown(domain) if known is None else known.generation < generation
        if behind:  # one that is not known at all was evicted again
            raise StoreUnavailable(f"the store gave no record of generation {generation} of domain {domain!r} yet")

    async def stop(self) -> None:
        """Cancel what is in flight."""
        tasks = [flight.task for flight in self._flights.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, domain: str) -> _Flight:
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[bool] = loop.create_future()
        flight = _Flight(loop.create_task(self._refresh(domain, ready)), ready, loop.create_future())
        self._flights[domain] = flight

        def landed(done: asyncio.Task[None]) -> None:
            del self._flights[domain]
            flight.landed.set_result(True)
            error = None if done.cancelled() else done.exception()
            if not ready.done():
                ready.set_result(not done.cancelled() and not isinstance(error, StoreError))
            if error is not None and not isinstance(error, StoreError):  # perhaps nobody awaits it
                loop.call_exception_handler({"message": f"loading {domain!r} failed", "exception": error})

        flight.task.add_done_callback(landed)
        return flight

    async def _refresh(self, domain: str, ready: asyncio.Future[bool]) -> None:
        found = False
        try:
            look = await self._look(domain)
            found = look.record is not None
            await self._bring(look)
            if not ready.done():
                ready.set_result(True)
            await self._bring_trials(domain)
        except StoreError as error:
            if isinstance(error, UNREADABLE):
                self._domains.unreadable(domain, self._clock.now() + _RETRY_S)
            elif not isinstance(error, LOST):
                self._remember_failure(domain)
            self._observer.adapter_loaded("store_unavailable")
            raise
        except Exception:
            if found:  # a fault of ours: asked for again, but not by every request
                self._domains.unreadable(domain, self._clock.now() + _RETRY_S)
            raise

    async def _look(self, domain: str) -> _Look:
        """What the store says of a domain.

        A record that is older than the one applied here must be the truth's own word. A backup that was put back is
        followed; the disk cache's copy, read while the truth is away, may be from before what was published here.

        Where neither has the record in reach, a domain that is not known here is served by the release if it lists it:
        the disk keeps no word of absent records, but has one of every domain that ever served here by its own.
        """
        since = self._domains.get(domain)
        try:
            stamped = await self._store.stamped_domain(domain)
            if stamped is not None and stamped.record.generation < self._domains.generation(domain):
                stamped = await self._truth.stamped_domain(domain)
        except StoreUnavailable:
            cached = self._store is not self._truth
            if not cached or since is not None or self._domains.fleet.live(domain, None) is None:
                raise
            return _Look(domain, None, None, None, in_vain=True, read_at=self._clock.now())
        if stamped is None:
            return _Look(domain, None, None, since, read_at=self._clock.now())
        return _Look(domain, stamped.record, stamped.version, since, read_at=self._clock.now())

    def _remember_failure(self, domain: str) -> None:
        for whose in (domain, _ANY):
            self._ask_again_at[whose] = self._clock.now() + _RETRY_S
            self._ask_again_at.move_to_end(whose)
        while len(self._ask_again_at) > _REMEMBERED:
            self._ask_again_at.popitem(last=False)

    async def _bring(self, look: _Look) -> None:
        """Apply what a look found; once more where another release, or another backbone, came to stand meanwhile."""
        while True:
            fleet, era, domain = self._domains.fleet, self._domains.era, look.domain
            live = fleet.live(domain, look.record)
            if look.record is None and live is None:
                self._domains.absent(domain)
                return
            division = self._domains.division_of(domain) if look.record is None else look.record.division
            if self._domains.is_auxiliary(division) or live is None:
                self._domains.apply(domain, look.record, None, version=look.version, since=look.since)
                return
            await self._load(look, live)
            unmoved = fleet is self._domains.fleet or self._domains.fleet.live(domain, look.record) == live
            if unmoved and era == self._domains.era:
                return

    async def _load(self, look: _Look, live: str) -> None:
        """Flip to the first revision of the ladder that this replica accepts."""
        known = self._domains.get(look.domain)
        generation = -1 if look.record is None else look.record.generation
        era = self._domains.era
        same = known is not None and known.generation == generation and known.era == era
        rejected = dict(known.rejected) if known is not None and same else {}
        slot: Slot | None = None
        missing: StoreError | None = None
        tried: set[str] = set()
        for revision in self._candidates(look, live):
            if revision in rejected or revision in tried:
                continue
            tried.add(revision)
            slot = self._slots.find(look.domain, revision)
            if slot is not None:
                break
            try:
                slot = await self._slot(look.domain, revision)
                break
            except LOST as error:  # the store's fault, not the artifact's
                missing = error
            except (ArtifactError, EngineFailed) as error:
                rejected[revision] = str(error)
                self._observer.adapter_loaded("rejected")
                by = self._domains.fleet.pointer.by if look.record is None else look.record.by
                self._observer.rejected(look.domain, revision, str(error), by=by, kind=type(error).__name__)
        retry_at = self._clock.now() + _RETRY_S if missing is not None or look.in_vain else None
        version = look.version if missing is None else None
        serving = self._slots.get(look.domain)
        applied = self._domains.apply(
            look.domain, look.record, slot, rejected, retry_at=retry_at, version=version, since=look.since, era=era
        )
        if applied and slot is not None and serving is not None and slot.revision != serving.revision:
            self._observer.swapped(self._clock.now() - look.read_at)
        if missing is not None:
            raise missing

    async def _bring_trials(self, domain: str) -> None:
        """Prepare canary and shadow beside live; until then, and when they are refused, live serves alone."""
        for role in TRIALS:
            revision = self._domains.wants(domain, role)
            if revision is None:
                continue
            known = self._domains.get(domain)
            try:
                self._domains.attach(domain, role, await self._slot(domain, revision))
            except (*LOST, StoreUnavailable):
                if known is not None:
                    known.version = None  # the next comparison with the store tries again
                raise
            except (ArtifactError, EngineFailed) as error:
                self._observer.adapter_loaded("rejected")
                self._domains.reject(domain, revision, str(error), type(error).__name__)

    async def _slot(self, domain: str, revision: str) -> Slot:
        return await self._preparer.slot_of_revision(domain, revision)

    def _candidates(self, look: _Look, live: str) -> Iterator[str]:
        """The ladder over revisions: live, the one that serves already, then earlier ones; none rolled back from."""
        yield live
        previous = [] if look.record is None else look.record.previous
        rolled_back = {entry.revision for entry in previous if entry.rolled_back}
        serving = self._slots.get(look.domain)
        if serving is not None and serving.revision is not None and serving.revision not in rolled_back:
            yield serving.revision
        if look.record is not None and look.record.live is not None:
            yield look.record.live.revision  # where the release outranks it
        for entry in previous:
            if not entry.rolled_back:
                yield entry.revision
