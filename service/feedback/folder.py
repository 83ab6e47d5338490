"""The local folder of segments: who holds which, what they take, and what a process left behind."""

from __future__ import annotations

import fcntl
import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from adapters_store.durable import sync_folder
from adapters_store.feedback_lines import SHIPPED, SUFFIX, SegmentName, parse_name

FOLDER_MODE = 0o700
FILE_MODE = 0o600
_BLOCK = 1 << 16
_DAY = re.compile(r"\d{4}-\d\d-\d\d")
# a folder that changed less long ago than a file system's clock may tick could change again unseen
_SETTLED_NS = 2_000_000_000


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment on this disk.

    Args:
        named: what its file name says.
        path: of the file.
        size_bytes: when it was looked at.
    """

    named: SegmentName
    path: Path
    size_bytes: int


class SegmentFolder:
    """Segments of all processes that share a folder. Every method may block and belongs on a thread.

    Args:
        path: of the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # of days that no longer change: what a year leaves behind is not looked at for every sync
        self._days: dict[str, tuple[int, list[Segment]]] = {}

    def prepare(self) -> None:
        """Make the folder, which only its owner may look into; one that is there is closed to others.

        Raises:
            OSError: it cannot be made or written.
        """
        self.path.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        if stat.S_IMODE(self.path.stat().st_mode) & ~FOLDER_MODE:
            # the folder of a mounted volume belongs to somebody else; the files themselves are closed in any case
            with suppress(PermissionError):
                self.path.chmod(FOLDER_MODE)
        if not os.access(self.path, os.R_OK | os.W_OK | os.X_OK):
            raise PermissionError(f"{self.path} cannot be written")

    def segments(self) -> list[Segment]:
        """What is there, oldest first."""
        found = _listed(self.path)
        with os.scandir(self.path) as entries:
            days = [entry.name for entry in entries if _DAY.fullmatch(entry.name)]
        for day in days:
            found += self._of_day(day)
        return sorted(found, key=lambda segment: segment.named.name)

    def _of_day(self, day: str) -> list[Segment]:
        try:
            changed_ns = (self.path / day).stat().st_mtime_ns
            known = self._days.get(day)
            if known is not None and known[0] == changed_ns:
                return known[1]
            segments = _listed(self.path / day)
        except (FileNotFoundError, NotADirectoryError):
            return []
        if time.time_ns() - changed_ns > _SETTLED_NS:
            self._days[day] = changed_ns, segments
        return segments

    def make_room(self, size_bytes: int, keep_bytes: int) -> bool:
        """Whether so many bytes more may be held, after deleting as many shipped segments as that needs, oldest first.

        Args:
            size_bytes: to be written.
            keep_bytes: all that the folder may hold.
        """
        segments = self.segments()
        excess = sum(segment.size_bytes for segment in segments) + size_bytes - keep_bytes
        for segment in segments:
            if excess <= 0:
                break
            if segment.named.state == "shipped":
                segment.path.unlink(missing_ok=True)
                excess -= segment.size_bytes
                if segment.path.parent != self.path:
                    with suppress(OSError):  # others are left in it
                        segment.path.parent.rmdir()
        return excess <= 0

    def close_orphans(self) -> int:
        """Close the open segments whose process is gone, cutting off a line that it could not finish.

        Such a line was never acknowledged: an acknowledgement follows the sync of whole lines.

        Returns:
            How many were closed.
        """
        closed = 0
        for segment in self.segments():
            if segment.named.state == "open":
                with locked(segment.path) as descriptor:
                    if descriptor is not None:
                        _cut_torn_line(descriptor)
                        os.fsync(descriptor)
                        self.settle(segment.path)
                        closed += 1
        return closed

    def settle(self, path: Path) -> None:
        """Move an open segment to the closed ones of its day, or remove it where it is empty.

        Args:
            path: of the segment, whose lock the caller holds.
        """
        named = parse_name(path.name)
        if path.stat().st_size and named is not None:
            day = self.path / named.day
            day.mkdir(mode=FOLDER_MODE, exist_ok=True)
            path.rename(day / (named.name + SUFFIX))
            sync_folder(day)
        else:
            path.unlink()
        sync_folder(self.path)

    def mark_shipped(self, segment: Segment) -> None:
        """Note that the object store has a closed segment."""
        with suppress(FileNotFoundError):  # somebody moved it away meanwhile
            segment.path.rename(segment.path.with_name(segment.named.name + SHIPPED))
            sync_folder(segment.path.parent)


def _listed(path: Path) -> list[Segment]:
    found = []
    with os.scandir(path) as entries:
        for entry in entries:
            named = parse_name(entry.name)
            if named is not None:
                with suppress(FileNotFoundError):
                    found.append(Segment(named, Path(entry.path), entry.stat().st_size))
    return found


@contextmanager
def locked(path: Path) -> Iterator[int | None]:
    """The descriptor of a file that nobody else holds, locked; None where somebody does, or where it is gone."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        yield None
        return
    try:
        yield descriptor if _lock(descriptor) and _still_there(path, descriptor) else None
    finally:
        os.close(descriptor)


def create_locked(path: Path) -> int:
    """Create a file that only its owner may read, and hold its lock until it is closed.

    Raises:
        FileExistsError: it is there.
        BlockingIOError: somebody took it for an orphan before it was locked.
        OSError: the folder refuses.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, FILE_MODE)
    if _lock(descriptor) and _still_there(path, descriptor):
        return descriptor
    os.close(descriptor)
    raise BlockingIOError(f"{path.name} was taken for an orphan")


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _still_there(path: Path, descriptor: int) -> bool:
    """Whether the path still names the file: whoever held the lock before may have renamed or removed it."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _cut_torn_line(descriptor: int) -> None:
    end = os.fstat(descriptor).st_size
    whole = end
    while whole > 0:
        start = max(0, whole - _BLOCK)
        newline = os.pread(descriptor, whole - start, start).rfind(b"\n")
        if newline >= 0:
            whole = start + newline + 1
            break
        whole = start
    if whole < end:
        os.ftruncate(descriptor, whole)
