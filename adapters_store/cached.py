"""A truth with a local disk cache before it: what was read once is served again, also while the truth is away."""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from adapters_store.backend import Backend, Change, Changes, Versioned, in_flight
from adapters_store.bounds import ANY_BLOB, Bound
from adapters_store.disk import DiskCache
from adapters_store.errors import StoreUnavailable

# That there is no such record is kept too, so that a restart without the truth knows it; but not for kinds whose ids
# anybody may make up.
_OPEN_KINDS = ("domain/", "replica/")


class CachedBackend(Backend):
    """Blobs from the disk before the truth, records from the truth before the disk.

    A blob is immutable: a copy that has the digest is as good as the truth's, even when the truth has lost its own. A
    record is the truth's to tell; only when that raises StoreUnavailable the one that was read last is given, with the
    version that it had. Writes, listings and the feed are the truth's alone.

    Args:
        truth: What is cached; stays its opener's to close.
        cache: Where.
    """

    def __init__(self, truth: Backend, cache: DiskCache) -> None:
        self._truth, self._cache = truth, cache

    async def prepare_writing(self) -> None:
        """See Backend."""
        await self._truth.prepare_writing()

    async def put_blob(self, digest: str, content: bytes) -> None:
        """See Backend; kept on disk once the truth has it."""
        await self._truth.put_blob(digest, content)
        await self._cache.put(digest, content)

    async def put_blobs(self, blobs: Mapping[str, bytes]) -> None:
        """See Backend."""
        await self._truth.put_blobs(blobs)
        await in_flight(blobs.items(), lambda blob: self._cache.put(*blob))

    async def get_blob(self, digest: str, bound: Bound = ANY_BLOB) -> bytes:
        """See Backend."""
        kept = await self._cache.get(digest, bound)
        if kept is not None:
            return kept
        content = await self._truth.get_blob(digest, bound)
        await self._cache.put(digest, content)
        return content

    async def blob_path(self, digest: str, bound: Bound = ANY_BLOB) -> Path | None:
        """See Backend; fetched to the disk first where it is not there. The truth's own path if that fails."""
        kept = await self._cache.path(digest, bound)
        if kept is None:
            await self._cache.put(digest, await self._truth.get_blob(digest, bound))
            kept = await self._cache.path(digest, bound)
        return kept or await self._truth.blob_path(digest, bound)

    async def has_blob(self, digest: str) -> bool:
        """See Backend; the disk's word while the truth is away, if it has the bytes."""
        return bool(await self.has_blobs([digest]))

    async def has_blobs(self, digests: Sequence[str]) -> set[str]:
        """See Backend; the disk's word while the truth is away, if it has them all."""
        try:
            return await self._truth.has_blobs(digests)
        except StoreUnavailable:
            for digest in digests:
                if await self._cache.path(digest) is None:
                    raise
            return set(digests)

    async def list_blobs(self) -> list[str]:
        """See Backend."""
        return await self._truth.list_blobs()

    async def delete_blob(self, digest: str) -> None:
        """See Backend; a copy on disk stays until it is evicted."""
        await self._truth.delete_blob(digest)

    async def read_record(self, key: str) -> Versioned | None:
        """See Backend; the one read last while the truth is away.

        Raises:
            StoreUnavailable: The truth is away, and this record was never read here.
        """

        async def ask() -> dict[str, Versioned]:
            found = await self._truth.read_record(key)
            return {} if found is None else {key: found}

        return (await self._read([key], ask)).get(key)

    async def read_records(self, keys: Sequence[str]) -> dict[str, Versioned]:
        """See Backend; those read last while the truth is away.

        Raises:
            StoreUnavailable: The truth is away, and one of these records was never read here.
        """
        return await self._read(keys, lambda: self._truth.read_records(keys))

    async def _read(
        self, keys: Sequence[str], ask: Callable[[], Awaitable[dict[str, Versioned]]]
    ) -> dict[str, Versioned]:
        asked_ns = time.time_ns()
        try:
            found = await ask()
        except StoreUnavailable:
            kept = await self._cache.recall(keys)
            if len(kept) < len(set(keys)):
                raise
            return {key: versioned for key, versioned in kept.items() if versioned is not None}
        absent = {key: None for key in keys if key not in found and not key.startswith(_OPEN_KINDS)}
        await self._cache.keep({**found, **absent}, asked_ns)
        return found

    async def compare_and_set(self, key: str, expected: int, record: Mapping[str, Any]) -> bool:
        """See Backend."""
        return await self._truth.compare_and_set(key, expected, record)

    async def compare_and_set_many(self, changes: Sequence[Change]) -> list[bool]:
        """See Backend."""
        return await self._truth.compare_and_set_many(changes)

    async def confirm(self, keys: Sequence[str]) -> None:
        """See Backend."""
        await self._truth.confirm(keys)

    async def delete_record(self, key: str, expected: int) -> bool:
        """See Backend."""
        return await self._truth.delete_record(key, expected)

    async def list_records(self, prefix: str, after: str = "", limit: int | None = None) -> list[str]:
        """See Backend."""
        return await self._truth.list_records(prefix, after, limit)

    async def versions(self, prefix: str) -> dict[str, str]:
        """See Backend."""
        return await self._truth.versions(prefix)

    async def changes(self, position: str | None, wait_s: float) -> Changes:
        """See Backend."""
        return await self._truth.changes(position, wait_s)
