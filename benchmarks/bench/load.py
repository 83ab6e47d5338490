"""A closed loop of clients against one server: requests a second, and the client's own share of a core."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.claims.wire import Wire

CONNECTIONS = 16
JSON, MSGPACK = "application/json", "application/x-msgpack"


class NotAnswered(RuntimeError):
    """A server answered something else than 200."""


@dataclass(frozen=True)
class Target:
    """Who is asked.

    Args:
        name: as it is printed.
        url: http://host:port.
        path: of the request.
        bodies: asked in turn.
        kind: their media type.
        headers: of every request.
    """

    name: str
    url: str
    path: str
    bodies: Sequence[bytes]
    kind: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Burst:
    """What one window gave.

    Args:
        seconds: a request, of the window.
        client_share: of one core, that this process took.
    """

    seconds: float
    client_share: float


async def burst(target: Target, seconds: float, connections: int = CONNECTIONS) -> Burst:
    """Ask without pauses on several connections.

    Raises:
        NotAnswered: an answer is not 200.
    """
    bodies, count = itertools.cycle(target.bodies), 0

    async def work(until: float) -> None:
        nonlocal count
        async with Wire(target.url, target.headers) as wire:
            while time.monotonic() < until:
                status, answer = await wire.post(target.path, next(bodies), target.kind)
                if status != 200:
                    raise NotAnswered(f"{target.name}: {status}, {answer[:300].decode(errors='replace')}")
                count += 1

    began, spent = time.monotonic(), time.process_time()
    await asyncio.gather(*(work(began + seconds) for _ in range(connections)))
    took = time.monotonic() - began
    return Burst(took / count, (time.process_time() - spent) / took)


async def once(target: Target) -> list[float]:
    """Each body once, over one connection; seconds of each.

    Raises:
        NotAnswered: an answer is not 200.
    """
    found = []
    async with Wire(target.url, target.headers) as wire:
        for body in target.bodies:
            began = time.perf_counter()
            status, answer = await wire.post(target.path, body, target.kind)
            found.append(time.perf_counter() - began)
            if status != 200:
                raise NotAnswered(f"{target.name}: {status}, {answer[:300].decode(errors='replace')}")
    return found
