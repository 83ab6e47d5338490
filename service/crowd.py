"""How many connections each worker has, in memory that all workers of a service share."""

from __future__ import annotations

import mmap
import os
import tempfile
from typing import Self

PORTS = 2  # the main one and the admin one
_ABSENT = 2**32 - 1  # of a worker that takes none
_WIDTH = 4


class Crowd:
    """The counts, one for each worker and port; each worker writes its own.

    Args:
        descriptor: of the memory, which is this object's from now on.
        workers: that share it.
        place: of this worker, from 0; the supervisor, who takes no connections, has none.
    """

    def __init__(self, descriptor: int, workers: int, place: int = 0) -> None:
        self.descriptor = descriptor
        self._workers = workers
        self._place = place
        self._counts = memoryview(mmap.mmap(descriptor, _WIDTH * workers * PORTS)).cast("I")

    @classmethod
    def opened(cls, workers: int) -> Self:
        """Memory in which nobody has told a count yet.

        Raises:
            OSError: the system has none left.
        """
        try:
            descriptor = os.memfd_create("espalier-connections")
        except (AttributeError, OSError):  # another system, or it is not allowed here
            with tempfile.TemporaryFile() as file:
                descriptor = os.dup(file.fileno())
        os.write(descriptor, b"\xff" * (_WIDTH * workers * PORTS))
        return cls(descriptor, workers)

    def tell(self, port: int, own: int) -> None:
        """Let the others know how many connections this worker has on a port."""
        self._counts[port * self._workers + self._place] = own

    def is_ahead(self, port: int) -> bool:
        """Whether another one has fewer there than this worker told."""
        first = port * self._workers
        return min(self._counts[first : first + self._workers]) < self._counts[first + self._place]

    def leave(self, port: int) -> None:
        """This worker takes no more there."""
        self._counts[port * self._workers + self._place] = _ABSENT

    def forget(self, place: int) -> None:
        """The worker of this place is gone, and can no longer say so itself."""
        for port in range(PORTS):
            self._counts[port * self._workers + place] = _ABSENT

    def close(self) -> None:
        """Close the descriptor, once; what is shared lives as long as anyone has it."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
