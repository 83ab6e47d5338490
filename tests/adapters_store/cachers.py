"""A worker of a replica, as the disk cache's tests run it: fills and reads a cache together with others."""

from __future__ import annotations

import asyncio
import random
import sys
from pathlib import Path

from adapters_store.backend import Versioned
from adapters_store.canonical import digest
from adapters_store.disk import DiskCache


def blob(i: int) -> bytes:
    """The i-th blob, 10,000 bytes."""
    return i.to_bytes(4, "big") * 2500


async def work(folder: Path, seed: int, times: int, limit_bytes: int) -> None:
    """Put and get blobs drawn from a few, and one record; says how many reads were right, and every fault."""
    faults: list[str] = []
    cache, draw, right = DiskCache(folder, limit_bytes, on_fault=faults.append), random.Random(seed), 0
    for turn in range(times):
        content = blob(draw.randrange(200))
        name = digest(content)
        found = await cache.get(name)
        if found is None:
            await cache.put(name, content)
        right += found in (None, content)
        await cache.write_record("domain/shared", Versioned({"generation": turn + 1, "by": "x" * 5000}, f"v{turn}"))
        kept = await cache.read_record("domain/shared")
        right += kept is not None and kept.record["by"] == "x" * 5000
    print(right, faults)


if __name__ == "__main__":
    asyncio.run(work(Path(sys.argv[1]), *map(int, sys.argv[2:])))
