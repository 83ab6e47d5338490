"""Notice records that other writers moved: compare generations with what was applied, refresh only what differs.

Lower counts as moved too: a store restored from a backup goes on from there. A record that is gone altogether is no
deletion (that is a tombstone), so what serves keeps serving.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from adapters_store.errors import StoreError
from adapters_store.store import AdapterStore
from service.clock import Clock
from service.domains import Domains
from service.loader import Loader

_JITTER = 0.1


class Watcher:
    """Reconciles this replica with the store every `reconcile_s` seconds, jittered.

    Domains that were never asked for here are left alone: a request pulls them.

    Args:
        store: whose generations are listed.
        domains: what was applied here.
        loader: refreshes what moved.
        clock: when the next look is due.
        reconcile_s: between two looks, seconds.
        random: uniform in [0, 1), spreads the looks of many replicas.
    """

    def __init__(
        self,
        store: AdapterStore,
        domains: Domains,
        loader: Loader,
        clock: Clock,
        *,
        reconcile_s: float,
        random: Callable[[], float],
    ) -> None:
        self._store = store
        self._domains = domains
        self._loader = loader
        self._clock = clock
        self._reconcile_s = reconcile_s
        self._random = random
        self._watching: asyncio.Task[None] | None = None

    async def reconcile(self) -> int:
        """One look at every record; unknown ids are asked for anew from then on.

        Returns:
            How many domains were refreshed.

        Raises:
            adapters_store.errors.StoreError: the store failed; what serves keeps serving.
        """
        generations = await self._store.generations()
        applied = {domain: self._domains.generation(domain) for domain in self._domains}
        moved = [domain for domain, generation in applied.items() if generations.get(domain, generation) != generation]
        self._domains.forget_unknown()
        failure: StoreError | None = None
        for domain in moved:
            try:
                await self._loader.refresh(domain, generations[domain])
            except StoreError as error:
                failure = error  # one domain's trouble keeps no other from its new revision
        if failure is not None:
            raise failure
        return len(moved)

    def start(self) -> None:
        """Look again and again until `stop`."""
        if self._watching is None:
            self._watching = asyncio.get_running_loop().create_task(self._watch())

    async def stop(self) -> None:
        """End the loop, also in the middle of a look."""
        watching, self._watching = self._watching, None
        if watching is not None:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def _watch(self) -> None:
        while True:
            due = asyncio.Event()
            spread = 1.0 + _JITTER * (2.0 * self._random() - 1.0)
            timer = self._clock.call_later(self._reconcile_s * spread, due.set)
            try:
                await due.wait()
            finally:
                timer.cancel()
            try:
                await self.reconcile()
            except StoreError:
                continue  # the next look finds what this one missed
            except Exception as error:  # a fault of ours must not end the watch unseen
                loop = asyncio.get_running_loop()
                loop.call_exception_handler({"message": "reconciling with the store failed", "exception": error})
