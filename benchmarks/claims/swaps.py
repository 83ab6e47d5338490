"""200 swaps of one domain under steady load: each answer equals the oracle for exactly the revision that it names."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np

from benchmarks.claims.line import Line, at_least, at_most, exactly
from benchmarks.claims.served import last_epoch_run, publish_run
from benchmarks.claims.workplace import Server, Workplace, serving
from benchmarks.forge import Run, digest, forge, pins_of
from benchmarks.oracle_files import AdapterFile, Array

SWAPS = 200
WINDOW_S = 10.0
CLIENTS = 4
REQUESTS_PER_S = 200
APART = 1e-3
TOLERANCE = 2e-6


@dataclass(frozen=True)
class Dyes:
    """Revisions of one domain, told apart by any one of the tested rows."""

    domain: str
    requests: list[tuple[str, list[str]]]
    bodies: dict[str, bytes]
    expected: dict[str, list[Array]]

    @property
    def closest(self) -> float:
        """Smallest difference between two revisions on any tested row."""
        rows = np.stack([np.concatenate(answers) for answers in self.expected.values()])
        return float(np.diff(np.sort(rows, axis=0), axis=0).min())


def make_dyes(run: Run, count: int = SWAPS) -> Dyes:
    """Dyes differ in their tensors as well as in their calibration: a response mixing two of them fits neither."""
    oracle, auxiliaries, fusion = run.oracle, run.auxiliaries(), run.fusion()
    domain = run.domains[0]
    source = run.natural("attention")[domain].read_bytes()
    pins = pins_of(AdapterFile(source), auxiliaries)
    requests = middling_requests(run, domain, AdapterFile(source), pins, fusion)
    bodies, expected = {}, {}
    for i, intercept in enumerate(np.linspace(-1.4, 1.4, count)):
        rng = np.random.default_rng(i)

        def dye(
            tensors: dict[str, Array],
            manifest: dict[str, Any],
            intercept: float = float(intercept),
            rng: np.random.Generator = rng,
        ) -> None:
            for name in [n for n in tensors if n.startswith("tower.") and n.endswith(".shift")]:
                noise = rng.normal(0, 3e-5, tensors[name].shape)
                tensors[name] = (tensors[name] + noise).astype(np.float32)
            manifest["calibration"] = {"slope": 1.0, "intercept": intercept}

        body = forge(source, dye, oracle, auxiliaries, fusion)
        file = AdapterFile(body)
        bodies[digest(body)] = body
        expected[digest(body)] = [oracle.score(user, domain, items, file, pins, fusion) for user, items in requests]
    return Dyes(domain, requests, bodies, expected)


def middling_requests(
    run: Run, domain: str, adapter: AdapterFile, pins: dict[str, AdapterFile], fusion: AdapterFile | None
) -> list[tuple[str, list[str]]]:
    """Requests whose probabilities lie near one half, where a step of the intercept shows most."""
    oracle, rng = run.oracle, np.random.default_rng(7)
    users, items = list(oracle.index["user"]), list(oracle.index["item"])
    found: list[tuple[str, list[str]]] = []
    while len(found) < 8:
        user, many = str(rng.choice(users)), [str(i) for i in rng.permutation(items)[:200]]
        scores = oracle.score(user, domain, many, adapter, pins, fusion)
        near = [many[i] for i in np.argsort(np.abs(scores - 0.5))[:10]]
        if abs(scores - 0.5)[[many.index(item) for item in near]].max() < 0.1:
            found.append((user, near))
    return found


@dataclass
class Seen:
    """What the clients saw."""

    statuses: list[int] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)
    strangers: int = 0
    ambiguous: int = 0
    stale: int = 0
    publishes: list[int] = field(default_factory=list)

    def judge(self, dyes: Dyes, number: int, answer: httpx.Response) -> str | None:
        """Check one answer against the oracle of the revision that it names, and of all others."""
        self.statuses.append(answer.status_code)
        if answer.status_code != 200:
            return None
        body = answer.json()
        revision, scores = body["served"]["revision"], np.array(body["scores"])
        if revision not in dyes.expected:
            self.strangers += 1
            return None
        self.errors.append(float(np.abs(scores - dyes.expected[revision][number]).max()))
        fits = [r for r, e in dyes.expected.items() if np.abs(scores - e[number]).max() <= TOLERANCE]
        self.ambiguous += fits != [revision]
        return str(revision)


async def client_loop(
    client: httpx.AsyncClient, dyes: Dyes, stop: asyncio.Event, log: list[tuple[int, httpx.Response]], start: int
) -> None:
    """Steady load on the dyed domain until told to stop: one client's share of it; answers are judged afterwards."""
    i, due = start, time.monotonic()
    while not stop.is_set():
        number = i % len(dyes.requests)
        log.append((number, await score(client, dyes, number)))
        i += 1
        due += CLIENTS / REQUESTS_PER_S
        await asyncio.sleep(max(0.0, due - time.monotonic()))


