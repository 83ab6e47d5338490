"""16 writers change one domain 50 times each: no change is lost, on any backend."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from adapters_store.backend import Backend
from adapters_store.memory import MemoryBackend
from adapters_store.store import AdapterStore
from adapters_store.urls import open_backend
from benchmarks.claims.ceph import ceph_store
from benchmarks.claims.line import Line, exactly, not_measurable
from benchmarks.claims.servers import Store, every_store
from benchmarks.claims.workplace import ROOT, ClaimError, Workplace

WRITERS = 16
TIMES = 50
DOMAIN = "counted"
# The claim is about what is lost, not about time: sixteen writers and a server on two cores keep each other waiting.
PATIENCE_S = 30.0


async def increment(backend: Backend, me: str, times: int = TIMES) -> None:
    """Change the domain's live so many times, each time to another revision than the writer's last one."""
    store = AdapterStore(backend, time.time)
    own = [await store.put(f"{me} {parity}".encode()) for parity in range(2)]
    for turn in range(times):
        # what is live is another's or the writer's other one, so that every call is a change
        await store.set_live(DOMAIN, "theme", own[turn % 2], by=me)


async def generation(backend: Backend) -> int:
    """The domain's generation afterwards."""
    found = await AdapterStore(backend, time.time).domain(DOMAIN)
    return found.generation if found else 0


def in_memory() -> int:
    """`memory://` lives in one process: 16 threads with a loop each."""
    backend = MemoryBackend()
    threads = [threading.Thread(target=lambda me=me: asyncio.run(increment(backend, str(me)))) for me in range(WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return asyncio.run(generation(backend))


def by_processes(store: Store, folder: Path) -> int:
    """16 processes on one store."""
    environment = {**os.environ, **store.environment}
    os.environ.update(store.environment)

    async def work(change: bool) -> int:
        backend = open_backend(store.url, create=True, timeout_s=PATIENCE_S)
        try:
            return await generation(backend) if not change else 0
        finally:
            await backend.close()

    asyncio.run(work(change=True))
    log = folder / f"increments-{store.name}.log"
    command = [sys.executable, "-m", "benchmarks.claims.store_increments", store.url]
    with log.open("wb") as sink:
        writers = [
            subprocess.Popen([*command, str(me)], cwd=ROOT, env=environment, stdout=sink, stderr=sink)
            for me in range(WRITERS)
        ]
        failed = [writer.wait() for writer in writers]
    if any(failed):
        raise ClaimError(f"{store.name}: the writers ended with {failed}\n{log.read_text()[-3000:]}")
    return asyncio.run(work(change=False))


def lines(work: Workplace) -> Iterator[Line]:
    """A line a backend."""
    claim = f"generation after {WRITERS} processes x {TIMES} changes of one domain"
    yield exactly(f"{claim}, memory (threads)", in_memory(), WRITERS * TIMES)
    with tempfile.TemporaryDirectory() as folder, every_store(Path(folder)) as stores:
        for store in stores:
            yield exactly(f"{claim}, {store.name}", by_processes(store, work.folder), WRITERS * TIMES)
    with ceph_store() as found:
        if isinstance(found, str):
            yield not_measurable(f"{claim}, Ceph RGW", f"= {WRITERS * TIMES}", found)
        else:
            yield exactly(f"{claim}, {found.name}", by_processes(found, work.folder), WRITERS * TIMES)


async def write(url: str, me: str) -> None:
    """One writer, which leaves its store as every command does: closed."""
    backend = open_backend(url, timeout_s=PATIENCE_S)
    try:
        await increment(backend, me)
    finally:
        await backend.close()


if __name__ == "__main__":
    asyncio.run(write(sys.argv[1], sys.argv[2]))
