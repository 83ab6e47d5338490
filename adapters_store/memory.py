"""`memory://`: a store that lives and dies with its process."""

import asyncio
import contextlib
import copy
import secrets
import threading
from collections.abc import Mapping
from typing import Any

from adapters_store.backend import Backend, Changes, Versioned
from adapters_store.bounds import ANY_BLOB, Bound
from adapters_store.canonical import canonical_json, digest
from adapters_store.errors import BlobMissing


class MemoryBackend(Backend):
    """Dictionaries behind a lock, for event loops in several threads may share one store."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blobs: dict[str, bytes] = {}
        self._records: dict[str, Versioned] = {}
        self._incarnation = secrets.token_hex(8)
        self._changes = 0
        self._changed: dict[str, int] = {}  # key to the number of its last change, in the order of these numbers
        self._waiting: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()

    async def put_blob(self, digest: str, content: bytes) -> None:
        """See Backend."""
        with self._lock:
            self._blobs.setdefault(digest, bytes(content))

    async def get_blob(self, digest: str, bound: Bound = ANY_BLOB) -> bytes:
        """See Backend."""
        try:
            content = self._blobs[digest]
        except KeyError:
            raise BlobMissing(f"no blob {digest} in the store") from None
        bound.check(digest, len(content))
        return content

    async def has_blob(self, digest: str) -> bool:
        """See Backend."""
        return digest in self._blobs

    async def list_blobs(self) -> list[str]:
        """See Backend."""
        with self._lock:
            return sorted(self._blobs)

    async def delete_blob(self, digest: str) -> None:
        """See Backend."""
        with self._lock:
            self._blobs.pop(digest, None)

    async def read_record(self, key: str) -> Versioned | None:
        """See Backend."""
        return copy.deepcopy(self._records.get(key))

    async def compare_and_set(self, key: str, expected: int, record: Mapping[str, Any]) -> bool:
        """See Backend."""
        with self._lock:
            if self._generation(key) != expected:
                return False
            kept = copy.deepcopy(dict(record))
            self._records[key] = Versioned(kept, digest(canonical_json(kept)))
            self._tell(key)
            return True

    async def delete_record(self, key: str, expected: int) -> bool:
        """See Backend."""
        with self._lock:
            if key not in self._records or self._generation(key) != expected:
                return False
            del self._records[key]
            self._tell(key)
            return True

    async def list_records(self, prefix: str, after: str = "", limit: int | None = None) -> list[str]:
        """See Backend."""
        with self._lock:
            return sorted(key for key in self._records if key.startswith(prefix) and key > after)[:limit]

    async def versions(self, prefix: str) -> dict[str, str]:
        """See Backend."""
        with self._lock:
            return {key: held.version for key, held in self._records.items() if key.startswith(prefix)}

    async def changes(self, position: str | None, wait_s: float) -> Changes:
        """See Backend; the count of changes is the position, and none is ever trimmed."""
        incarnation, _, count = (position or "").partition(":")
        known = int(count) if count.isdigit() else -1
        waiter = (asyncio.get_running_loop(), asyncio.Event())
        with self._lock:
            if incarnation != self._incarnation or not 0 <= known <= self._changes:
                return Changes(frozenset(), self._position(), resync=True)
            if self._changes > known:
                return Changes(self._behind(known), self._position())
            self._waiting.add(waiter)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await waiter[1].wait()
        finally:
            with self._lock:
                self._waiting.discard(waiter)
        with self._lock:
            return Changes(self._behind(known), self._position())

    def _generation(self, key: str) -> int:
        held = self._records.get(key)
        return int(held.record["generation"]) if held else 0

    def _position(self) -> str:
        return f"{self._incarnation}:{self._changes}"

    def _behind(self, known: int) -> frozenset[str]:
        keys = set()
        for key, number in reversed(self._changed.items()):
            if number <= known:
                break
            keys.add(key)
        return frozenset(keys)

    def _tell(self, key: str) -> None:
        self._changes += 1
        self._changed.pop(key, None)
        self._changed[key] = self._changes
        for loop, event in self._waiting:
            with contextlib.suppress(RuntimeError):  # that thread's loop was closed while it waited
                loop.call_soon_threadsafe(event.set)
