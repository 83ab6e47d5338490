"""Follow the fleet's release: a new pointer is applied to every resident domain, one reference flip each.

The flips run in chunks with the event loop's other work in between. A domain whose new revision is not prepared keeps
its old one until the loader has brought the new.
"""

from __future__ import annotations

import asyncio
from functools import partial
from itertools import chain

from adapters_store.backend import in_flight
from adapters_store.errors import StoreError
from adapters_store.records import ReleasePointer
from adapters_store.store import AdapterStore
from service.clock import Clock, slept
from service.confirming import confirmed
from service.domains import Domains
from service.fleet import FleetRelease
from service.loader import Loader
from service.logs import Action
from service.observer import Observer
from service.slots import SlotTable

_TRY_AGAIN_S = 5.0
CHUNK = 256  # domains that are flipped in one turn of the event loop: about two milliseconds


class ReleaseFollower:
    """Brings this replica to the release pointer.

    Args:
        store: where the pointer and what it names are read.
        truth: the same without the disk cache.
        domains: flipped one by one.
        slots: tell which domains were asked for last, and go first.
        loader: brings what was not prepared.
        clock: when to try again what the store could not give.
        observer: told when it cannot.
        in_flight: domains that are loaded at once after a flip.
    """

    def __init__(
        self,
        store: AdapterStore,
        truth: AdapterStore,
        domains: Domains,
        slots: SlotTable,
        loader: Loader,
        clock: Clock,
        observer: Observer,
        *,
        in_flight: int,
    ) -> None:
        self._store = store
        self._truth = truth
        self._domains = domains
        self._slots = slots
        self._loader = loader
        self._clock = clock
        self._observer = observer
        self._in_flight = in_flight
        self._lock = asyncio.Lock()
        self._loading: asyncio.Task[None] | None = None

    async def follow(self) -> None:
        """Read the pointer and apply it, if it moved.

        Raises:
            adapters_store.errors.StoreError: it, or its manifest, could not be read; the release before stands.
        """
        async with self._lock:
            held = self._domains.fleet.pointer.generation
            pointer = await confirmed(held, self._store.pointer, self._truth.pointer)
            if pointer != self._domains.fleet.pointer:
                release = None if pointer.release is None else await self._store.release(pointer.release)
                self._tell(self._domains.fleet.pointer.release, pointer)
                await self._apply(FleetRelease(pointer, release))

    async def stop(self) -> None:
        """Stop loading what was not prepared."""
        loading, self._loading = self._loading, None
        if loading is not None:
            loading.cancel()
            await asyncio.gather(loading, return_exceptions=True)

    def _tell(self, before: str | None, pointer: ReleasePointer) -> None:
        if pointer.release != before:
            # rolling back brings back an earlier one with the `since` that it had
            action: Action = "flip_release" if pointer.since == pointer.generation else "rollback_release"
            moved = {"from": before, "to": pointer.release}
            self._observer.followed(action, by=pointer.by, generation=pointer.generation, **moved)

    async def _apply(self, fleet: FleetRelease) -> None:
        self._domains.follow(fleet)
        unprepared = []
        # those in memory go first, the one asked for last before all
        others = [domain for domain in self._domains if self._slots.home(domain) is None]
        for number, domain in enumerate(chain(self._slots.latest_first(), others), start=1):
            if isinstance(domain, str) and self._domains.repoint(domain):
                unprepared.append(domain)
            if number % CHUNK == 0:
                await asyncio.sleep(0)
        await self.stop()
        if unprepared:
            self._loading = asyncio.get_running_loop().create_task(self._load(unprepared))

    async def _load(self, domains: list[str]) -> None:
        """Bring what was not prepared; what the store could not give is asked for again until another flip."""
        left = domains
        while left:
            failed: list[str] = []
            await in_flight(left, partial(self._load_one, failed=failed), limit=self._in_flight)
            left = failed
            if left:
                await slept(self._clock, _TRY_AGAIN_S)

    async def _load_one(self, domain: str, failed: list[str]) -> None:
        if self._domains.get(domain) is None:
            return  # evicted meanwhile: its next request pulls it
        try:
            await self._loader.refresh(domain, again=True)  # a flight in the air may be from before the flip
        except StoreError:
            self._observer.store_failed("release")
            failed.append(domain)
        except Exception:  # a fault of ours, which the loader has told, keeps no other domain from its revision
            return
