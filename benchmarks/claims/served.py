"""Served MovieLens scores against the float64 oracle: every domain and mode, alone and inside mixed batches."""

from __future__ import annotations

import asyncio
import functools
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.claims.line import Line, at_least, at_most, exactly
from benchmarks.claims.movielens import prepare, train
from benchmarks.claims.workplace import Server, Workplace, serving
from benchmarks.forge import Run, digest, pins_of
from benchmarks.oracle import Oracle
from benchmarks.oracle_files import AdapterFile

MODES = ("attention", "add", "avg", "single")
DRAWS = 1000
ITEMS = 40
CONCURRENT = 32


@dataclass(frozen=True)
class Draw:
    """One request and the oracle's answers to it."""

    user: str
    domain: str
    items: list[str]
    expected: Any
    backbone: Any
    revision: str


@functools.cache
def last_epoch_run(work: Workplace) -> Run:
    """Adapters of the last epoch: no gate and no early stop has emptied them. Trained once for all groups."""
    changes = {"select": "last_epoch", "gate": {"policy": "none"}, "export_ablations": True}
    folder, _ = train(work, "movielens-1m", 0, prepare(work), "movielens-last-epoch", **changes)
    return Run(folder)


def publish_run(work: Workplace, run: Run) -> str:
    """A fresh file store with the run in it; its URL."""
    folder = work.folder / "served-store"
    shutil.rmtree(folder, ignore_errors=True)
    url = folder.as_uri()
    work.espalier("publish", str(run.folder), "--store", url)
    return url


def draws(run: Run, oracle: Oracle, paths: dict[str, Path], count: int, seed: int) -> list[Draw]:
    """Random (user, domain, items), a few of them unknown to the tables, with what the oracle says."""
    rng = np.random.default_rng(seed)
    users, items = list(oracle.index["user"]), list(oracle.index["item"])
    auxiliaries, fusion = run.auxiliaries(), run.fusion()
    adapters = {domain: AdapterFile(path) for domain, path in paths.items()}
    revisions = {domain: digest(path.read_bytes()) for domain, path in paths.items()}
    out = []
    for i in range(count):
        domain = run.domains[i % len(run.domains)]
        user = "no-such-user" if i % 50 == 49 else str(rng.choice(users))
        chosen = [str(x) for x in rng.choice(items, ITEMS, replace=False)]
        if i % 25 == 24:
            chosen[0] = "no-such-item"
        adapter = adapters[domain]
        expected = oracle.score(user, domain, chosen, adapter, pins_of(adapter, auxiliaries), fusion)
        out.append(Draw(user, domain, chosen, expected, oracle.score(user, domain, chosen), revisions[domain]))
    return out


async def ask(client: httpx.AsyncClient, draw: Draw) -> tuple[float, bool]:
    """Largest error of one answer, and whether it names the revision that was published."""
    body = {"user_id": draw.user, "domain_id": draw.domain, "item_ids": draw.items}
    answer = (await client.post("/score", json=body)).raise_for_status().json()
    error = float(np.abs(np.array(answer["scores"]) - draw.expected).max())
    return error, answer["served"]["revision"] == draw.revision and answer["served"]["fallback"] is None


async def both_ways(server: Server, wanted: list[Draw]) -> tuple[list[tuple[float, bool]], list[tuple[float, bool]]]:
    """Every draw alone, then all again with 32 requests in flight so that batches mix domains."""
    limits = httpx.Limits(max_connections=CONCURRENT)
    async with httpx.AsyncClient(base_url=server.url, headers=server.headers, limits=limits, timeout=30) as client:
        alone = [await ask(client, draw) for draw in wanted]
        mixed: list[tuple[float, bool]] = []
        for start in range(0, len(wanted), CONCURRENT):
            mixed += await asyncio.gather(*(ask(client, draw) for draw in wanted[start : start + CONCURRENT]))
    return alone, mixed


def publish_mode(server: Server, paths: dict[str, Path]) -> None:
    """POST one mode's adapters over HTTP."""
    for domain, path in paths.items():
        body = path.read_bytes()
        url = f"{server.url}/adapters/{domain}?revision={digest(body)}"
        httpx.post(url, content=body, headers=server.headers, timeout=30).raise_for_status()


def lines(work: Workplace) -> Iterator[Line]:
    """1,000 draws over the four modes."""
    run = last_epoch_run(work)
    oracle = run.oracle
    alone: list[tuple[float, bool]] = []
    mixed: list[tuple[float, bool]] = []
    moved: list[bool] = []
    with serving(work, publish_run(work, run)) as server:
        for number, mode in enumerate(MODES):
            paths = run.natural(mode)
            publish_mode(server, paths)
            wanted = draws(run, oracle, paths, DRAWS // len(MODES), seed=number)
            first, second = asyncio.run(both_ways(server, wanted))
            alone, mixed = alone + first, mixed + second
            moved += [bool(np.abs(d.expected - d.backbone).max() > 1e-4) for d in wanted]
            worst = max(error for error, _ in first + second)
            yield at_most(f"served = oracle, mode {mode}, {len(wanted)} draws twice: max |dp|", worst, 2e-6, digits=9)
    yield at_most("served = oracle, 1,000 draws alone: max |dp|", max(e for e, _ in alone), 2e-6, digits=9)
    yield at_most("served = oracle, 1,000 draws in mixed batches: max |dp|", max(e for e, _ in mixed), 2e-6, digits=9)
    yield exactly("answers that name the published revision", sum(named for _, named in alone + mixed), 2 * DRAWS)
    yield at_least("draws that differ from the backbone's by > 1e-4", sum(moved) / len(moved), 0.95)
