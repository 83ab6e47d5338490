"""`file:///folder`: one host, many processes.

::

    <folder>/blobs/<2 hex>/<digest>          immutable, put in place by rename
    <folder>/records/<quoted key>.json       canonical JSON, replaced by rename under the key's lock
    <folder>/locks/<2 hex>                   flock(2); one of 256 by the digest of the key

A write goes to a temporary file in the same folder, is synced, renamed, and the folder synced: a reader or a crash sees
the old bytes or all of the new ones. Reading takes no lock. The kernel frees a killed writer's lock; the temporary file
that it may leave has a name that no reader looks at. All file work runs in threads, never on the event loop.
"""

import asyncio
import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, unquote

from adapters_store.backend import Backend, Changes, Record, Versioned
from adapters_store.bounds import ANY_BLOB, Bound
from adapters_store.canonical import canonical_json, digest, parse_json
from adapters_store.durable import TEMPORARY, sync_folder, write_durably
from adapters_store.errors import BlobMissing, MalformedRecord, StoreUnavailable
from adapters_store.ids import is_revision
from adapters_store.polling import PollingFeed

T = TypeVar("T")

_SUFFIX = ".json"
_SAFE = ":="  # ids have no other character that quoting would change, so a key's file sorts as the key
# A file that changed less long ago than a file system's clock may tick could change again unseen: it is read again.
_SETTLED_NS = 2_000_000_000


