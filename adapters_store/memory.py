"""`memory://`: a store that lives and dies with its process."""

import copy
import threading
from collections.abc import Mapping
from typing import Any

from adapters_store.backend import Backend, Record
from adapters_store.errors import BlobMissing


class MemoryBackend(Backend):
    """Two dictionaries behind a lock, for event loops in several threads may share one store."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blobs: dict[str, bytes] = {}
        self._records: dict[str, Record] = {}

    async def put_blob(self, digest: str, content: bytes) -> None:
        """See Backend."""
        with self._lock:
            self._blobs.setdefault(digest, bytes(content))

    async def get_blob(self, digest: str) -> bytes:
        """See Backend."""
        try:
            return self._blobs[digest]
        except KeyError:
            raise BlobMissing(f"no blob {digest} in the store") from None

    async def has_blob(self, digest: str) -> bool:
        """See Backend."""
        return digest in self._blobs

    async def list_blobs(self) -> list[str]:
        """See Backend."""
        with self._lock:
            return sorted(self._blobs)

    async def read_record(self, key: str) -> Record | None:
        """See Backend."""
        return copy.deepcopy(self._records.get(key))

    async def compare_and_set(self, key: str, expected: int, record: Mapping[str, Any]) -> bool:
        """See Backend."""
        with self._lock:
            held = self._records.get(key)
            if (held["generation"] if held else 0) != expected:
                return False
            self._records[key] = copy.deepcopy(dict(record))
            return True

    async def list_records(self, prefix: str, after: str = "", limit: int | None = None) -> list[str]:
        """See Backend."""
        with self._lock:
            return sorted(key for key in self._records if key.startswith(prefix) and key > after)[:limit]

    async def generations(self, prefix: str) -> dict[str, int]:
        """See Backend."""
        with self._lock:
            return {key: record["generation"] for key, record in self._records.items() if key.startswith(prefix)}
