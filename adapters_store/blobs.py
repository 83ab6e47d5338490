"""The blob half of the adapter store: bytes by their digest, everything read checked against it."""

import asyncio
import mmap
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from adapters_store.backbone import MANIFEST, Backbone, read_bundle, read_bundle_from_store
from adapters_store.backend import Backend
from adapters_store.bounds import ANY_BLOB, Bound
from adapters_store.canonical import digest
from adapters_store.errors import BlobMissing, DigestMismatch, StoreUnavailable
from adapters_store.ids import check_revision

Clock = Callable[[], float]

# Below this, hashing takes less time than a hop to a thread and back.
_INLINE_BYTES = 256 * 1024
_BATCH_BLOBS = 256
_BATCH_BYTES = 32 * 2**20
# A cache may evict a file between naming it and its being mapped; it is asked for so often.
_MAPPED = 3
_READS = 3


class BlobStore:
    """Artifacts by revision.

    Args:
        backend: Where the bytes are.
        clock: Seconds since the epoch.
    """

    def __init__(self, backend: Backend, clock: Clock) -> None:
        self._backend = backend
        self._clock = clock

    @property
    def backend(self) -> Backend:
        """Where the bytes are."""
        return self._backend

    @property
    def clock(self) -> Clock:
        """Seconds since the epoch."""
        return self._clock

    async def close(self) -> None:
        """Close the backend."""
        await self._backend.close()

    async def put(self, content: bytes) -> str:
        """Store an artifact's bytes; storing the same again changes nothing.

        Args:
            content: The bytes; what they are is the caller's to verify.

        Returns:
            Their revision.

        Raises:
            StoreUnavailable: They may not have been stored.
        """
        revision = await _digest(content)
        await self._backend.put_blob(revision, content)
        return revision

    async def put_many(self, contents: Iterable[bytes]) -> list[str]:
        """Store many artifacts, those that are there already without sending them again.

        Args:
            contents: Taken in batches of some megabytes, so that they need not be in memory together.

        Returns:
            Their revisions, in order.

        Raises:
            StoreUnavailable: Any of them may not have been stored; putting them again sends what is missing.
        """
        revisions: list[str] = []
        batch: dict[str, bytes] = {}
        size = 0
        for content in contents:
            revision = await _digest(content)
            revisions.append(revision)
            if revision not in batch:
                batch[revision] = content
                size += len(content)
            if len(batch) >= _BATCH_BLOBS or size >= _BATCH_BYTES:
                await self._put_missing(batch)
                batch, size = {}, 0
        await self._put_missing(batch)
        return revisions

    async def get(self, revision: str, bound: Bound = ANY_BLOB) -> bytes:
        """Fetch an artifact's bytes.

        Args:
            revision: Which.
            bound: How large it may be.

        Raises:
            BadId: `revision` is none.
            BlobMissing: The store has no such bytes.
            LimitExceeded: The store has more bytes than `bound` allows; they are not read.
            DigestMismatch: The bytes in the store are not those that were put there.
            StoreUnavailable: The store cannot be read.
        """
        check_revision(revision)
        # what the way damaged comes whole the next time; what is damaged in the store does not
        for _ in range(_READS):
            content = await self._backend.get_blob(revision, bound)
            if await _digest(content) == revision:
                return content
        raise _damaged(revision)

    async def map(self, revision: str, bound: Bound = ANY_BLOB) -> memoryview:
        """An artifact's bytes, read-only; memory-mapped where the store has local files, so that processes share them.

        Args:
            revision: Which.
            bound: How large it may be.

        Returns:
            The bytes; the mapping lives as long as a view of it does.

        Raises:
            BadId: `revision` is none.
            BlobMissing: The store has no such bytes.
            LimitExceeded: The store has more bytes than `bound` allows; they are not read.
            DigestMismatch: The bytes in the store are not those that were put there.
            StoreUnavailable: The store cannot be read.
        """
        check_revision(revision)
        for _ in range(_MAPPED):
            path = await self._backend.blob_path(revision, bound)
            if path is None:
                return memoryview(await self.get(revision, bound))
            with suppress(FileNotFoundError):
                return await asyncio.to_thread(_mapped, path, revision)
        raise BlobMissing(f"no blob {revision} in the store")

    async def has(self, revision: str) -> bool:
        """Whether the store has these bytes.

        Raises:
            BadId: `revision` is none.
            StoreUnavailable: The store cannot be read.
        """
        return await self._backend.has_blob(check_revision(revision))

    async def has_many(self, revisions: Sequence[str]) -> set[str]:
        """Those of the revisions that the store has bytes of; errors as `has`."""
        return await self._backend.has_blobs([check_revision(revision) for revision in revisions])

    async def put_bundle(self, folder: Path) -> str:
        """Store a bundle folder without making it the default.

        Args:
            folder: The bundle; every file is checked against its digest.

        Returns:
            The bundle's revision.

        Raises:
            ArtifactError: The bundle is refused.
            StoreUnavailable: The folder cannot be read, or the store not written.
        """
        backbone = await asyncio.to_thread(read_bundle, folder)
        for entry in backbone.manifest.files:
            await self._put_as(entry.sha256, await asyncio.to_thread(backbone.file, entry.name))
        return await self._put_as(backbone.revision, await asyncio.to_thread((folder / MANIFEST).read_bytes))

    async def bundle(self, revision: str) -> Backbone:
        """Fetch a bundle.

        Raises:
            BadId: `revision` is none.
            BlobMissing: The manifest or a file is not in the store.
            ArtifactError: The bundle is refused.
            StoreUnavailable: The store cannot be read.
        """
        return await read_bundle_from_store(self, revision)

    async def _put_as(self, revision: str, content: bytes) -> str:
        """Store bytes that were checked when they were read before; a file that changed since is refused."""
        if await self.put(content) != revision:
            raise DigestMismatch(f"a file of the bundle changed while it was published; expected {revision}")
        return revision

    async def _put_missing(self, batch: dict[str, bytes]) -> None:
        there = await self._backend.has_blobs(list(batch))
        await self._backend.put_blobs({revision: batch[revision] for revision in batch if revision not in there})


async def _digest(content: bytes) -> str:
    return digest(content) if len(content) < _INLINE_BYTES else await asyncio.to_thread(digest, content)


def _damaged(revision: str) -> DigestMismatch:
    return DigestMismatch(f"blob {revision} is damaged in the store: publish it again")


def _mapped(path: Path, revision: str) -> memoryview:
    try:
        with path.open("rb") as file:
            empty = not file.seek(0, 2)
            view = memoryview(b"" if empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StoreUnavailable(f"cannot map blob {revision}: {error.strerror or error}") from error
    if digest(view) != revision:
        raise _damaged(revision)
    return view
