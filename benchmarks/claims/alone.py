"""A server alone on one core, and the client that measures it on the other.

Affinity keeps what we start away from them, but not what the machine itself runs (here an agent that takes 8.5 ms each
second of whichever core is idle). So both have a real-time priority, where that is permitted. Within the server its
threads then take turns as equals: the loader's lower priority counts only in the ordinary class.
"""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Iterator
from pathlib import Path

from benchmarks.claims.workplace import Server

SERVER_CORE, OTHER_CORE = 0, 1


def schedule(pid: int, policy: int, priority: int = 0) -> None:
    """Give every thread of a process a class of scheduling; threads that it starts later have it too."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
            os.sched_setscheduler(int(thread.name), policy, os.sched_param(priority))


def let_the_client_go_first(pid: int) -> None:
    """Run every thread of a process only when nobody else wants its core.

    What the client that measures waits for there, would count against the server, which has a core of its own.
    """
    schedule(pid, os.SCHED_IDLE)


@contextlib.contextmanager
def undisturbed(server: Server) -> Iterator[bool]:
    """The server and this process before all else on their cores; whether that is permitted here."""
    try:
        schedule(server.pid, os.SCHED_FIFO, 1)
    except PermissionError:
        yield False
        return
    schedule(os.getpid(), os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, 1)  # what it starts is ordinary
    try:
        yield True
    finally:
        schedule(os.getpid(), os.SCHED_OTHER)
        schedule(server.pid, os.SCHED_OTHER)


@contextlib.contextmanager
def apart() -> Iterator[None]:
    """This process and all that it starts on one core; a server with a core of its own has the other."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {OTHER_CORE})
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        os.sched_setaffinity(0, before)


def named(permitted: bool) -> str:
    """How lines call what `undisturbed` gave."""
    return "server and client at real-time priority" if permitted else "in the ordinary class (no other is permitted)"
