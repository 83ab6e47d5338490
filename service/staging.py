"""Prepare a staged release before it is flipped to, and say in the store how far this replica is.

Of domains that are in memory the new revision is prepared beside the old one, as far as the bound on memory lets it;
of all others the bytes are fetched to the disk cache, if there is one. Both count as staged.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from adapters_store.backend import in_flight
from adapters_store.errors import ArtifactError, StoreError, StoreRefused
from adapters_store.records import ReplicaReport
from adapters_store.releases import Release
from adapters_store.store import AdapterStore
from service.clock import Clock, slept
from service.domains import Domains
from service.errors import EngineFailed
from service.loader import LOST
from service.observer import Observer
from service.pace import Pace
from service.preparer import Preparer
from service.slots import SlotTable

_REPORT_S = 5.0  # while a release is staged that does not serve yet
_REPORT_IDLE_S = 30.0
_TRY_AGAIN_S = 5.0
_WITHDRAW_S = 1.0  # a store that is away holds no stop up
_ASKED_AT_ONCE = 512  # revisions that the store is asked for in one call


class Staging:
    """This replica's part in a staged release.

    Args:
        reader: where the release and its revisions are read, through the disk cache if there is one.
        store: where this replica reports.
        domains: tell what is in memory.
        slots: hold what is prepared.
        preparer: prepares, off the scoring path.
        clock: when the next report is due.
        observer: told of progress and refusals.
        replica_id: named in the report.
        pace: gives what is prepared its turns while requests are scored.
        in_flight: revisions that are fetched or prepared at once.
        cached: whether fetching keeps the bytes on this machine.
    """

    def __init__(
        self,
        reader: AdapterStore,
        store: AdapterStore,
        domains: Domains,
        slots: SlotTable,
        preparer: Preparer,
        clock: Clock,
        observer: Observer,
        *,
        replica_id: str,
        pace: Pace,
        in_flight: int,
        cached: bool,
    ) -> None:
        self._reader = reader
        self._store = store
        self._domains = domains
        self._slots = slots
        self._preparer = preparer
        self._clock = clock
        self._observer = observer
        self._replica_id = replica_id
        self._pace = pace
        self._in_flight = in_flight
        self._cached = cached
        self._release: str | None = None
        self._by = ""  # who staged it
        self._of = 0
        self._staged = 0
        self._room = True
        self._refused = 0
        self._store_refused: str | None = None  # why no report is taken; told once
        self._again = False
        self._lock = asyncio.Lock()
        self._moved = asyncio.Event()
        self._preparing: asyncio.Task[None] | None = None
        self._reporting: asyncio.Task[None] | None = None

    async def follow(self) -> None:
        """Read what is staged; begin with it if it is new, and let go of what was staged before.

        Raises:
            adapters_store.errors.StoreError: the record could not be read.
        """
        async with self._lock:  # of two that are told of one moment the later look decides
            staged = await self._reader.staged()
            revision, again = staged.release, self._again
            self._again = False
            if revision == self._release and not again:
                return
            await self._stop_preparing()
            if revision != self._release:
                moved = {"from": self._release, "to": revision}
                self._observer.followed("stage_release", by=staged.by, generation=staged.generation, **moved)
                await self._let_go()
            self._release, self._of, self._staged, self._room, self._refused = revision, 0, 0, True, 0
            self._by = staged.by
            self._told()
            if revision is not None:
                self._preparing = asyncio.get_running_loop().create_task(self._prepare(revision))

    def reconsider(self) -> None:
        """Let `follow` begin anew with the same release if anything of it was refused so far."""
        self._again = self._refused > 0

    @property
    def release(self) -> str | None:
        """What is staged."""
        return self._release

    def start(self) -> None:
        """Report again and again until `stop`."""
        if self._reporting is None:
            self._reporting = asyncio.get_running_loop().create_task(self._report_again_and_again())

    async def settled(self) -> None:
        """Return once the staged release is prepared as far as it can be."""
        if self._preparing is not None:
            await asyncio.wait({self._preparing})

    async def stop(self) -> None:
        """Stop preparing and reporting, and take the last report back: no flip shall wait for who is gone."""
        await self._stop_preparing()
        reporting, self._reporting = self._reporting, None
        if reporting is not None:
            reporting.cancel()
            await asyncio.gather(reporting, return_exceptions=True)
            try:
                async with asyncio.timeout(_WITHDRAW_S):
                    await self._store.withdraw_replica(self._replica_id)
            except (StoreError, TimeoutError):  # the report is ignored once it is old
                self._observer.store_failed("report")

    async def report(self) -> None:
        """Say in the store how far this replica is.

        Raises:
            adapters_store.errors.StoreError: the store failed.
        """
        await self._store.report_replica(
            ReplicaReport(replica=self._replica_id, release=self._release, staged=self._staged, of=self._of)
        )

    async def _prepare(self, revision: str) -> None:
        """Go through the release until nothing is left that another try could bring."""
        release: Release | None = None
        left: list[str] | None = None
        while left is None or left:
            try:
                if release is None:
                    release = await self._reader.release(revision)
                    self._of = len(release)
                left = await self._round(release, list(release.domains()) if left is None else left)
            except ArtifactError:
                self._observer.store_failed("stage")
                return  # no release at all: the report shows that nothing of it is staged
            except StoreError:
                self._observer.store_failed("stage")
            self._told()
            if left is None or left:
                await slept(self._clock, _TRY_AGAIN_S)

    async def _round(self, release: Release, domains: list[str]) -> list[str]:
        """One try for each domain; those that the store could not give are returned."""
        failed: list[str] = []

        async def one(domain: str) -> None:
            revision = release.revision_of(domain)
            if revision is not None and not await self._stage(domain, revision):
                failed.append(domain)

        resident = [domain for domain in domains if self._slots.get(domain) is not None]
        await in_flight(resident, one, limit=self._in_flight)
        done = set(resident)
        others = [domain for domain in domains if domain not in done]
        if self._cached:
            await in_flight(others, one, limit=self._in_flight)
        else:
            failed += await self._absent(release, others)
        return failed

    async def _stage(self, domain: str, revision: str) -> bool:
        """Prepare or fetch one revision; False if the store could not give it."""
        try:
            if self._slots.find(domain, revision) is None:
                if self._room and self._slots.get(domain) is not None:
                    async with self._pace.turn():
                        slot = await self._preparer.slot_of_revision(domain, revision)
                    self._room = self._slots.stage(domain, slot)
                elif self._cached:
                    await self._preparer.fetch(revision)
                elif not await self._reader.has(revision):
                    return False
            self._staged += 1
        except LOST:
            return False
        except (ArtifactError, EngineFailed) as error:
            self._refused += 1
            self._observer.rejected(domain, revision, f"staged: {error}", by=self._by, kind=type(error).__name__)
        except StoreError:
            self._observer.store_failed("stage")
            return False
        return True

    async def _absent(self, release: Release, domains: list[str]) -> list[str]:
        """Without a disk cache nothing is fetched: it is enough that the store has it. Those that it has not."""
        absent: list[str] = []
        for start in range(0, len(domains), _ASKED_AT_ONCE):
            asked = {domain: release.revision_of(domain) or "" for domain in domains[start : start + _ASKED_AT_ONCE]}
            try:
                found = await self._reader.has_many(list(asked.values()))
            except StoreError:
                self._observer.store_failed("stage")
                return absent + domains[start:]
            self._staged += sum(revision in found for revision in asked.values())
            absent += [domain for domain, revision in asked.items() if revision not in found]
        return absent

    async def _let_go(self) -> None:
        await _in_turns(self._slots, self._slots.staged())

    async def _stop_preparing(self) -> None:
        preparing, self._preparing = self._preparing, None
        if preparing is not None:
            preparing.cancel()
            await asyncio.gather(preparing, return_exceptions=True)

    def _told(self) -> None:
        self._observer.staged(self._release, self._staged, self._of)
        self._moved.set()

    async def _report_again_and_again(self) -> None:
        """On every change, and every few seconds while a release is staged that does not serve yet."""
        while True:
            self._moved.clear()
            await self._try_to_report()
            waits = self._release is not None and self._release != self._domains.fleet.pointer.release
            timer = self._clock.call_later(_REPORT_S if waits else _REPORT_IDLE_S, self._moved.set)
            try:
                await self._moved.wait()
            finally:
                timer.cancel()
            if waits:
                self._observer.staged(self._release, self._staged, self._of)

    async def _try_to_report(self) -> None:
        refused = None
        try:
            await self.report()
        except StoreError as error:
            self._observer.store_failed("report")
            refused = str(error) if isinstance(error, StoreRefused) else self._store_refused
        if refused is not None and refused != self._store_refused:
            self._observer.store_refused(refused)
        self._store_refused = refused


async def _in_turns(slots: SlotTable, places: Iterable[str]) -> None:
    """Drop staged slots, with the event loop's other work in between."""
    for number, place in enumerate(list(places), start=1):
        slots.drop(place, "staged")
        if number % _ASKED_AT_ONCE == 0:
            await asyncio.sleep(0)
