"""The other workers of this replica, as the publisher meets them: told of a changed record, they say when it serves.

`service.channel` speaks to real ones; a process that serves alone has none.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

Refresh = Callable[[str, int], Awaitable[None]]


class Peers(Protocol):
    """Every other worker that takes requests of the same socket."""

    async def start(self, refresh: Refresh) -> None:
        """Join them; call it before the first record is read.

        From the return on, whoever changes a record waits for this worker too. A worker that read first and joined
        later could serve what it read for good.

        Args:
            refresh: brings this worker to a domain's record of at least that generation. It raises when it could not,
                which includes that it was given an older record (from a cache, while the store is away): it is then
                called again until it returns or nobody waits any more.
        """

    async def applied(self, domain: str, generation: int) -> None:
        """Return once every other worker has applied that generation of the domain's record, or a later one.

        A worker that ends meanwhile no longer counts, and one that starts meanwhile reads the store afresh. There is no
        bound of time: the caller has its own, and cancelling the call ends the attempts that are made for it.
        """

    async def stop(self) -> None:
        """Leave them: nobody waits for this worker any more, and what it waits for is given up."""


class NoPeers:
    """The peers of a process that serves alone."""

    async def start(self, refresh: Refresh) -> None:
        """Nobody to join."""

    async def applied(self, domain: str, generation: int) -> None:
        """Nobody to wait for."""

    async def stop(self) -> None:
        """Nobody to leave."""