class FileBackend(Backend):
    """A folder of blobs and records; any number of processes and threads may use it at once.

    Args:
        folder: Absolute path.
        create: Make the folder if it is not there.
        poll_s: How often `changes` looks, seconds.

    Raises:
        StoreUnavailable: It is not there, or cannot be made.
    """

    def __init__(self, folder: Path, create: bool = False, poll_s: float = 10.0) -> None:
        self._blobs, self._records, self._locks = (folder / name for name in ("blobs", "records", "locks"))
        self._seen: dict[str, tuple[tuple[int, int, int], str]] = {}
        self._feed = PollingFeed(lambda: self.versions(""), poll_s)
        if create:
            with _reported(f"cannot create a store in {folder}"):
                for part in (self._blobs, self._records, self._locks):
                    part.mkdir(parents=True, exist_ok=True)
        if not self._records.is_dir():
            raise StoreUnavailable(f"there is no store in {folder}: check the URL, or publish to it first")

    async def put_blob(self, digest: str, content: bytes) -> None:
        """See Backend; a blob that rotted on disk is written anew."""
        await _in_thread(self._put_blob, digest, content)

    async def get_blob(self, digest: str, bound: Bound = ANY_BLOB) -> bytes:
        """See Backend."""
        return await _in_thread(self._get_blob, digest, bound)

    async def blob_path(self, digest: str, bound: Bound = ANY_BLOB) -> Path:
        """See Backend."""
        return await _in_thread(self._checked_path, digest, bound)

    async def has_blob(self, digest: str) -> bool:
        """See Backend."""
        return await _in_thread(self._blob_path(digest).is_file)

    async def has_blobs(self, digests: Sequence[str]) -> set[str]:
        """See Backend; one thread looks for all."""
        return await _in_thread(lambda: {digest for digest in digests if self._blob_path(digest).is_file()})

    async def list_blobs(self) -> list[str]:
        """See Backend."""
        return await _in_thread(self._list_blobs)

    async def delete_blob(self, digest: str) -> None:
        """See Backend."""
        await _in_thread(self._delete_blob, digest)

    async def sweep_temporary(self, older_s: float, now: float) -> int:
        """Remove what killed writers left half-written.

        Args:
            older_s: Only files that nobody touched for so many seconds; a writer at work must be quicker.
            now: Clock time in seconds since the epoch.

        Returns:
            How many were removed.
        """
        return await _in_thread(self._sweep_temporary, now - older_s)

    async def read_record(self, key: str) -> Versioned | None:
        """See Backend."""
        return await _in_thread(self._read_record, key)

    async def read_records(self, keys: Sequence[str]) -> dict[str, Versioned]:
        """See Backend; one thread reads them all."""
        return await _in_thread(lambda: {key: held for key in keys if (held := self._read_record(key)) is not None})

    async def compare_and_set(self, key: str, expected: int, record: Mapping[str, Any]) -> bool:
        """See Backend."""
        return await _in_thread(self._compare_and_set, key, expected, record)

    async def list_records(self, prefix: str, after: str = "", limit: int | None = None) -> list[str]:
        """See Backend."""
        keys = await _in_thread(self._keys)
        return sorted(key for key in keys if key.startswith(prefix) and key > after)[:limit]

    async def delete_record(self, key: str, expected: int) -> bool:
        """See Backend."""
        return await _in_thread(self._delete_record, key, expected)

    async def versions(self, prefix: str) -> dict[str, str]:
        """See Backend; a record whose file did not change is not read again."""
        return await _in_thread(self._versions, prefix)

    async def changes(self, position: str | None, wait_s: float) -> Changes:
        """See Backend; the folder is listed every `poll_s`."""
        return await self._feed.changes(position, wait_s)

    def _blob_path(self, name: str) -> Path:
        return self._blobs / name[:2] / name

    def _put_blob(self, name: str, content: bytes) -> None:
        path = self._blob_path(name)
        path.parent.mkdir(exist_ok=True)
        if path.is_file() and path.stat().st_size == len(content) and digest(path.read_bytes()) == name:
            sync_folder(path.parent)  # whoever put it there may not have come to this yet
        else:
            write_durably(path, content)
        sync_folder(self._blobs)

    def _get_blob(self, name: str, bound: Bound) -> bytes:
        try:
            with self._blob_path(name).open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                bound.check(name, size)
                return file.read(size)
        except FileNotFoundError:
            raise BlobMissing(f"no blob {name} in the store") from None

    def _checked_path(self, name: str, bound: Bound) -> Path:
        path = self._blob_path(name)
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            raise BlobMissing(f"no blob {name} in the store") from None
        bound.check(name, size)
        return path

    def _list_blobs(self) -> list[str]:
        return sorted(path.name for path in self._blobs.glob("??/*") if is_revision(path.name))

    def _record_path(self, key: str) -> Path:
        return self._records / f"{quote(key, safe=_SAFE)}{_SUFFIX}"

    def _read_record(self, key: str) -> Versioned | None:
        content = self._content(key)
        return None if content is None else Versioned(_parsed(key, content), digest(content))

    def _content(self, key: str) -> bytes | None:
        try:
            return self._record_path(key).read_bytes()
        except FileNotFoundError:
            return None

    def _is_at(self, key: str, expected: int) -> bool:
        held = self._read_record(key)
        return (held.record["generation"] if held else 0) == expected

    def _compare_and_set(self, key: str, expected: int, record: Mapping[str, Any]) -> bool:
        with self._locked(key):
            if not self._is_at(key, expected):
                return False
            write_durably(self._record_path(key), canonical_json(dict(record)))
            return True

    def _delete_record(self, key: str, expected: int) -> bool:
        with self._locked(key):
            path = self._record_path(key)
            if not path.exists() or not self._is_at(key, expected):
                return False
            path.unlink()
            sync_folder(path.parent)
            return True

    def _delete_blob(self, name: str) -> None:
        path = self._blob_path(name)
        try:
            path.unlink()
        except FileNotFoundError:
            return
        sync_folder(path.parent)

    def _sweep_temporary(self, before: float) -> int:
        removed = 0
        for path in (*self._blobs.glob(f"??/{TEMPORARY}*"), *self._records.glob(f"{TEMPORARY}*")):
            with suppress(FileNotFoundError):  # its writer has just finished
                if path.stat().st_mtime < before:
                    path.unlink()
                    removed += 1
        return removed

    def _keys(self) -> list[str]:
        return [_key_of(name) for name in os.listdir(self._records) if _is_record(name)]

    def _versions(self, prefix: str) -> dict[str, str]:
        found: dict[str, str] = {}
        now = time.time_ns()
        with os.scandir(self._records) as entries:
            for entry in entries:
                key = _key_of(entry.name) if _is_record(entry.name) else ""
                if key and key.startswith(prefix):
                    with suppress(FileNotFoundError):  # deleted since it was listed
                        found[key] = self._version(key, entry.stat(), now)
        return found

    def _version(self, key: str, state: os.stat_result, now: int) -> str:
        """The digest of a record's bytes, whatever they are."""
        signature = (state.st_ino, state.st_mtime_ns, state.st_size)
        seen = self._seen.get(key)
        if seen is None or seen[0] != signature:
            seen = (signature, digest(self._record_path(key).read_bytes()))
            if now - state.st_mtime_ns > _SETTLED_NS:
                self._seen[key] = seen
        return seen[1]

    @contextmanager
    def _locked(self, key: str) -> Iterator[None]:
        descriptor = os.open(self._locks / digest(key.encode())[:2], os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # closing alone would leave it with a child forked meanwhile
            os.close(descriptor)


async def _in_thread(work: Callable[..., T], *arguments: Any) -> T:
    def reported() -> T:
        with _reported("the store's folder"):
            return work(*arguments)

    return await asyncio.to_thread(reported)


@contextmanager
def _reported(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        hint = "; free space on its disk" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        raise StoreUnavailable(f"{what}: {error.strerror or error}{hint}") from error


def _is_record(name: str) -> bool:
    return name.endswith(_SUFFIX) and not name.startswith(TEMPORARY)


def _key_of(name: str) -> str:
    return unquote(name.removesuffix(_SUFFIX))


def _parsed(key: str, content: bytes) -> Record:
    try:
        record = parse_json(content)
    except ValueError as error:
        raise MalformedRecord(f"record {key!r} is no JSON: {error}") from None
    if not isinstance(record, dict) or type(record.get("generation")) is not int:
        raise MalformedRecord(f"record {key!r} is no JSON object with a generation")
    return record
