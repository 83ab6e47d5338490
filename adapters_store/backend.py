"""Where blobs and records live: the one interface that every backend implements, held by one contract suite.

A backend knows nothing of adapters. It stores immutable bytes under their digest, and small JSON objects under a key,
changed only by compare-and-set on the integer `generation` inside them.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from adapters_store.bounds import ANY_BLOB, Bound

Record = dict[str, Any]
Item = TypeVar("Item")
Result = TypeVar("Result")

# What the bulk methods keep in flight where a backend knows nothing better.
CONCURRENCY = 32


@dataclass(frozen=True, slots=True)
class Versioned:
    """A record as it was read.

    Args:
        record: The JSON object; the caller's own copy.
        version: Opaque; differs whenever the stored content differs, and equals what `Backend.versions` says of it.
    """

    record: Record
    version: str


@dataclass(frozen=True, slots=True)
class Change:
    """One conditional write.

    Args:
        key: Of the record.
        expected: The generation that was read; 0 means that there must be no record.
        record: The next one; its `generation` is `expected` + 1.
    """

    key: str
    expected: int
    record: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Changes:
    """What a feed tells.

    Args:
        keys: Records that changed behind the position asked for; some more than changed may be named, none is missing.
        position: Where to go on from; opaque, and worthless to another store.
        resync: The feed cannot tell what changed (no position, another incarnation, a trimmed or wiped stream): compare
            everything, after this call and not before it.
    """

    keys: frozenset[str]
    position: str
    resync: bool = False


class Backend(ABC):
    """Blobs by digest, records by key. Every method may raise StoreUnavailable."""

    async def prepare_writing(self) -> None:  # noqa: B027 - not abstract: most backends have nothing to ask
        """Find out whether this store keeps its promises; called once before the first write.

        Raises:
            StoreRefused: It does not (it may evict, is not durable, ignores preconditions); the reason is named.
        """

    @abstractmethod
    async def put_blob(self, digest: str, content: bytes) -> None:
        """Store bytes under their digest; when this returns they are as durable as this backend makes them.

        Args:
            digest: sha256 of `content`, in hex; the caller has computed it.
            content: The bytes; storing the same again is no error and changes nothing.
        """

    async def put_blobs(self, blobs: Mapping[str, bytes]) -> None:
        """Store many blobs; on an error any of them may be stored."""
        await in_flight(blobs.items(), lambda blob: self.put_blob(*blob))

    @abstractmethod
    async def get_blob(self, digest: str, bound: Bound = ANY_BLOB) -> bytes:
        """The bytes that were stored under this digest; checking them is the caller's part.

        Args:
            digest: Which.
            bound: How much is read at most, whatever the store has: no memory is taken for more.

        Raises:
            BlobMissing: There are none.
            LimitExceeded: There are more than `bound` allows.
        """

    async def blob_path(self, digest: str, bound: Bound = ANY_BLOB) -> Path | None:
        """A local file with the bytes of this digest, fit to be memory-mapped and never changed in place, or None.

        None means that this backend has no files on this host, not that the blob is absent. Checking the bytes is the
        caller's part.

        Args:
            digest: Which.
            bound: How large the file may be.

        Raises:
            BlobMissing: There are no such bytes.
            LimitExceeded: The file is larger than `bound` allows.
        """
        return None

    @abstractmethod
    async def has_blob(self, digest: str) -> bool:
        """Whether there are bytes under this digest."""

    async def has_blobs(self, digests: Sequence[str]) -> set[str]:
        """Those of the digests that there are bytes under."""
        found = await in_flight(digests, self.has_blob)
        return {digest for digest, there in zip(digests, found, strict=True) if there}

    @abstractmethod
    async def list_blobs(self) -> list[str]:
        """Digests of all blobs, sorted."""

    @abstractmethod
    async def delete_blob(self, digest: str) -> None:
        """Remove a blob for good; an absent one is no error. Only garbage collection calls this."""

    @abstractmethod
    async def read_record(self, key: str) -> Versioned | None:
        """The record under this key, or None; never half of one.

        Raises:
            MalformedRecord: What is stored is no JSON object with a generation.
        """

    async def read_records(self, keys: Sequence[str]) -> dict[str, Versioned]:
        """The records under these keys; absent ones are left out.

        Raises:
            MalformedRecord: One of them is no JSON object with a generation.
        """
        found = await in_flight(keys, self.read_record)
        return {key: record for key, record in zip(keys, found, strict=True) if record is not None}

    @abstractmethod
    async def compare_and_set(self, key: str, expected: int, record: Mapping[str, Any]) -> bool:
        """Replace a record if its generation is still what the caller read.

        Args:
            key: Which; `<kind>/<id>` or `<kind>`, of id characters.
            expected: The generation that was read; 0 means that there must be no record.
            record: The next one; its `generation` is `expected` + 1.

        Returns:
            True if it was replaced, False if another writer was first.

        Raises:
            StoreUnavailable: Unknown whether it happened.
        """

    async def compare_and_set_many(self, changes: Sequence[Change]) -> list[bool]:
        """Many conditional writes, each by itself; what `compare_and_set` returns, in the order of `changes`."""
        return await in_flight(changes, lambda one: self.compare_and_set(one.key, one.expected, one.record))

    async def confirm(self, keys: Sequence[str]) -> None:  # noqa: B027 - not abstract: most acknowledge only what lasts
        """Return once what the store shows under these keys is as durable as an acknowledged write.

        Who finds that a change is made already asks this before saying so: it may be there because of a write whose
        outcome was unknown.

        Raises:
            StoreUnavailable: It may still be lost.
        """

    @abstractmethod
    async def delete_record(self, key: str, expected: int) -> bool:
        """Remove a record whose generation is still what the caller read; True if it was removed.

        Only for records that are worth nothing later (what a replica says of itself): a domain's generation must never
        restart, so deleting one writes a tombstone instead.
        """

    @abstractmethod
    async def list_records(self, prefix: str, after: str = "", limit: int | None = None) -> list[str]:
        """Keys that start with `prefix` and sort behind `after`, sorted; at most `limit`."""

    @abstractmethod
    async def versions(self, prefix: str) -> dict[str, str]:
        """Key to `Versioned.version` of every record whose key starts with `prefix`: cheap, for a replica to compare.

        An unreadable record is listed too: it must not blind a replica for all others.
        """

    @abstractmethod
    async def changes(self, position: str | None, wait_s: float) -> Changes:
        """What changed behind a position, waiting until something does or `wait_s` seconds are over.

        Args:
            position: Of an earlier answer; None asks for the position of now, with `resync`, at once.
            wait_s: Longest wait, seconds; a backend that has to poll looks at its own pace within it.
        """

    async def close(self) -> None:  # noqa: B027 - not abstract: most backends hold nothing open
        """Let go of connections and the like; the backend is not used afterwards."""


async def in_flight(
    items: Iterable[Item], work: Callable[[Item], Awaitable[Result]], limit: int = CONCURRENCY
) -> list[Result]:
    """Do the same for many items, `limit` at a time; results in the order of the items.

    Raises:
        Exception: What `work` raised first; what was in flight then is cancelled.
    """
    listed = list(items)
    if len(listed) <= 1:  # most calls are about one record: no task for it
        return [await work(item) for item in listed]
    results: dict[int, Result] = {}
    numbered = enumerate(listed)

    async def take() -> None:
        for number, item in numbered:
            results[number] = await work(item)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(limit, len(listed))):
                group.create_task(take())
    except BaseExceptionGroup as raised:
        raise raised.exceptions[0] from None
    return [results[number] for number in range(len(listed))]
