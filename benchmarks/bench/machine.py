"""Cores and how they are given: one is pinned for what is measured, another is left to whoever asks."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Collection, Iterator


def cores() -> list[int]:
    """Those that this process may use."""
    return sorted(os.sched_getaffinity(0))


def measured_core() -> int:
    """The core on which something is measured alone: the last, as the first serves most interrupts."""
    return cores()[-1]


def client_cores() -> set[int]:
    """Those for clients, away from the measured one where there are others."""
    return set(cores()) - {measured_core()} or set(cores())


@contextlib.contextmanager
def on_cores(chosen: Collection[int]) -> Iterator[None]:
    """Bind this thread, and the processes and threads that it starts inside, to these cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, chosen)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def described() -> str:
    """The processor and its cores, for a report."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
        if names:
            return f"{names[0]}, {len(cores())} cores"
    return f"{platform.machine()}, {len(cores())} cores"
