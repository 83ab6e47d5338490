"""A process that takes feedback until it is killed: `python -m tests.service.feedback.appender FOLDER [hold]`.

It prints the number of each event once that is acknowledged. With `hold`, the sync after the fifth one says so and
never returns.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from pathlib import Path

from tests.service.feedback.parts import desk, event


def holding(descriptor: int) -> None:
    """Sync five times; then write is done and the acknowledgement never comes."""
    if next(_COUNT) < 5:
        os.fsync(descriptor)
        return
    print("holding", flush=True)
    threading.Event().wait()


_COUNT = iter(range(1000))


async def main(folder: Path, hold: bool) -> None:
    """Append one event after the other, ten at a time."""
    with desk(folder, segment_bytes=20_000, sync=holding if hold else os.fsync) as one:
        for start in range(0, 1_000_000, 10):
            numbers = range(start, start + 10)
            await asyncio.gather(
                *(one.journal.append([event(number, user_id=1, domain_id="d")], "app") for number in numbers)
            )
            print(*numbers, flush=True)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2:] == ["hold"]))
