"""Tell the disk cache what serves from memory: its evictor takes what was read longest ago, and this is read no more.

Bundles, tables, releases and resident adapters are read once, at their load. Without a word of their use they would be
the first to make room for what is published later, and a restart without the store would not find them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from adapters_store.disk import DiskCache
from service.backbones import Backbones
from service.clock import Clock, slept
from service.domains import Domains
from service.serving import Serving
from service.slots import SlotTable
from service.staging import Staging

EVERY_S = 600.0
_CHUNK = 64  # domains of whose files the use is noted in one go
_REST_S = 0.1  # between two chunks: 69,102 domains are spread over two minutes


class InUse:
    """Notes again and again in the disk cache which of its blobs serve.

    Args:
        disk: the disk cache.
        backbones: those in memory, with their tables.
        domains: know the release that serves.
        slots: what is in memory of adapters.
        staging: knows the release that may serve next.
        clock: whose seconds count.
        every_s: from the end of one round to the next, seconds.
    """

    def __init__(
        self,
        disk: DiskCache,
        backbones: Backbones,
        domains: Domains,
        slots: SlotTable,
        staging: Staging,
        clock: Clock,
        *,
        every_s: float = EVERY_S,
    ) -> None:
        self._disk = disk
        self._backbones = backbones
        self._domains = domains
        self._slots = slots
        self._staging = staging
        self._clock = clock
        self._every_s = every_s
        self._noting: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Note again and again until `stop`."""
        if self._noting is None:
            self._noting = asyncio.get_running_loop().create_task(self._note_again_and_again())

    async def stop(self) -> None:
        """Note no more."""
        noting, self._noting = self._noting, None
        if noting is not None:
            noting.cancel()
            await asyncio.gather(noting, return_exceptions=True)

    async def note(self) -> None:
        """One round over everything that serves, at a pace that scoring does not feel."""
        places = list(self._slots)
        for start in range(0, len(places), _CHUNK):
            if start:
                await slept(self._clock, _REST_S)
            chunk = places[start : start + _CHUNK]
            await self._disk.used(list(dict.fromkeys(name for place in chunk for name in self._slots.blobs(place))))
        # at the end, and so evicted last, what every domain depends on
        releases = filter(None, (self._staging.release, self._domains.fleet.pointer.release))
        backbones = reversed(list(self._backbones))
        await self._disk.used([*releases, *(name for serving in backbones for name in _read_by(serving))])

    async def _note_again_and_again(self) -> None:
        while True:
            await slept(self._clock, self._every_s)
            try:
                await self.note()
            except Exception as error:  # a fault of ours must not end the rounds unseen
                asyncio.get_running_loop().call_exception_handler(
                    {"message": "noting what serves failed", "exception": error}
                )


def _read_by(serving: Serving) -> Iterator[str]:
    """What a backbone and its tables were read from."""
    for loaded in serving.tables.current.loaded.values():
        yield from loaded.read
    for entry in serving.backbone.manifest.files:
        yield entry.sha256
    yield serving.revision
