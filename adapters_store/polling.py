"""A change feed for stores that have none: listings compared with the last one."""

import asyncio
import random
import secrets
from collections.abc import Awaitable, Callable, Mapping

from adapters_store.backend import Changes

JITTER = 0.1


class PollingFeed:
    """Answers `Backend.changes` from repeated listings of versions.

    The numbering of changes is this object's own: a position of another client, or of an earlier start, re-syncs.

    Args:
        versions: Lists all records with their versions.
        poll_s: Shortest time between two listings, seconds; jittered by a tenth, so that replicas do not list at once.
    """

    def __init__(self, versions: Callable[[], Awaitable[Mapping[str, str]]], poll_s: float) -> None:
        self._versions = versions
        self._poll_s = poll_s
        self._incarnation = secrets.token_hex(8)
        self._looking = asyncio.Lock()
        self._held: Mapping[str, str] | None = None
        self._changes = 0
        self._changed: dict[str, int] = {}  # key to the number of its last change, in the order of these numbers
        self._next_look = 0.0

    async def changes(self, position: str | None, wait_s: float) -> Changes:
        """See Backend.changes."""
        loop = asyncio.get_running_loop()
        until = loop.time() + wait_s
        incarnation, _, count = (position or "").partition(":")
        known = int(count) if count.isdigit() else -1
        if self._held is None or incarnation != self._incarnation or not 0 <= known <= self._changes:
            await self._look(fresh=self._held is None)
            return Changes(frozenset(), self._position(), resync=True)
        while self._changes == known:
            pause = self._next_look - loop.time()
            if pause > 0 and loop.time() + pause > until:
                await asyncio.sleep(max(0.0, until - loop.time()))
                break
            await asyncio.sleep(max(0.0, pause))
            await self._look(fresh=False)
            if loop.time() >= until:
                break
        return Changes(self._behind(known), self._position())

    async def _look(self, fresh: bool) -> None:
        """List once; of many who wait for the same listing one makes it."""
        loop = asyncio.get_running_loop()
        async with self._looking:
            if not fresh and self._held is not None and loop.time() < self._next_look:
                return
            found = await self._versions()
            # counted from the end: a listing that takes longer than the pace must not follow itself at once
            self._next_look = loop.time() + self._poll_s * random.uniform(1 - JITTER, 1 + JITTER)
            held, self._held = self._held, found
            if held is None:
                return
            for key in held.keys() | found.keys():
                if held.get(key) != found.get(key):
                    self._changes += 1
                    self._changed.pop(key, None)
                    self._changed[key] = self._changes

    def _position(self) -> str:
        return f"{self._incarnation}:{self._changes}"

    def _behind(self, known: int) -> frozenset[str]:
        keys = set()
        for key, number in reversed(self._changed.items()):
            if number <= known:
                break
            keys.add(key)
        return frozenset(keys)
