"""Notice what other writers changed: follow the store's feed, and compare with all of it now and then.

The feed names records; each is read anew and applied by whoever it concerns, so what is named twice, or is this
replica's own change, costs a read and changes nothing. A comparison finds whatever the feed missed. It goes by the
stored versions, and lower generations count as moved too: a store restored from a backup goes on from there. A record
that is gone altogether is no deletion (that is a tombstone), so what serves keeps serving.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Mapping
from typing import Any

from adapters_store.backend import in_flight
from adapters_store.errors import StoreError
from adapters_store.records import seconds_of
from adapters_store.store import AdapterStore
from service.clock import Clock, slept
from service.domains import Domains
from service.loader import Loader
from service.observer import Observer
from service.pace import Pace

DOMAIN = "domain/"
Follow = Callable[[], Awaitable[None]]

_JITTER = 0.1
_WAIT_S = 5.0  # one question to the feed
_GATHER_S = 0.2  # what comes within it of other changes is told of at once
_TELLING_S = 20.0  # a feed that asks each 10 s has told of a change by then
_TRY_AGAIN_S = 1.0
_BACK_OFF_S = (0.1, 5.0)
_AT_ONCE = 16  # domains that are refreshed at the same time
_CHUNK = 2000  # domains that are compared in one turn of the event loop


class Watcher:
    """Keeps this replica with the store.

    Domains that were never asked for here are left alone: a request pulls them.

    Args:
        store: whose feed and versions are read.
        domains: what was applied here.
        loader: refreshes domains.
        followed: record key -> reads that record anew and applies it, if it moved; may change from turn to turn.
        clock: when the next look is due.
        observer: told of lags, comparisons and failures.
        reconcile_s: between two comparisons, seconds.
        feed: whether the feed is followed between them.
        random: uniform in [0, 1), spreads the looks of many replicas.
        wall: seconds since the epoch, for the lag behind what a record says of its change.
        pace: gives what is refreshed in the background its turns; what changes faster skips what was overtaken.
    """

    def __init__(
        self,
        store: AdapterStore,
        domains: Domains,
        loader: Loader,
        followed: Mapping[str, Follow],
        clock: Clock,
        observer: Observer,
        *,
        reconcile_s: float,
        feed: bool,
        random: Callable[[], float],
        wall: Callable[[], float],
        pace: Pace,
    ) -> None:
        self._store = store
        self._domains = domains
        self._loader = loader
        self._followed = followed
        self._clock = clock
        self._observer = observer
        self._reconcile_s = reconcile_s
        self._feed = feed
        self._random = random
        self._wall = wall
        self._pace = pace
        self._seen: dict[str, str] = {}  # followed record -> its version when it was applied last
        self._dirty: OrderedDict[str, None] = OrderedDict()  # domains to refresh
        self._failed: set[str] = set()  # keys to try again
        self._try_again_at = 0.0
        self._looks: list[asyncio.Task[None]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._refreshing = 0

    async def reconcile(self) -> int:
        """Compare with every record and bring what moved; unknown ids are asked for anew from then on.

        Returns:
            How many records had moved.

        Raises:
            adapters_store.errors.StoreError: the store failed; what serves keeps serving.
        """
        domains, keys = await self._compare()
        untold, unheard = self._untold(domains), sum(key in self._seen for key in keys)
        failures: list[Exception] = []

        async def bring(work: Awaitable[None]) -> None:
            try:
                await work
            except Exception as error:  # one record's trouble, or our own with it, keeps no other from what is new
                failures.append(error)

        for key, version in keys.items():
            await bring(self._apply(key, version))
        await in_flight(domains, lambda domain: bring(self._refreshed(domain)), limit=_AT_ONCE)
        self._observer.reconciled(unheard + sum(self._late(domain, was) for domain, was in untold.items()))
        if failures:
            raise failures[-1]
        return len(domains) + len(keys)

    def _untold(self, domains: Iterable[str]) -> dict[str, str]:
        """Of domains whose record moved those of which nobody here has heard -> the version that stands."""
        known = ((domain, self._domains.get(domain)) for domain in domains)
        return {
            domain: one.version
            for domain, one in known
            if one is not None and one.version is not None
            if domain not in self._dirty and not self._loader.is_loading(domain)
        }

    def _late(self, domain: str, was: str) -> bool:
        """Whether what a comparison brought had been written so long ago that the feed should have told of it."""
        known = self._domains.get(domain)
        if known is None or known.record is None or known.version in (was, None):
            return False
        written = seconds_of(known.record.updated_at)
        return written is None or self._wall() - written > _TELLING_S

    async def _refreshed(self, domain: str) -> None:
        async with self._pace.turn():
            await self._loader.refresh(domain, again=True)

    def notice(self, keys: Collection[str]) -> None:
        """Bring these records in the background, as the feed names them."""
        named = [key.removeprefix(DOMAIN) for key in keys if key.startswith(DOMAIN)]
        self._domains.forget_unknown(named)
        # one that is being pulled may have been read before it changed
        self._mark(name for name in named if self._domains.get(name) is not None or self._loader.is_loading(name))
        for key in self._followed.keys() & keys:
            self._spawn(self._noticed(key))

    async def settled(self) -> None:
        """Return once nothing that was noticed is left to bring."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    def start(self) -> None:
        """Look again and again until `stop`."""
        if not self._looks:
            loop = asyncio.get_running_loop()
            self._looks = [loop.create_task(self._reconcile_again_and_again())]
            if self._feed:
                self._looks.append(loop.create_task(self._follow_feed()))

    async def stop(self) -> None:
        """End every look, also in the middle of one."""
        tasks = [*self._looks, *self._tasks]
        self._looks = []
        self._dirty.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _compare(self) -> tuple[list[str], dict[str, str]]:
        """Domains whose record is another than the one applied, and followed records that moved with their versions."""
        versions = await self._store.versions()
        moved = []
        for number, domain in enumerate(list(self._domains), start=1):
            known, version = self._domains.get(domain), versions.get(DOMAIN + domain)
            if known is not None and version is not None and version != known.version:
                moved.append(domain)
            if number % _CHUNK == 0:
                await asyncio.sleep(0)
        self._domains.forget_unknown()
        moved += [domain for domain in self._loader.loading if self._domains.get(domain) is None]
        keys = {
            key: versions[key] for key in self._followed if key in versions and versions[key] != self._seen.get(key)
        }
        return moved, keys

    async def _apply(self, key: str, version: str) -> None:
        if key in self._followed:  # the tables of a backbone that was let go meanwhile are nobody's
            await self._followed[key]()
            self._seen[key] = version

    async def _noticed(self, key: str) -> None:
        self._seen.pop(key, None)
        follow = self._followed.get(key)
        if follow is None:
            return
        try:
            await follow()
        except StoreError:
            self._observer.store_failed("follow")
            self._failed.add(key)

    def _mark(self, domains: Iterable[str]) -> None:
        self._dirty.update(dict.fromkeys(domains))
        while self._refreshing < min(_AT_ONCE, len(self._dirty)):
            self._refreshing += 1
            self._spawn(self._refresh_dirty())

    async def _refresh_dirty(self) -> None:
        try:
            while self._dirty:
                async with self._pace.turn():
                    if self._dirty:
                        domain, _ = self._dirty.popitem(last=False)
                        await self._refresh(domain)
        finally:
            self._refreshing -= 1

    async def _refresh(self, domain: str) -> None:
        before = self._domains.generation(domain)
        try:
            await self._loader.refresh(domain, again=True)
        except Exception as error:  # a fault of ours was told by the loader
            if isinstance(error, StoreError):
                self._observer.store_failed("refresh")
            self._failed.add(DOMAIN + domain)
            return
        known = self._domains.get(domain)
        if known is not None and known.record is not None and known.generation != before:
            written = seconds_of(known.record.updated_at)
            self._observer.feed(None if written is None else self._wall() - written, False)

    async def _reconcile_again_and_again(self) -> None:
        while True:
            await slept(self._clock, self._reconcile_s * (1.0 + _JITTER * (2.0 * self._random() - 1.0)))
            try:
                await self.reconcile()
            except StoreError:  # the next look finds what this one missed
                self._observer.store_failed("reconcile")
            except Exception as error:  # a fault of ours must not end the watch unseen
                self._tell("reconciling with the store failed", error)

    async def _follow_feed(self) -> None:
        position: str | None = None
        failures = 0
        self._observer.feed_answered()  # its age counts from here
        while True:
            try:
                changes = await self._store.changes(position, _WAIT_S)
                self._observer.feed_answered()
                if changes.resync:
                    self._observer.feed(None, True)
                    domains, keys = await self._compare()
                    self._mark(domains)
                    self.notice(keys)
                self.notice(changes.keys)
                self._try_again()
                position, failures = changes.position, 0
                if changes.keys:
                    await slept(self._clock, _GATHER_S)
            except StoreError:
                self._observer.store_failed("feed")
                failures += 1
            except Exception as error:
                self._tell("following the store's feed failed", error)
                failures += 1
            if failures:
                low, high = _BACK_OFF_S
                await slept(self._clock, min(high, low * 2.0**failures) * (0.5 + 0.5 * self._random()))

    def _try_again(self) -> None:
        """Notice what failed once more, but not with every change that the feed names."""
        if self._failed and self._clock.now() >= self._try_again_at:
            self._try_again_at = self._clock.now() + _TRY_AGAIN_S
            failed, self._failed = self._failed, set()
            self.notice(failed)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._tell("bringing a change failed", error)

    def _tell(self, message: str, error: BaseException) -> None:
        asyncio.get_running_loop().call_exception_handler({"message": message, "exception": error})
