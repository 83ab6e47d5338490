"""Programs that the file backend's tests run as processes of their own, and kill."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import sys
import time
from pathlib import Path

from adapters_store.canonical import digest
from adapters_store.file import FileBackend
from adapters_store.store import AdapterStore

DOMAIN = "theme-1"


def blob(i: int) -> bytes:
    """The i-th blob: large enough that a kill can fall into its writing."""
    return i.to_bytes(8, "big") * 60_000


async def increment(folder: Path, me: int, times: int) -> None:
    """Change one domain `times` times, retrying lost races."""
    store = AdapterStore(FileBackend(folder), time.time)
    own = [await store.put(f"{me} {parity}".encode()) for parity in range(2)]
    for i in range(times):
        # in turn, so that each call is a change unless another process has just set the same: none does
        await store.set_live(DOMAIN, "theme", own[i % 2], by=str(me))


async def write_for_ever(folder: Path) -> None:
    """Put blobs and bump a record until killed, saying each promise on stdout once it was given."""
    backend = FileBackend(folder)
    while True:
        held = await backend.read_record("domain/crash")
        generation = held.record["generation"] if held else 0
        await backend.put_blob(digest(blob(generation)), blob(generation))
        padding = f"{generation + 1} " * 4000
        assert await backend.compare_and_set("domain/crash", generation, {"generation": generation + 1, "p": padding})
        print(generation + 1, flush=True)


def hold_locks(folder: Path) -> None:
    """Hold every lock of the store until killed."""
    for path in (folder / "locks").iterdir():
        fcntl.flock(os.open(path, os.O_RDWR), fcntl.LOCK_EX)
    print("held", flush=True)
    signal.pause()


if __name__ == "__main__":
    program, folder, *numbers = sys.argv[1:]
    if program == "increment":
        asyncio.run(increment(Path(folder), *map(int, numbers)))
    elif program == "hold":
        hold_locks(Path(folder))
    else:
        asyncio.run(write_for_ever(Path(folder)))
