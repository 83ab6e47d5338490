"""Where blobs and records live: the one interface that every backend implements, held by one contract suite.

A backend knows nothing of adapters. It stores immutable bytes under their digest, and small JSON objects under a key,
changed only by compare-and-set on the integer `generation` inside them.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

Record = dict[str, Any]


class Backend(ABC):
    """Blobs by digest, records by key. Every method may raise StoreUnavailable."""

    @abstractmethod
    async def put_blob(self, digest: str, content: bytes) -> None:
        """Store bytes under their digest; when this returns they are as durable as this backend makes them.

        Args:
            digest: sha256 of `content`, in hex; the caller has computed it.
            content: The bytes; storing the same again is no error and changes nothing.
        """

    @abstractmethod
    async def get_blob(self, digest: str) -> bytes:
        """The bytes that were stored under this digest; checking them is the caller's part.

        Raises:
            BlobMissing: There are none.
        """

    @abstractmethod
    async def has_blob(self, digest: str) -> bool:
        """Whether there are bytes under this digest."""

    @abstractmethod
    async def list_blobs(self) -> list[str]:
        """Digests of all blobs, sorted."""

    @abstractmethod
    async def read_record(self, key: str) -> Record | None:
        """The record under this key, or None; never half of one.

        Raises:
            MalformedRecord: What is stored is no JSON object with a generation.
        """

    @abstractmethod
    async def compare_and_set(self, key: str, expected: int, record: Mapping[str, Any]) -> bool:
        """Replace a record if its generation is still what the caller read.

        Args:
            key: Which; `<kind>/<id>` of id characters.
            expected: The generation that was read; 0 means that there must be no record.
            record: The next one; its `generation` is `expected` + 1.

        Returns:
            True if it was replaced, False if another writer was first.
        """

    @abstractmethod
    async def list_records(self, prefix: str, after: str = "", limit: int | None = None) -> list[str]:
        """Keys that start with `prefix` and sort behind `after`, sorted; at most `limit`."""

    @abstractmethod
    async def generations(self, prefix: str) -> dict[str, int]:
        """Key to generation of every record whose key starts with `prefix`: what a watcher polls, so it is cheap."""

    async def close(self) -> None:  # noqa: B027 - not abstract: most backends hold nothing open
        """Let go of connections and the like; the backend is not used afterwards."""
