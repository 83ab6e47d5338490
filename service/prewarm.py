"""Load the busiest domains before the first request, and tell other replicas which ones they are here."""

from __future__ import annotations

import asyncio
import heapq

from adapters_store.backend import in_flight
from adapters_store.errors import StoreError
from adapters_store.store import AdapterStore
from service.clock import Clock, settled, slept
from service.loader import Loader
from service.observer import Observer
from service.slots import SlotTable

_AT_ONCE = 8
_CHUNK = 4096  # domains whose requests are counted in one turn of the event loop
_KEPT = 0.5  # of the count of requests, from one list to the next
_LAST_S = 1.0  # that the last list may take: a replica ends whether the store answers or not


class Prewarmer:
    """Reads the list at the start, writes it every few minutes; the last writer wins, and no failure matters.

    Args:
        reader: where the list is read, and the domains.
        store: where the list is written.
        loader: loads the domains.
        slots: count each domain's requests.
        clock: bounds the start.
        observer: told how many were loaded.
        pinned: domains that are loaded first, whatever their traffic.
        limit_s: how long the start may take, seconds.
        every_s: between two lists, seconds.
        domains: length of a list at most.
    """

    def __init__(
        self,
        reader: AdapterStore,
        store: AdapterStore,
        loader: Loader,
        slots: SlotTable,
        clock: Clock,
        observer: Observer,
        *,
        pinned: tuple[str, ...],
        limit_s: float,
        every_s: float,
        domains: int,
    ) -> None:
        self._reader = reader
        self._store = store
        self._loader = loader
        self._slots = slots
        self._clock = clock
        self._observer = observer
        self._pinned = pinned
        self._limit_s = limit_s
        self._every_s = every_s
        self._domains = domains
        self._writing: asyncio.Task[None] | None = None

    async def warm(self) -> None:
        """Load pinned and busy domains until time or memory is used up; what is in flight then goes on."""
        started = self._clock.now()
        loading = asyncio.get_running_loop().create_task(self._load(started + self._limit_s))
        try:
            await settled(loading, self._clock, self._limit_s)
        finally:
            if not loading.done():
                loading.cancel()
                await asyncio.gather(loading, return_exceptions=True)
        self._observer.prewarmed(self._slots.domains, self._clock.now() - started)

    def start(self) -> None:
        """Write the list again and again until `stop`."""
        if self._writing is None and self._domains:
            self._writing = asyncio.get_running_loop().create_task(self._write_again_and_again())

    async def stop(self) -> None:
        """Write a last time, so that whoever takes this replica's place begins with what it scored; no failure matters.

        It may have run for a short while, so what others had listed stays behind its own.
        """
        writing, self._writing = self._writing, None
        if writing is None:
            return
        writing.cancel()
        last = asyncio.get_running_loop().create_task(self._write_last())
        await settled(last, self._clock, _LAST_S)
        last.cancel()
        await asyncio.wait({writing, last}, timeout=_LAST_S)  # a client that connects may swallow a cancellation

    async def write(self) -> None:
        """Record this replica's busiest domains, if it had any request; older requests count less each time.

        Raises:
            adapters_store.errors.StoreError: the store failed.
        """
        busiest = await self._busiest()
        if busiest:
            await self._store.write_prewarm(busiest)

    async def _write_last(self) -> None:
        try:
            busiest = await self._busiest()
            if busiest:
                listed = (await self._store.prewarm_list()).domains
                await self._store.write_prewarm(list(dict.fromkeys([*busiest, *listed]))[: self._domains])
        except StoreError:
            self._observer.store_failed("prewarm")

    async def _load(self, until: float) -> None:
        try:
            busy = (await self._reader.prewarm_list()).domains if self._domains else []
        except StoreError:
            self._observer.store_failed("prewarm")
            busy = []
        wanted = dict.fromkeys([*self._pinned, *busy[: self._domains]])

        async def load(domain: str) -> None:
            if self._clock.now() >= until or self._is_full():
                return
            try:
                await self._loader.refresh(domain)
            except StoreError:
                self._observer.store_failed("prewarm")

        await in_flight(wanted, load, limit=_AT_ONCE)

    def _is_full(self) -> bool:
        """Whether what is in flight could take the rest of the room, each as large as those before."""
        each = self._slots.nbytes / max(1, len(self._slots))
        return self._slots.free_bytes < each * _AT_ONCE

    async def _busiest(self) -> list[str]:
        counts: list[tuple[float, str]] = []
        for number, place in enumerate(list(self._slots), start=1):
            home = self._slots.home(place)
            if isinstance(place, str) and home is not None and home.requests:
                counts.append((home.requests, place))
                home.requests *= _KEPT
            if number % _CHUNK == 0:
                await asyncio.sleep(0)
        top = await asyncio.to_thread(heapq.nlargest, self._domains, counts)
        return [domain for _, domain in top]

    async def _write_again_and_again(self) -> None:
        while True:
            await slept(self._clock, self._every_s)
            try:
                await self.write()
            except StoreError:
                self._observer.store_failed("prewarm")
