"""Tells how long each call to a store took and whether the store failed it."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from adapters_store.backend import Backend, Change, Changes, Versioned
from adapters_store.bounds import ANY_BLOB, Bound
from adapters_store.errors import BlobMissing, LimitExceeded, MalformedRecord

T = TypeVar("T")
# operation (the name of a method), seconds, and what the store failed with; no such blob, one that is too large, or a
# bad record, is an answer
Told = Callable[[str, float, BaseException | None], None]


class TimedBackend(Backend):
    """Another backend, watched. A call that its caller gives up is not told of: it says nothing of the store.

    Args:
        inner: Where calls go.
        told: Called after each; must return at once and never raise.
        now: Seconds, monotonic.
    """

    def __init__(self, inner: Backend, told: Told, now: Callable[[], float] = time.monotonic) -> None:
        self._inner = inner
        self._told = told
        self._now = now

    @property
    def inner(self) -> Backend:
        """Where calls go."""
        return self._inner

    async def prepare_writing(self) -> None:
        """See Backend."""
        await self._timed("prepare_writing", self._inner.prepare_writing())

    async def put_blob(self, digest: str, content: bytes) -> None:
        """See Backend."""
        await self._timed("put_blob", self._inner.put_blob(digest, content))

    async def put_blobs(self, blobs: Mapping[str, bytes]) -> None:
        """See Backend."""
        await self._timed("put_blobs", self._inner.put_blobs(blobs))

    async def get_blob(self, digest: str, bound: Bound = ANY_BLOB) -> bytes:
        """See Backend."""
        return await self._timed("get_blob", self._inner.get_blob(digest, bound))

    async def blob_path(self, digest: str, bound: Bound = ANY_BLOB) -> Path | None:
        """See Backend."""
        return await self._timed("blob_path", self._inner.blob_path(digest, bound))

    async def has_blob(self, digest: str) -> bool:
        """See Backend."""
        return await self._timed("has_blob", self._inner.has_blob(digest))

    async def has_blobs(self, digests: Sequence[str]) -> set[str]:
        """See Backend."""
        return await self._timed("has_blobs", self._inner.has_blobs(digests))

    async def list_blobs(self) -> list[str]:
        """See Backend."""
        return await self._timed("list_blobs", self._inner.list_blobs())

    async def delete_blob(self, digest: str) -> None:
        """See Backend."""
        await self._timed("delete_blob", self._inner.delete_blob(digest))

    async def read_record(self, key: str) -> Versioned | None:
        """See Backend."""
        return await self._timed("read_record", self._inner.read_record(key))

    async def read_records(self, keys: Sequence[str]) -> dict[str, Versioned]:
        """See Backend."""
        return await self._timed("read_records", self._inner.read_records(keys))

    async def compare_and_set(self, key: str, expected: int, record: Mapping[str, Any]) -> bool:
        """See Backend."""
        return await self._timed("compare_and_set", self._inner.compare_and_set(key, expected, record))

    async def compare_and_set_many(self, changes: Sequence[Change]) -> list[bool]:
        """See Backend."""
        return await self._timed("compare_and_set_many", self._inner.compare_and_set_many(changes))

    async def confirm(self, keys: Sequence[str]) -> None:
        """See Backend."""
        await self._timed("confirm", self._inner.confirm(keys))

    async def delete_record(self, key: str, expected: int) -> bool:
        """See Backend."""
        return await self._timed("delete_record", self._inner.delete_record(key, expected))

    async def list_records(self, prefix: str, after: str = "", limit: int | None = None) -> list[str]:
        """See Backend."""
        return await self._timed("list_records", self._inner.list_records(prefix, after, limit))

    async def versions(self, prefix: str) -> dict[str, str]:
        """See Backend."""
        return await self._timed("versions", self._inner.versions(prefix))

    async def changes(self, position: str | None, wait_s: float) -> Changes:
        """See Backend; its time is mostly waiting for something to change."""
        return await self._timed("changes", self._inner.changes(position, wait_s))

    async def close(self) -> None:
        """See Backend."""
        await self._inner.close()

    async def _timed(self, operation: str, call: Awaitable[T]) -> T:
        began = self._now()
        failure: BaseException | None = None
        try:
            return await call
        except asyncio.CancelledError:
            operation = ""
            raise
        except (BlobMissing, LimitExceeded, MalformedRecord):
            raise
        except Exception as error:
            failure = error
            raise
        finally:
            if operation:
                self._told(operation, self._now() - began, failure)
