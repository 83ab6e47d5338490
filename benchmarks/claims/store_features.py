"""A catalogue of 10 million items: what its index costs, how fast ids are found, how soon a delta is live."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adapters_store.cached import CachedBackend
from adapters_store.disk import DiskCache
from adapters_store.store import AdapterStore
from adapters_store.urls import open_backend
from benchmarks.claims import servers
from benchmarks.claims.catalogue import ITEM_FIELDS, Slice, name, write_catalogue
from benchmarks.claims.line import Line, at_most, exactly, measured
from benchmarks.claims.wire import Wire
from benchmarks.claims.workplace import ROOT, ClaimError, Server, Workplace, serving
from features.tables import FeatureTable
from service.tables import load_side

ITEMS = 10_000_000
IDS = 1000
DELTA = 0.01
LIVE_S = 10.0
ROUNDS = 21


def publish(url: str, file: Path, *options: str) -> dict[str, Any]:
    """`espalier features publish`: what it says of the layer.

    Raises:
        ClaimError: it failed.
    """
    command = [str(Path(sys.executable).with_name("espalier")), "features", "publish", str(file), "--store", url]
    done = subprocess.run(
        [*command, "--side", "items", "--json", *options], cwd=ROOT, capture_output=True, text=True, timeout=3600
    )
    if done.returncode:
        raise ClaimError(f"espalier features publish: {done.stdout[-1000:]}{done.stderr[-3000:]}")
    said: dict[str, Any] = json.loads(done.stdout)
    return said


async def publish_bundle(url: str, folder: Path) -> None:
    """The backbone becomes the store's default."""
    store = AdapterStore(open_backend(url, create=True, timeout_s=30), time.time)
    await store.publish_backbone(folder, "claims")
    await store.close()


@dataclass(frozen=True)
class Resolved:
    """What resolving ids costs; seconds are medians over rounds in turn, each with other ids.

    Args:
        extra_bytes: a row of the published file beyond the encoded columns.
        found_s: finding the positions of 1,000 ids.
        resolved_s: finding 1,000 ids and gathering their rows.
        taken_s: numpy's `take` of as many rows from the same columns.
    """

    extra_bytes: float
    found_s: float
    resolved_s: float
    taken_s: float


async def resolving(url: str, cache: Path, items: int, rounds: int) -> Resolved:
    """Measure the published table as a reader maps it."""
    truth = open_backend(url, timeout_s=30)
    reader = AdapterStore(CachedBackend(truth, DiskCache(cache, 8 << 30)), time.time)
    default = (await reader.backbone_record()).default
    assert default is not None
    backbone = await reader.bundle(default)
    record = await reader.feature_record(backbone.fingerprint, "items")
    loaded, revision = await load_side(reader, backbone, "items", record)
    size = len(await reader.map(revision))
    table, rng = loaded.table, np.random.default_rng(1)
    flat = table if isinstance(table, FeatureTable) else table.flat()
    columns = [flat.columns.arrays[f] for f in ITEM_FIELDS]
    extra = (size - sum(column.nbytes for column in columns)) / items
    found, resolved, taken = list[float](), list[float](), list[float]()

    def some() -> list[str]:
        return [name("item", int(number)) for number in rng.integers(0, items, IDS)]

    for _ in range(rounds):
        for seconds, work in ((found, table.find), (resolved, lambda ids: table.gather(table.find(ids)))):
            ids = some()
            began = time.perf_counter()
            work(ids)
            seconds.append(time.perf_counter() - began)
        positions = flat.find(some())
        began = time.perf_counter()
        for column in columns:
            column.take(positions)
        taken.append(time.perf_counter() - began)
    await truth.close()
    return Resolved(extra, *(statistics.median(seconds) for seconds in (found, resolved, taken)))


async def until_live(replicas: Sequence[Server], revision: str, since: float, limit_s: float = 600) -> float:
    """Seconds from `since` until every replica scores with this table of items."""
    for server in replicas:
        async with Wire(server.url, server.headers) as wire:
            while (await wire.score(name("user", 1), "all", [name("item", 7)]))["served"]["features"][
                "items"
            ] != revision:
                await asyncio.sleep(0.02)
                if time.monotonic() - since > limit_s:
                    return float("inf")
    return time.monotonic() - since


def lines(work: Workplace) -> Iterator[Line]:
    """One catalogue, one delta, two replicas on redis+s3 with a disk cache each."""
    items = 200_000 if work.quick else ITEMS
    folder = work.folder / "catalogue"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    with contextlib.ExitStack() as stack:
        valkey, s3 = stack.enter_context(servers.valkey(folder / "valkey")), stack.enter_context(servers.s3())
        url = s3.url("store", "redis+s3", redis=valkey.url)
        os.environ.update(s3.environment)
        write_catalogue(folder / "bundle")
        asyncio.run(publish_bundle(url, folder / "bundle"))
        full = publish(url, Slice(0, items, 1).write(folder / "full.parquet"), "--full")
        cost = asyncio.run(resolving(url, folder / "own-cache", items, ROUNDS))
        yield at_most(
            f"{items:,} items with 4 fields: bytes a row beyond the encoded columns", cost.extra_bytes, 40, " B", 1
        )
        took, taken = f"{1e6 * cost.found_s:.0f} us", f"{1e6 * cost.taken_s:.0f} us"
        claim = f"{IDS} ids resolved to their rows ({took}), over numpy take of these rows ({taken})"
        yield at_most(claim, cost.found_s / cost.taken_s, 5, "x", 2)
        both = f"{cost.resolved_s / cost.taken_s:.2f}x ({1e6 * cost.resolved_s:.0f} us)"
        yield measured(f"{IDS} ids resolved and their rows gathered too, over the same", both)
        replicas = [
            stack.enter_context(serving(work, url, environment=s3.environment, cache_dir=str(folder / f"cache-{i}")))
            for i in range(2)
        ]
        asyncio.run(until_live(replicas, full["revision"], time.monotonic()))
        count = int(items * DELTA)
        delta_file = Slice(items - count // 2, count, 2).write(folder / "delta.parquet")
        since = time.monotonic()
        delta = publish(url, delta_file, "--parent", full["revision"])
        seconds = asyncio.run(until_live(replicas, delta["revision"], since))
        claim = f"a delta of {count:,} items: from the start of its publishing until both replicas score with it"
        yield at_most(claim, seconds, LIVE_S, " s", 1)
        known = asyncio.run(unknown_items(replicas, [name("item", items - 1), name("item", items + 1)]))
        yield exactly("items that a replica does not know, one replaced and one new by the delta", known, 0)


async def unknown_items(replicas: Sequence[Server], items: list[str]) -> int:
    """How many of the items the replicas call unknown."""
    count = 0
    for server in replicas:
        async with Wire(server.url, server.headers) as wire:
            count += len((await wire.score(name("user", 1), "all", items))["unknown_items"])
    return count
