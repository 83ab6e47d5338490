"""One of several processes prepares an adapter while the others wait a moment for what it leaves.

A turn is a lock on one byte of one file (fcntl(2)), whose place is the adapter's revision: nothing is made or removed
for it, and a process that dies gives its turns back. It saves work and nothing depends on it: whoever waited too long
prepares as well.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections import Counter
from pathlib import Path

_POLL_S = 0.002
_HEX_DIGITS = 15  # of a revision: an offset in a file is a signed number of 64 bits


class Turn:
    """A process's turn with one revision.

    Args:
        turns: gave it.
        revision: of the adapter.
        waited: another process had it first.
    """

    __slots__ = ("_revision", "_turns", "waited")

    def __init__(self, turns: Turns | None, revision: str, waited: bool) -> None:
        self._turns, self._revision, self.waited = turns, revision, waited

    def handed_on(self) -> Turn:
        """The same turn for somebody else to end; this one ends nothing any more."""
        turns, self._turns = self._turns, None
        return Turn(turns, self._revision, self.waited)

    def end(self) -> None:
        """Let the next one in; ending again changes nothing."""
        turns, self._turns = self._turns, None
        if turns is not None:
            turns.give_back(self._revision)


class Turns:
    """Gives turns; used on the event loop only.

    Args:
        path: the file of locks, made when it is first needed. Nothing else of this process may open it: closing any
            descriptor of it would end all turns.
        patience_s: the longest that one waits for another process.
    """

    def __init__(self, path: Path, patience_s: float) -> None:
        self._path = path
        self._patience_s = patience_s
        self._descriptor: int | None = None
        self._held: Counter[str] = Counter()

    async def take(self, revision: str, *, wait: bool = True) -> Turn:
        """A turn with a revision.

        Args:
            revision: of the adapter.
            wait: for another process, up to `patience_s`; then, or where the system has no locks, the turn is one that
                keeps nobody out.
        """
        loop = asyncio.get_running_loop()
        until, waited = loop.time() + (self._patience_s if wait else 0.0), False
        try:
            descriptor = self._file()
        except OSError:
            return Turn(None, revision, waited)
        while True:
            try:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _place(revision))
            except (BlockingIOError, PermissionError):  # either may say that another process has it
                if loop.time() >= until:
                    return Turn(None, revision, waited=True)
            except OSError:
                return Turn(None, revision, waited)
            else:
                self._held[revision] += 1
                return Turn(self, revision, waited)
            waited = True
            await asyncio.sleep(_POLL_S)

    def give_back(self, revision: str) -> None:
        """Called by a turn that ends; the last one of this process with a revision lets others in."""
        self._held[revision] -= 1
        if self._held[revision] <= 0:
            del self._held[revision]
            if self._descriptor is not None:  # else all have ended
                fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, _place(revision))

    def close(self) -> None:
        """End all turns."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def _file(self) -> int:
        if self._descriptor is None:
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        return self._descriptor


def _place(revision: str) -> int:
    return int(revision[:_HEX_DIGITS], 16)
