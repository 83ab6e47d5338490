"""The local disk cache: copies of blobs and of the last records, for the workers of one replica.

::

    <folder>/blobs/<2 hex>/<digest>              the bytes; the access time says when they were last used
    <folder>/records/<2 hex>/<quoted key>        sha256 of the next line, and {"key", "record", "version"}
    <folder>/size                                bytes kept, by all processes; also the lock (flock(2)) of that number
    <folder>/evicting                            flock(2) of the one who makes room

Nothing in it is truth: whatever is missing, torn or damaged is not there, and the folder may be deleted at any time,
also while it is in use. All file work runs in threads. No method fails because of the disk: what the file system
refuses is told to `on_fault`, and the answer is that nothing is kept.
"""

import asyncio
import hashlib
import os
import stat
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from adapters_store.backend import Versioned
from adapters_store.bounds import ANY_BLOB, Bound
from adapters_store.canonical import canonical_json, digest, parse_json
from adapters_store.durable import write_durably
from adapters_store.errors import StoreRefused
from adapters_store.eviction import Room, count, oldest

T = TypeVar("T")
Signature = tuple[int, int, int]

# How exactly the time of last use is kept: finer would make every read a write.
_TOUCH_NS = 60 * 10**9
# A sweep over the records comes after so many new ones.
_RECORDS_BETWEEN_SWEEPS = 1024
# How files of records begin whose key has an id; these of prepared blobs, and of feature tables.
_PREPARED, _TABLES = "prepared%2F", "features%2F"


def _unheard(_: str) -> None:
    """Nobody asked to be told."""


