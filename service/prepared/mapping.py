"""Files mapped into memory, at most so many at once: each mapping holds a file descriptor as long as it lives.

Past the bound they are read, into memory that is aligned as a mapping is.
"""

from __future__ import annotations

import mmap
import os
import resource
import threading
import weakref
from pathlib import Path

import numpy as np

_SHARE = 4  # of the descriptors that the process may have; requests need theirs
_LINE_BYTES = 64  # what engines adopt begins at a cache line
_AT_MOST = 16_384  # the kernel's own bound of mappings (vm.max_map_count) is 65,530 by default


class Mappings:
    """The mappings of one process that something still uses.

    Args:
        limit: how many there may be at once; by default a quarter of the file descriptors.
    """

    def __init__(self, limit: int | None = None) -> None:
        self._limit = min(_AT_MOST, _descriptors() // _SHARE) if limit is None else limit
        self._count = 0
        self._lock = threading.RLock()

    def __len__(self) -> int:
        return self._count

    @property
    def has_room(self) -> bool:
        """Whether one more may be made."""
        return self._count < self._limit

    def open(self, path: Path) -> memoryview | None:
        """The bytes of a file, read-only; they stay as they are when its name is removed.

        Returns:
            None where the file is gone, is empty, or the system refuses.
        """
        try:
            with path.open("rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError):  # an empty file cannot be mapped
            return None
        self._add(1)
        weakref.finalize(mapped, self._add, -1).atexit = False
        return memoryview(mapped)

    def _add(self, step: int) -> None:
        with self._lock:  # arrays die on any thread, and perhaps in the middle of this one
            self._count += step


def read_aligned(path: Path) -> memoryview:
    """The bytes of a file, read-only, in memory of our own that begins at a cache line.

    Raises:
        OSError: the file system refuses.
    """
    with path.open("rb") as file:
        size_bytes = os.fstat(file.fileno()).st_size
        memory = np.empty(size_bytes + _LINE_BYTES, np.uint8)
        start = -memory.ctypes.data % _LINE_BYTES
        view = memory.data[start : start + size_bytes]
        return view[: file.readinto(view)].toreadonly()


def _descriptors() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _SHARE * _AT_MOST if soft == resource.RLIM_INFINITY else soft
