"""The one segment that this process appends to."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from adapters_store.durable import sync_folder
from adapters_store.feedback_lines import OPEN
from service.feedback.folder import SegmentFolder, create_locked

_ATTEMPTS = 5


class SegmentWriter:
    """Appends lines; `sync` makes them durable. Used by one thread.

    Args:
        folder: where segments are.
        writer: names this process in file names.
        segment_bytes: size past which a segment is closed.
        segment_s: age past which it is closed, seconds.
        now: seconds since 1970.
        sync: makes a descriptor's bytes durable.
    """

    def __init__(
        self,
        folder: SegmentFolder,
        writer: str,
        *,
        segment_bytes: int,
        segment_s: float,
        now: Callable[[], float],
        sync: Callable[[int], None] = os.fsync,
    ) -> None:
        self._folder = folder
        self.name = re.sub(r"[^A-Za-z0-9_:=.-]", "-", writer)[:128]
        self._segment_bytes = segment_bytes
        self._segment_s = segment_s
        self._now = now
        self._sync = sync
        self._descriptor: int | None = None
        self._path = Path()
        self._size_bytes = 0
        self._opened_at = 0.0

    def append(self, content: bytes) -> None:
        """Write whole lines, in a new segment if the old one would grow too large by them.

        Raises:
            OSError: the disk refuses; call `abandon` then.
        """
        if self._size_bytes and self._size_bytes + len(content) > self._segment_bytes:
            self.close()
        if self._descriptor is None:
            self._open()
        assert self._descriptor is not None
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]
        self._size_bytes += len(content)

    def sync(self) -> None:
        """Make durable what was appended.

        Raises:
            OSError: the disk refuses; call `abandon` then.
        """
        if self._descriptor is not None:
            self._sync(self._descriptor)

    def close_if_old(self) -> None:
        """Close the segment if it has been open for long.

        Raises:
            OSError: the disk refuses.
        """
        if self._descriptor is not None and self._now() - self._opened_at >= self._segment_s:
            self.close()

    def close(self) -> None:
        """Make the segment durable and close it; the next line opens another.

        Raises:
            OSError: the disk refuses; the segment is left to whoever closes orphans.
        """
        if self._descriptor is None:
            return
        try:
            self._sync(self._descriptor)
            self._folder.settle(self._path)
        finally:
            self._let_go()

    def abandon(self) -> None:
        """Leave the segment to whoever closes orphans: after a failed write or sync nobody knows how its end looks."""
        self._let_go()

    def _open(self) -> None:
        opened_at = self._now()
        stamp = datetime.fromtimestamp(opened_at, UTC).strftime("%Y%m%dT%H%M%S%f")[:-3] + "Z"
        for attempt in range(_ATTEMPTS):
            path = self._folder.path / f"{stamp}-{self.name}-{secrets.token_hex(4)}{OPEN}"
            try:
                self._descriptor = create_locked(path)
                break
            except (FileExistsError, BlockingIOError):
                if attempt == _ATTEMPTS - 1:
                    raise
        self._path, self._size_bytes, self._opened_at = path, 0, opened_at
        # the name lives in the folder: lines of a file that a crash forgets are not durable
        sync_folder(self._folder.path)

    def _let_go(self) -> None:
        descriptor, self._descriptor, self._size_bytes = self._descriptor, None, 0
        if descriptor is not None:
            with suppress(OSError):
                os.close(descriptor)
