"""Room for blobs in the disk cache: how much is kept, and who goes when it becomes too much."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from adapters_store.durable import TEMPORARY

# What a killed process was writing is removed when surely nobody writes it any more.
_ABANDONED_NS = 3600 * 10**9


@dataclass(frozen=True, slots=True)
class Kept:
    """A file of the cache.

    Args:
        path: Where.
        size_bytes: Its length.
        used_ns: When it was last used (or, for records, written).
    """

    path: Path
    size_bytes: int
    used_ns: int


class Room:
    """The bytes that the blobs of a cache folder may take, over all its processes.

    The number stands in a file, so that nobody has to look at every blob to know whether one more fits. It is put right
    by every sweep, which counts; between two, a crash or a deletion by hand makes it wrong on the safe side only.

    Args:
        folder: Of the cache; it is there when a method is called.
        limit_bytes: Of all blobs.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self._folder, self.limit_bytes = folder, limit_bytes
        self.last_known = 0

    def look(self) -> None:
        """Read the number that the processes before this one left.

        Raises:
            OSError: The file system refuses.
        """
        self._add(0)

    @contextmanager
    def reserved(self, size_bytes: int) -> Iterator[None]:
        """Make room for so many bytes, which the block writes; given back if it fails.

        Raises:
            OSError: The file system refuses.
        """
        total = self._add(size_bytes)
        if total is None or total > self.limit_bytes:
            self._make_room(size_bytes)
        try:
            yield
        except BaseException:
            with suppress(OSError):
                self._add(-size_bytes)
            raise

    @contextmanager
    def evictor(self) -> Iterator[bool]:
        """True for the one process that may remove files now; nobody waits for another to be done."""
        descriptor = os.open(self._folder / "evicting", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            os.close(descriptor)

    def _make_room(self, size_bytes: int) -> None:
        """Remove the least recently used blobs until an eighth of the limit is free, or what is needed."""
        with self.evictor() as mine:
            if not mine:
                return
            before = self._add(0)
            files = oldest(self._folder / "blobs", "st_atime_ns")
            total = sum(file.size_bytes for file in files)
            if total + size_bytes > self.limit_bytes:
                goal = min(self.limit_bytes * 7 // 8, self.limit_bytes - size_bytes)
                for file in files:
                    if total <= goal:
                        break
                    file.path.unlink(missing_ok=True)
                    total -= file.size_bytes
            self._settle(total + size_bytes, before)

    def _settle(self, counted: int, before: int | None) -> None:
        """Write down what was counted, and what others added meanwhile."""
        with self._number() as (descriptor, now):
            meanwhile = now - before if now is not None and before is not None else 0
            self._write(descriptor, max(0, counted + meanwhile))

    def _add(self, size_bytes: int) -> int | None:
        """The number with this added, or None if it is not known."""
        with self._number() as (descriptor, now):
            if now is None:
                return None
            if size_bytes:
                self._write(descriptor, max(0, now + size_bytes))
            self.last_known = max(0, now + size_bytes)
            return self.last_known

    def _write(self, descriptor: int, number: int) -> None:
        os.pwrite(descriptor, b"%20d" % number, 0)  # always as long: no moment at which it is cut short
        self.last_known = number

    @contextmanager
    def _number(self) -> Iterator[tuple[int, int | None]]:
        descriptor = os.open(self._folder / "size", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            text = os.pread(descriptor, 64, 0).strip()
            yield descriptor, int(text) if text.isdigit() else None
        finally:
            os.close(descriptor)


def count(folder: Path) -> int:
    """How many files a folder's sub-folders have; cheap, for only names are read. Abandoned ones are removed.

    Args:
        folder: It may be absent.
    """
    counted = 0
    for part in _entries(folder):
        names = _names(part)
        temporary = [name for name in names if name.startswith(TEMPORARY)]
        counted += len(names) - len(temporary)
        for name in temporary:
            with suppress(FileNotFoundError):
                _remove_abandoned(part / name, (part / name).stat())
    return counted


def oldest(folder: Path, by: str) -> list[Kept]:
    """All files of a folder's sub-folders, the least recently used first. Abandoned ones are removed.

    Args:
        folder: It may be absent.
        by: Which time of a file counts: `st_atime_ns` or `st_mtime_ns`.
    """
    found: list[Kept] = []
    for path in [file for part in _entries(folder) for file in _entries(part)]:
        with suppress(FileNotFoundError):
            state = path.stat()
            if path.name.startswith(TEMPORARY):
                _remove_abandoned(path, state)
            else:
                found.append(Kept(path, state.st_size, getattr(state, by)))
    return sorted(found, key=lambda file: (file.used_ns, file.path.name))


def _remove_abandoned(temporary: Path, state: os.stat_result) -> None:
    if state.st_mtime_ns < time.time_ns() - _ABANDONED_NS:
        temporary.unlink()


def _entries(folder: Path) -> list[Path]:
    return [folder / name for name in _names(folder)]


def _names(folder: Path) -> list[str]:
    """What is in a folder; nothing if it is gone, for a cache may be deleted at any time."""
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
