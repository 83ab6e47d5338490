"""Load on a dyed domain while it is swapped and something breaks; every answer is held to the oracle afterwards."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import httpx
import numpy as np

from benchmarks.claims.swaps import TOLERANCE, Dyes
from benchmarks.claims.workplace import Server
from benchmarks.forge import Run
from benchmarks.oracle_files import Array

REQUESTS_PER_S = 100
CLIENTS = 4
SWAP_EVERY_S = 0.1
DEADLINE_S = 2.0


@dataclass(frozen=True)
class Promise:
    """A publish that was acknowledged."""

    revision: str
    generation: int


@dataclass
class Answer:
    """One answer to a scoring request, or none."""

    number: int
    seconds: float
    status: int
    body: dict[str, object] = field(default_factory=dict)


@dataclass
class Outcome:
    """What the clients and the publisher saw.

    Args:
        answers: to scoring requests.
        publishes: statuses of publishes; 0 is no answer.
        promises: those acknowledged with 2xx, in order.
        late: publishes after the last acknowledged one whose outcome is unknown.
    """

    answers: list[Answer] = field(default_factory=list)
    publishes: Counter[int] = field(default_factory=Counter)
    promises: list[Promise] = field(default_factory=list)
    fallbacks: Counter[str] = field(default_factory=Counter)
    unanswered: int = 0
    wrong: int = 0
    strangers: int = 0

    def judge(self, dyes: Dyes, backbone: list[Array]) -> None:
        """Count what is not 200 within its deadline, by a fallback, of an unnamed revision, or not what it names."""
        for answer in self.answers:
            if answer.status != 200 or answer.seconds > DEADLINE_S:
                self.unanswered += 1
            if answer.status != 200:
                continue
            served = answer.body["served"]
            assert isinstance(served, dict)
            if served["fallback"] is not None:
                self.fallbacks[served["fallback"]] += 1
            revision = served["revision"]
            by_backbone = revision is None and served["fallback"] is not None
            expected = backbone if by_backbone else dyes.expected.get(str(revision))
            if expected is None:
                self.strangers += 1
            elif np.abs(np.array(answer.body["scores"]) - expected[answer.number]).max() > TOLERANCE:
                self.wrong += 1


class Targets:
    """The replicas that take requests now, in turn, as a load balancer hands them out."""

    def __init__(self, servers: list[Server]) -> None:
        self.servers = servers
        self._turn = 0

    def next(self) -> Server:
        """The next one."""
        self._turn += 1
        return self.servers[self._turn % len(self.servers)]


def backbone_scores(run: Run, dyes: Dyes) -> list[Array]:
    """What the backbone alone says to each of the fixed requests."""
    oracle = run.oracle
    return [oracle.score(user, dyes.domain, items) for user, items in dyes.requests]


async def under_load(
    targets: Targets,
    publisher: Server,
    dyes: Dyes,
    seconds: float,
    fault: Callable[[], Awaitable[None]],
) -> Outcome:
    """Score at a steady rate and publish a dye each 100 ms, while `fault` runs.

    Args:
        targets: who is asked to score.
        publisher: who is sent the dyes.
        seconds: how long; the fault must be over by then.
    """
    outcome, stop = Outcome(), asyncio.Event()
    limits = httpx.Limits(max_connections=64, keepalive_expiry=5)
    async with httpx.AsyncClient(timeout=10, limits=limits, headers=publisher.headers) as client:
        await publish(client, publisher, dyes, next(iter(dyes.bodies)), outcome)
        await until_dyed(client, targets, dyes)
        work = [asyncio.create_task(ask(client, targets, dyes, stop, outcome, i)) for i in range(CLIENTS)]
        work.append(asyncio.create_task(swap(client, publisher, dyes, stop, outcome)))
        started = time.monotonic()
        await fault()
        await asyncio.sleep(max(0.0, started + seconds - time.monotonic()))
        stop.set()
        await asyncio.gather(*work)
    return outcome


async def until_dyed(client: httpx.AsyncClient, targets: Targets, dyes: Dyes) -> None:
    """Until every target scores by a dye and no longer by what was published before."""
    user, items = dyes.requests[0]
    body = {"user_id": user, "domain_id": dyes.domain, "item_ids": items}
    for server in targets.servers:
        for _ in range(1000):
            answer = await client.post(f"{server.url}/score", json=body, headers=server.headers)
            if answer.json()["served"]["revision"] in dyes.expected:
                break
            await asyncio.sleep(0.01)


async def ask(
    client: httpx.AsyncClient, targets: Targets, dyes: Dyes, stop: asyncio.Event, outcome: Outcome, start: int
) -> None:
    """One client's share of the steady load."""
    turn, due = start, time.monotonic()
    while not stop.is_set():
        number, server = turn % len(dyes.requests), targets.next()
        user, items = dyes.requests[number]
        body = {"user_id": user, "domain_id": dyes.domain, "item_ids": items}
        began = time.monotonic()
        try:
            answer = await client.post(f"{server.url}/score", json=body, headers=server.headers)
            told = answer.json() if answer.status_code == 200 else {}
            outcome.answers.append(Answer(number, time.monotonic() - began, answer.status_code, told))
        except httpx.TransportError:
            outcome.answers.append(Answer(number, time.monotonic() - began, 0))
        turn += 1
        due += CLIENTS / REQUESTS_PER_S
        await asyncio.sleep(max(0.0, due - time.monotonic()))


async def swap(client: httpx.AsyncClient, server: Server, dyes: Dyes, stop: asyncio.Event, outcome: Outcome) -> None:
    """Publish one dye after the other; one that is late is left out, not caught up with."""
    revisions, turn, due = list(dyes.bodies), 1, time.monotonic()
    while not stop.is_set():
        await publish(client, server, dyes, revisions[turn % len(revisions)], outcome)
        turn += 1
        due = max(due + SWAP_EVERY_S, time.monotonic())
        await asyncio.sleep(max(0.0, due - time.monotonic()))


async def publish(client: httpx.AsyncClient, server: Server, dyes: Dyes, revision: str, outcome: Outcome) -> None:
    """POST one dye and note what came back."""
    url = f"{server.url}/adapters/{dyes.domain}?revision={revision}"
    try:
        answer = await client.post(url, content=dyes.bodies[revision], headers=server.headers)
    except httpx.TransportError:
        outcome.publishes[0] += 1
        return
    outcome.publishes[answer.status_code] += 1
    if answer.is_success:
        outcome.promises.append(Promise(revision, answer.json()["generation"]))
