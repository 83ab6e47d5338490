"""Memory, start-up and imports of the service process on the MovieLens bundle with 1,000 adapters."""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np

from adapters_store.store import AdapterStore
from adapters_store.urls import open_backend
from benchmarks.claims.line import Line, at_most, exactly
from benchmarks.claims.served import last_epoch_run, publish_run
from benchmarks.claims.workplace import ROOT, Server, Workplace, serving
from benchmarks.forge import Run, forge
from benchmarks.oracle_files import Array

DOMAINS = 1000
STARTS = 9


def tenant(number: int) -> str:
    """Name of one more natural domain."""
    return f"tenant-{number:04d}"


async def fill(url: str, run: Run) -> None:
    """1,000 fused [8,8] adapters, all different, straight into the store."""
    oracle, auxiliaries, fusion = run.oracle, run.auxiliaries(), run.fusion()
    source = run.natural("attention")[run.domains[0]].read_bytes()
    store = AdapterStore(open_backend(url), time.time)
    for number in range(DOMAINS):

        def edit(tensors: dict[str, Array], manifest: dict[str, Any], number: int = number) -> None:
            manifest["domain"] = tenant(number)
            rng = np.random.default_rng(number)
            noise = rng.normal(0, 1e-3, tensors["tower.0.shift"].shape)
            tensors["tower.0.shift"] = (tensors["tower.0.shift"] + noise).astype(np.float32)

        revision = await store.put(forge(source, edit, oracle, auxiliaries, fusion))
        await store.set_live(tenant(number), run.natural_division, revision, by="claims")


def score_all(server: Server, run: Run) -> int:
    """Score every tenant once, with 100 items; how many were served by their own adapter."""
    oracle = run.oracle
    user, items = next(iter(oracle.index["user"])), list(oracle.index["item"])[:100]
    own = 0
    with httpx.Client(base_url=server.url, headers=server.headers, timeout=30) as client:
        for number in range(DOMAINS):
            body = {"user_id": user, "domain_id": tenant(number), "item_ids": items}
            served = client.post("/score", json=body).raise_for_status().json()["served"]
            own += served["fallback"] is None
    return own


def lines(work: Workplace) -> Iterator[Line]:
    """The footprint lines."""
    run = last_epoch_run(work)
    url = publish_run(work, run)
    asyncio.run(fill(url, run))
    starts = []
    for _ in range(STARTS):
        with serving(work, url) as server:
            starts.append(server.started_in_s)
    with serving(work, url) as server:
        own = score_all(server, run)
        resident, torch = server.resident_bytes / 2**20, server.maps("libtorch")
    yield exactly("domains scored by their own adapter, all resident", own, DOMAINS)
    yield at_most("resident memory with 1,000 fused adapters of [8,8]", resident, 350, " MiB", 0)
    spread = f"{min(starts):.2f} to {max(starts):.2f}"
    yield at_most(f"start to ready, median of {STARTS} ({spread} s)", statistics.median(starts), 3, " s", 2)
    yield exactly("torch mapped into the serving process", torch, False)
    code = "import sys, service.app, service.replica; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT)
    yield exactly("torch imported by the service's modules", bool(done.returncode), False)
