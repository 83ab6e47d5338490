"""Which cores the engine's threads run on: the list of the setting, each worker's part, and the binding itself."""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Sequence

from service.errors import EngineFailed
from service.refusals import SettingsInvalid

ALL = "all"
_SPAN = "[0-9]{1,4}(-[0-9]{1,4})?"
FORM = rf"^({ALL}|{_SPAN}(, ?{_SPAN})*)?$"
"""What a list looks like, as a regular expression that the chart's schema has too."""


def usable() -> tuple[int, ...]:
    """The cores that the calling thread may run on, ascending; none where threads cannot be bound to any."""
    return tuple(sorted(os.sched_getaffinity(0))) if sys.platform == "linux" else ()


def named(text: str) -> tuple[int, ...]:
    """The cores that a list names, in its order.

    Args:
        text: numbers and ranges, such as `2-5,8`; `all` names those that may be used, an empty list none.

    Raises:
        SettingsInvalid: it is no such list, or has a core twice; which setting it stood in is the caller's to say.
    """
    if re.fullmatch(FORM, text) is None:
        raise SettingsInvalid(f"{text[:60]!r} is no list of cores: write numbers and ranges, such as 2-5,8, or {ALL}")
    if text == ALL:
        return usable()
    cpus: list[int] = []
    for span in filter(None, text.replace(" ", "").split(",")):
        first, _, last = span.partition("-")
        if int(last or first) < int(first):
            raise SettingsInvalid(f"{span} runs backwards: write {last}-{first}")
        cpus += range(int(first), int(last or first) + 1)
    twice = sorted(cpu for cpu, times in Counter(cpus).items() if times > 1)
    if twice:
        raise SettingsInvalid(f"core {listed(twice)} is named more than once: a core takes one engine thread")
    return tuple(cpus)


def listed(cpus: Iterable[int]) -> str:
    """Cores as `named` reads them: runs that ascend by one as ranges, in the order given."""
    runs: list[tuple[int, int]] = []
    for cpu in cpus:
        if runs and cpu == runs[-1][1] + 1:
            runs[-1] = runs[-1][0], cpu
        else:
            runs.append((cpu, cpu))
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def shares(text: str, *, workers: int, threads: int, allowed: Sequence[int] | None = None) -> list[tuple[int, ...]]:
    """The list shared out: the first worker takes its first `threads` cores, the second the next ones, and so on.

    Args:
        text: as `named` takes it.
        workers: that share it.
        threads: of the engine in each of them, one on each core.
        allowed: cores that may be named; if absent, those that the calling thread may run on.

    Returns:
        For each worker (threads) cores, or none where the list is empty.

    Raises:
        SettingsInvalid: it is no list, names cores that this process may not run on, or not one for each thread.
    """
    if not text:
        return [()] * workers
    cpus, allowed = named(text), usable() if allowed is None else allowed
    if not allowed:
        raise SettingsInvalid("engine_cpus: threads can be bound to cores on Linux only; leave it out here")
    forbidden = sorted(set(cpus) - set(allowed))
    if forbidden:
        raise SettingsInvalid(
            f"engine_cpus: this process may run on {listed(allowed)}, not on {listed(forbidden)}: name some of those, "
            "or start it where it may use others (taskset, a container's cpuset)"
        )
    if len(cpus) != workers * threads:
        raise SettingsInvalid(
            f"engine_cpus: {text} is {_count(len(cpus), 'core')}, but {_count(workers, 'worker')} with "
            f"engine_threads: {threads} take {workers * threads}, one for each thread: name exactly so many, or change "
            "workers or engine_threads"
        )
    return [cpus[first : first + threads] for first in range(0, len(cpus), threads)]


def bind(cpus: Sequence[int]) -> None:
    """Bind the calling thread, and every thread that it starts from now on; no cores leave it as it is.

    Raises:
        EngineFailed: the system refuses, as where the process has lost these cores since its start.
    """
    if not cpus or sys.platform != "linux":
        return
    try:
        os.sched_setaffinity(0, cpus)
    except OSError as error:
        raise EngineFailed(
            f"engine_cpus: a thread cannot be bound to {listed(cpus)} ({error.strerror}): this process may run on "
            f"{listed(usable())} now"
        ) from error


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"