async def score(client: httpx.AsyncClient, dyes: Dyes, number: int) -> httpx.Response:
    """POST one of the fixed requests."""
    user, items = dyes.requests[number]
    body = {"user_id": user, "domain_id": dyes.domain, "item_ids": items}
    return await client.post("/score", json=body)


async def storm(server: Server, dyes: Dyes, window_s: float = WINDOW_S) -> tuple[Seen, float]:
    """Publish all dyes, evenly over the window, while clients score; after each 201 score once more."""
    seen, stop = Seen(), asyncio.Event()
    log: list[tuple[int, httpx.Response]] = []
    async with httpx.AsyncClient(base_url=server.url, headers=server.headers, timeout=30) as client:
        await publish(client, dyes, next(iter(dyes.bodies)))
        load = [asyncio.create_task(client_loop(client, dyes, stop, log, i)) for i in range(CLIENTS)]
        started = time.monotonic()
        last = started
        revisions = list(dyes.bodies)
        for turn, revision in enumerate([*revisions[1:], revisions[0]]):
            await asyncio.sleep(max(0.0, started + turn * window_s / len(dyes.bodies) * 0.9 - time.monotonic()))
            answer = await publish(client, dyes, revision)
            seen.publishes.append(answer.status_code)
            last = time.monotonic()
            number = turn % len(dyes.requests)
            after = await score(client, dyes, number)
            seen.stale += seen.judge(dyes, number, after) != revision
        stop.set()
        await asyncio.gather(*load)
    for number, answer in log:
        seen.judge(dyes, number, answer)
    return seen, last - started


async def publish(client: httpx.AsyncClient, dyes: Dyes, revision: str) -> httpx.Response:
    """POST one dye."""
    return await client.post(f"/adapters/{dyes.domain}?revision={revision}", content=dyes.bodies[revision])


def lines(work: Workplace) -> Iterator[Line]:
    """The swap lines."""
    run = last_epoch_run(work)
    dyes = make_dyes(run)
    yield at_least("dyes: smallest difference of two revisions on any tested row", dyes.closest, APART, digits=5)
    with serving(work, publish_run(work, run)) as server:
        seen, seconds = asyncio.run(storm(server, dyes))
    yield exactly("swaps of one domain acknowledged with 201", seen.publishes.count(201), SWAPS)
    yield at_most("seconds for the 200 swaps under load", seconds, WINDOW_S, " s", 2)
    total = len(seen.statuses)
    yield exactly(
        f"answers other than 200, of {total} during the swaps ({REQUESTS_PER_S}/s asked for)",
        total - seen.statuses.count(200),
        0,
    )
    yield exactly("answers naming a revision that was never published", seen.strangers, 0)
    worst = max(seen.errors, default=float("nan"))
    yield at_most("max |dp| to the oracle of the revision named", worst, TOLERANCE, digits=9)
    yield exactly("answers that fit another revision as well, or not their own", seen.ambiguous, 0)
    yield exactly("scores right after a 201 that were not by the new revision", seen.stale, 0)