class DiskCache:
    """Blobs and records on the local disk, bounded, shared by any number of processes.

    Args:
        folder: Absolute path; made with mode 0700 if it is not there.
        limit_bytes: Of all blobs; exceeded by no more than what is being written at the moment.
        limit_records: How many records are kept, more or less. Those of prepared blobs go first, for they only save
            work; then those of domains, the longest unchanged before the others; those of tables last; never one whose
            key has no id (`backbone`, `release`), for there are few of those.
        on_fault: Told in words what the disk refused or what was found damaged; called on the event loop.

    Raises:
        StoreRefused: The folder is not ours alone, or cannot be made.
    """

    def __init__(
        self,
        folder: Path,
        limit_bytes: int,
        *,
        limit_records: int = 200_000,
        on_fault: Callable[[str], None] = _unheard,
    ) -> None:
        self._folder, self._limit_records, self._on_fault = folder, limit_records, on_fault
        self._room = Room(folder, limit_bytes)
        self._verified: dict[str, Signature] = {}
        self._new_records = 0
        try:
            self._ready()
            self._room.look()
        except OSError as error:
            raise StoreRefused(f"cannot make the cache folder {folder}: {error.strerror or error}") from error

    @property
    def folder(self) -> Path:
        """Where it is; files beside `blobs` and `records` are left alone."""
        return self._folder

    def size_bytes(self) -> int:
        """Bytes of all blobs, as this process last heard of them."""
        return self._room.last_known

    async def get(self, digest: str, bound: Bound = ANY_BLOB) -> bytes | None:
        """The bytes of this digest, checked, or None, also for more than `bound` allows; damaged ones are removed."""
        return await self._tried(self._get, digest, bound, otherwise=None)

    async def path(self, digest: str, bound: Bound = ANY_BLOB) -> Path | None:
        """The file with the bytes of this digest, or None; checked once by this process, and damaged ones are removed.

        The file may be evicted at any moment: map it at once (mapped pages stay), and ask again when it is gone. None
        also where it is larger than `bound` allows.
        """
        return await self._tried(self._path, digest, bound, otherwise=None)

    async def found(self, digest: str) -> Path | None:
        """The file kept under this digest, or None; not checked, for who has a faster checksum of its bytes.

        Whoever finds it damaged calls `damaged`. It may be evicted at any moment, as with `path`.
        """
        return await self._tried(self._found, digest, otherwise=None)

    async def used(self, digests: Sequence[str]) -> None:
        """Note that these blobs serve, though nobody reads them: the evictor takes others first.

        Args:
            digests: Those that matter most at the end, for what was used last goes last. Absent ones stay absent.
        """
        await self._tried(self._used, list(digests), otherwise=None)

    async def damaged(self, digest: str) -> None:
        """Remove the file kept under this digest, and tell of it."""
        await self._tried(lambda faults: _remove(self._blob(digest), faults), otherwise=None)

    async def put(self, digest: str, content: bytes) -> None:
        """Keep a blob, making room for it; not one that is no such blob or larger than the limit."""
        await self._tried(self._put, digest, content, otherwise=None)

    async def read_record(self, key: str) -> Versioned | None:
        """The record that was kept last, or None; a damaged one is removed."""
        return (await self.recall([key])).get(key)

    async def write_record(self, key: str, versioned: Versioned) -> None:
        """Keep one record."""
        await self.keep({key: versioned})

    async def recall(self, keys: Sequence[str]) -> dict[str, Versioned | None]:
        """What was kept last under these keys.

        Returns:
            Key to the record, or to None where it was kept that there is none; keys that nothing is kept of are left
            out.
        """
        return await self._tried(self._recall, keys, otherwise={})

    async def keep(self, found: Mapping[str, Versioned | None], asked_ns: int | None = None) -> None:
        """Keep records as the truth gave them.

        Args:
            found: Key to the record, or to None where there is none.
            asked_ns: When the truth was asked (`time.time_ns`): an answer does not replace a later generation that
                another worker kept since. Without it, it replaces any.
        """
        await self._tried(self._keep, dict(found), asked_ns, otherwise=None)

    async def _tried(self, work: Callable[..., T], *arguments: object, otherwise: T) -> T:
        faults: list[str] = []
        try:
            return await asyncio.to_thread(work, *arguments, faults)
        except (OSError, StoreRefused) as error:
            faults.append(f"the disk cache is skipped: {error}")
            return otherwise
        finally:
            for fault in faults:
                self._on_fault(fault)

    def _ready(self) -> None:
        """The folder is there and ours; who deleted it gets it anew, who planted another in its place is refused."""
        try:
            state = self._folder.stat()
        except FileNotFoundError:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            state = self._folder.stat()
        refuse_strangers(self._folder, state)
        if state.st_mode & 0o077:
            self._folder.chmod(0o700)

    def _blob(self, name: str) -> Path:
        return self._folder / "blobs" / name[:2] / name

    def _get(self, name: str, bound: Bound, faults: list[str]) -> bytes | None:
        self._ready()
        path = self._blob(name)
        try:
            with path.open("rb") as file:
                state = os.fstat(file.fileno())
                if state.st_size > bound.size_bytes:
                    return None
                content = file.read(state.st_size)
        except FileNotFoundError:
            return None
        if digest(content) != name:
            _remove(path, faults)
            return None
        _touch(path, state)
        return content

    def _path(self, name: str, bound: Bound, faults: list[str]) -> Path | None:
        self._ready()
        path = self._blob(name)
        try:
            state = path.stat()
            if state.st_size > bound.size_bytes:
                return None
            signature = (state.st_ino, state.st_mtime_ns, state.st_size)
            if self._verified.get(name) != signature:
                if _digest_of(path) != name:
                    _remove(path, faults)
                    return None
                self._verified[name] = signature
            _touch(path, state)
        except FileNotFoundError:
            self._verified.pop(name, None)
            return None
        return path

    def _found(self, name: str, faults: list[str]) -> Path | None:
        self._ready()
        path = self._blob(name)
        try:
            _touch(path, path.stat())
        except FileNotFoundError:
            return None
        return path

    def _used(self, names: Sequence[str], faults: list[str]) -> None:
        for name in names:
            self._found(name, faults)

    def _put(self, name: str, content: bytes, faults: list[str]) -> None:
        if len(content) > self._room.limit_bytes or digest(content) != name:
            return
        self._ready()
        path = self._blob(name)
        if path.is_file() and path.stat().st_size == len(content):
            return  # another worker was first; were it damaged, reading would remove it
        with self._room.reserved(len(content)):
            self._write(path, content)

    def _write(self, path: Path, content: bytes) -> None:
        for last in (False, True):
            try:
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                return write_durably(path, content)
            except FileNotFoundError:  # the folder was deleted between the two
                if last:
                    raise
                self._ready()
        return None

    def _record(self, key: str) -> Path:
        return self._folder / "records" / digest(key.encode())[:2] / quote(key, safe=":=")

    def _recall(self, keys: Sequence[str], faults: list[str]) -> dict[str, Versioned | None]:
        self._ready()
        found: dict[str, Versioned | None] = {}
        for key in keys:
            path = self._record(key)
            try:
                found[key] = _parsed(key, path.read_bytes())
            except FileNotFoundError:
                continue
            except ValueError:
                _remove(path, faults)
        return found

    def _keep(self, found: Mapping[str, Versioned | None], asked_ns: int | None, faults: list[str]) -> None:
        self._ready()
        for key, versioned in found.items():
            path, content = self._record(key), _written(key, versioned)
            try:
                held = path.read_bytes()
            except FileNotFoundError:
                self._new_records += 1
            else:
                if held == content or (asked_ns is not None and _is_later(key, path, held, versioned, asked_ns)):
                    continue
            self._write(path, content)
        if self._new_records >= max(1, min(_RECORDS_BETWEEN_SWEEPS, self._limit_records // 8)):
            self._new_records = 0
            self._sweep_records()

    def _sweep_records(self) -> None:
        with self._room.evictor() as mine:
            # counted first: the time of each of many records costs far more than their names
            if mine and count(self._folder / "records") > self._limit_records:
                kept = oldest(self._folder / "records", "st_mtime_ns")
                going = [file.path for file in kept if "%2F" in file.path.name]
                going.sort(key=lambda path: (not path.name.startswith(_PREPARED), path.name.startswith(_TABLES)))
                for path in going[: max(0, len(kept) - self._limit_records * 7 // 8)]:
                    path.unlink(missing_ok=True)


def refuse_strangers(folder: Path, state: os.stat_result) -> None:
    """Refuse a cache folder that somebody else could write to: records there carry no proof of who wrote them.

    Raises:
        StoreRefused: It is no folder, not ours, or others may write to it.
    """
    if not stat.S_ISDIR(state.st_mode):
        raise StoreRefused(f"the cache folder {folder} is no folder: choose another")
    if state.st_uid != os.geteuid():
        raise StoreRefused(f"the cache folder {folder} belongs to user {state.st_uid}, not to us: choose another")
    if state.st_mode & 0o022:
        raise StoreRefused(f"the cache folder {folder} can be written by others: chmod 700 it, or choose another")


def _digest_of(path: Path) -> str:
    """Read piece by piece: a file of a bundle may be larger than what memory is left for it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _touch(path: Path, state: os.stat_result) -> None:
    now = time.time_ns()
    if now - state.st_atime_ns > _TOUCH_NS:
        with suppress(FileNotFoundError):  # evicted since it was read
            os.utime(path, ns=(now, state.st_mtime_ns))


def _remove(path: Path, faults: list[str]) -> None:
    path.unlink(missing_ok=True)
    faults.append(f"{path.name} was damaged in the disk cache, and is removed")


def _written(key: str, versioned: Versioned | None) -> bytes:
    content = canonical_json(
        {
            "key": key,
            "record": versioned.record if versioned else None,
            "version": versioned.version if versioned else None,
        }
    )
    return digest(content).encode() + b"\n" + content


def _parsed(key: str, content: bytes) -> Versioned | None:
    named, _, rest = content.partition(b"\n")
    if digest(rest).encode() != named:
        raise ValueError(f"the kept record {key!r} is damaged")
    kept = parse_json(rest)
    if not isinstance(kept, dict) or kept.get("key") != key:
        raise ValueError(f"the kept record {key!r} is another's")
    return None if kept["record"] is None else Versioned(kept["record"], kept["version"])


def _is_later(key: str, path: Path, held: bytes, versioned: Versioned | None, asked_ns: int) -> bool:
    """Whether what is held was kept after the truth was asked, and is of a later generation."""
    try:
        if path.stat().st_mtime_ns <= asked_ns:
            return False
        other = _parsed(key, held)
    except (FileNotFoundError, ValueError):
        return False
    return other is not None and other.record["generation"] > (versioned.record["generation"] if versioned else 0)
