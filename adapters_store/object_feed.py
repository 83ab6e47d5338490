"""What changed in a store that tells nobody: it is listed now and then, and compared with the last listing."""

import asyncio
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping

from adapters_store.backend import Changes


class ListingFeed:
    """Positions and changes out of listings with versions.

    A position is the count of looks that found something, under a name that this object drew at random: another
    process, or this one after a restart, starts with a re-sync.

    Args:
        listing: Gives key to version of everything; exact at the time of the call or later.
        poll_s: Seconds between two looks, give or take a fifth, so that replicas do not look in step.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        listing: Callable[[], Awaitable[Mapping[str, str]]],
        poll_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._listing = listing
        self._poll_s = poll_s
        self._clock = clock
        self._incarnation = secrets.token_hex(8)
        self._count = 0
        self._seen: Mapping[str, str] | None = None
        self._changed: dict[str, int] = {}  # key -> the last look that found it changed
        self._due = 0.0
        self._look: asyncio.Task[None] | None = None

    async def changes(self, position: str | None, wait_s: float) -> Changes:
        """See Backend.changes; every call looks at least once, and else as often as `poll_s` says.

        Raises:
            StoreUnavailable: The store cannot be listed.
        """
        behind = self._behind(position)
        if behind is None:
            await self._looked()
            return Changes(frozenset(), self._position(), resync=True)
        end = self._clock() + wait_s
        looks = 0
        while True:
            if self._count > behind:
                keys = frozenset(key for key, count in self._changed.items() if count > behind)
                return Changes(keys, self._position())
            now = self._clock()
            if looks and now >= end:
                return Changes(frozenset(), self._position())
            await asyncio.sleep(max(min(self._due, end) - now, 0))
            if self._count == behind:  # nobody else's look has found anything meanwhile
                await self._looked()
            looks += 1

    async def close(self) -> None:
        """Stop looking."""
        if self._look is not None:
            self._look.cancel()

    def _position(self) -> str:
        return f"{self._incarnation}:{self._count}"

    def _behind(self, position: str | None) -> int | None:
        incarnation, _, count = (position or "").partition(":")
        if incarnation != self._incarnation or not count.isdecimal() or self._seen is None:
            return None
        return int(count) if int(count) <= self._count else None

    async def _looked(self) -> None:
        # One look serves all who wait, and goes on when one of them gives up: a feed that is asked for short times only
        # would otherwise never finish a long listing.
        if self._look is None or self._look.done():
            self._look = asyncio.create_task(self._take())
            self._look.add_done_callback(lambda look: look.cancelled() or look.exception())
        await asyncio.shield(self._look)

    async def _take(self) -> None:
        self._due = self._clock() + self._poll_s * random.uniform(0.8, 1.2)
        found, seen = await self._listing(), self._seen
        if seen is not None:
            changed = {key for key, version in found.items() if seen.get(key) != version} | (seen.keys() - found.keys())
            if changed:
                self._count += 1
                self._changed.update(dict.fromkeys(changed, self._count))
        self._seen = found
