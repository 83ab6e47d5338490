"""Prepared blobs in the local disk cache: found by what they are of, checked, mapped; written behind the load.

The cache's own discipline is all there is: a blob is one of its blobs, named by the sha256 of its bytes, so it is
written beside its place, synced and renamed, never changed, bounded in bytes and evicted by the one evictor together
with the artifacts. Which blob is the one is one of its records, under the digest of the blob's identity, with its
length and a checksum: a load compares those, since sha256 over all bytes would cost as much as packing them does.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

from adapters_store.backend import Record, Versioned
from adapters_store.canonical import digest
from adapters_store.disk import DiskCache
from adapters_store.errors import BadId
from adapters_store.ids import check_revision
from adapters_store.pausing import Pause
from adapters_store.tensors import TensorLimits
from service.engine import form_of
from service.errors import EngineFailed
from service.prepared.checksum import checksum
from service.prepared.contents import Accepted, ForeignBlob, decode, encode
from service.prepared.identity import Identity, digest_of_code
from service.prepared.mapping import Mappings, read_aligned
from service.prepared.outcome import Outcome
from service.prepared.turns import Turn, Turns
from service.serving import Serving
from service.threads import WorkerThread

T = TypeVar("T")

_WAITING = 128  # blobs on their way to the disk; what they are made of stays in memory so long
_WAITING_BYTES = 64 << 20  # of those together; one alone may have more
_WRITERS = 2
_PATIENCE_S = 0.05  # a load takes a few milliseconds; whoever waits for this one must not wait for long


class _Torn(Exception):
    """The bytes are not those that were written."""


@dataclass(frozen=True, slots=True)
class _Found(Generic[T]):
    finished: T


class PreparedBlobs:
    """What this replica and the other workers on this disk cache verified and folded before.

    Args:
        cache: where blobs and their records are.
        folder: of that cache, for the lock by which one worker prepares what several need.
        thread: the loader thread; all that costs runs there.
        limits: what adapters are held to; those accepted under others are verified again.
        pause: called on that thread between two steps.
        told: of each outcome, on the event loop.
        patience_s: the longest that a load waits for another process that prepares the same adapter.
        mappings: those of this process.
    """

    def __init__(
        self,
        cache: DiskCache,
        folder: Path,
        thread: WorkerThread,
        limits: TensorLimits,
        pause: Pause,
        *,
        told: Callable[[Outcome], None] = lambda outcome: None,
        patience_s: float = _PATIENCE_S,
        mappings: Mappings | None = None,
    ) -> None:
        self._cache = cache
        self._thread = thread
        self._limits = limits
        self._pause = pause
        self._told = told
        self._code = digest_of_code()
        self._mappings = Mappings() if mappings is None else mappings
        self._turns = Turns(folder / "preparing", patience_s)
        self._writers = asyncio.Semaphore(_WRITERS)
        self._writing: dict[asyncio.Task[None], int] = {}  # and the bytes of what each keeps

    def identity(self, serving: Serving, bundle: str, domain: str, revision: str) -> Identity | None:
        """What a blob of this adapter would be of; None for an engine whose prepared adapters are not kept."""
        form = form_of(serving.engine)
        if form is None:
            return None
        return Identity(domain, revision, bundle, serving.fingerprint, form, self._limits, self._code)

    @asynccontextmanager
    async def turn(self, revision: str, *, wait: bool = True) -> AsyncIterator[Turn]:
        """The turn to prepare a revision; ended with the block, or by `keep` once the blob is there for others.

        Args:
            revision: of the adapter.
            wait: a moment for another process that has it.
        """
        turn = await self._turns.take(revision, wait=wait)
        try:
            yield turn
        finally:
            turn.end()

    async def find(
        self, domain: str, revision: str, backbones: Iterable[Serving], finish: Callable[[Accepted, Serving, str], T]
    ) -> T | None:
        """What was kept of an adapter; its backbone counts as asked for.

        Args:
            domain: that it is asked for.
            revision: of the adapter.
            backbones: those in memory, now and after each wait; the adapter may be of any.
            finish: called on the loader thread with what was found, its backbone, and the blob's digest.

        Returns:
            What `finish` returned; None where there is nothing that can be used, and the adapter is to be verified.
        """
        wanted: dict[str, tuple[Identity, Serving]] = {}
        for serving in backbones:
            identity = self.identity(serving, serving.revision, domain, revision)
            if identity is not None:
                wanted[identity.key] = (identity, serving)
        recorded = await self._cache.recall(list(wanted)) if wanted else {}
        for key, versioned in recorded.items():
            identity, serving = wanted[key]
            # it may have been let go meanwhile; from now on no look does that which finds no slot of it yet
            if versioned is not None and serving in list(backbones):
                serving.wanted = True
                found = await self._read(versioned, identity, serving, finish)
                self._told("used" if isinstance(found, _Found) else found)
                return found.finished if isinstance(found, _Found) else None
        self._told("absent")
        return None

    async def _read(
        self, versioned: Versioned, identity: Identity, serving: Serving, finish: Callable[[Accepted, Serving, str], T]
    ) -> _Found[T] | Outcome:
        try:
            name = check_revision(str(versioned.record.get("blob")))
            said = (int(versioned.record["bytes"]), str(versioned.record["checksum"]))
        except (BadId, KeyError, TypeError, ValueError):
            return "foreign"
        path = await self._cache.found(name)
        if path is None:
            return "gone"
        try:
            work = partial(self._finished, path, said, identity, serving, finish)
            return _Found(await self._thread.run(work))
        except (ForeignBlob, EngineFailed):
            return "foreign"
        except OSError:  # evicted since it was found, mostly
            return "gone"
        except _Torn:
            await self._cache.damaged(name)
            return "gone"

    def _finished(
        self,
        path: Path,
        said: tuple[int, str],
        identity: Identity,
        serving: Serving,
        finish: Callable[[Accepted, Serving, str], T],
    ) -> T:
        """What `finish` makes of a file whose length and checksum are as its record says."""
        mapped = self._mappings.open(path) if self._mappings.has_room else None
        content = read_aligned(path) if mapped is None else mapped
        if len(content) != said[0] or checksum(content) != said[1]:
            raise _Torn
        self._pause()
        accepted = decode(content, identity)
        self._pause()
        return finish(accepted, serving, path.name)

    def keep(self, identity: Identity | None, accepted: Accepted, size_bytes: int, turn: Turn) -> None:
        """Write a blob behind the load, and end the turn once it is there; past a bound it is left out.

        Args:
            identity: of the blob; None: there shall be none.
            accepted: what is kept.
            size_bytes: memory of that.
            turn: to prepare it.
        """
        if identity is None or not accepted.is_keepable or not self._has_room(size_bytes):
            self._told("skipped")
            return
        task = asyncio.get_running_loop().create_task(self._keep(identity, accepted, turn.handed_on()))
        self._writing[task] = size_bytes
        task.add_done_callback(self._ended)

    def _has_room(self, size_bytes: int) -> bool:
        waiting_bytes = sum(self._writing.values())
        return not self._writing or (len(self._writing) < _WAITING and waiting_bytes + size_bytes <= _WAITING_BYTES)

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._writing[task]
        error = None if task.cancelled() else task.exception()
        if error is not None:  # a fault of ours: the adapter serves, and is verified again by who loads it next
            message = "keeping a prepared adapter failed"
            asyncio.get_running_loop().call_exception_handler({"message": message, "exception": error})

    async def _keep(self, identity: Identity, accepted: Accepted, turn: Turn) -> None:
        try:
            record, content = await self._thread.run(partial(self._encoded, identity, accepted))
            del accepted
            async with self._writers:
                await self._cache.put(record["blob"], content)
                is_there = await self._cache.found(record["blob"]) is not None
                if is_there:  # neither past the cache's bound nor refused by the disk
                    await self._cache.write_record(identity.key, Versioned(record, record["blob"]))
            self._told("kept" if is_there else "skipped")
        finally:
            turn.end()

    def _encoded(self, identity: Identity, accepted: Accepted) -> tuple[Record, bytes]:
        content = encode(identity, accepted, self._pause)
        self._pause()
        checks = {"blob": digest(content), "bytes": len(content), "checksum": checksum(content)}
        return {**checks, "of": identity.written()}, content

    async def settle(self) -> None:
        """Wait until what was given is on the disk."""
        while self._writing:
            await asyncio.wait(self._writing)

    async def stop(self) -> None:
        """Leave out what is not written yet, and end all turns."""
        for task in self._writing:
            task.cancel()
        await asyncio.gather(*self._writing, return_exceptions=True)
        self._turns.close()
