"""`espalier domain add`: from 200 rows to a live score, and what is served held to the oracle."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl

from benchmarks.claims.line import Line, at_least, at_most, measured
from benchmarks.claims.multilora_kinds import SETTINGS
from benchmarks.claims.served import publish_run
from benchmarks.claims.trainings import fresh as folder_of
from benchmarks.claims.workplace import ROOT, ClaimError, Server, Workplace, serving
from benchmarks.forge import Run
from benchmarks.oracle_files import AdapterFile
from training.config import TrainingConfig
from training.pipeline import train_all
from training.prepared import PreparedDataset
from training.sources.synthetic import SyntheticWorld, synthetic

WORLD = SyntheticWorld(seed=3, rows=60_000, users=800, items=250, domains=6, segments=4)
LEFT_OUT = "theme-02"
NEW_IN = 10
"""One id in so many is known to the new domain alone."""
ROWS = 200
BOUND_S = 60.0
WAIT_S = 120.0
REQUESTS, ITEMS = 40, 20


@dataclass(frozen=True)
class Files:
    """What a new domain brings.

    Args:
        rows: of the domain; user_id, item_id, label, hour.
        users: that only it knows.
        items: likewise.
    """

    rows: Path
    users: Path
    items: Path


def lines(work: Workplace) -> Iterator[Line]:
    """A domain with new users and items, then one of known ids whose every id has a row of its own."""
    run, fresh, known = grown(work)
    with serving(work, publish_run(work, run)) as server:
        store = (work.folder / "served-store").as_uri()
        began = time.monotonic()
        told = add(store, "new-theme", fresh, "--gate", "record")
        rows = pl.read_parquet(fresh.rows)
        user, items = str(rows["user_id"][0]), [str(one) for one in rows["item_id"].unique().sort()[:ITEMS]]
        wait_live(server, "new-theme", str(told["revision"]), user, items)
        seconds = time.monotonic() - began
        new = f"{told['added']['users']} new users and {told['added']['items']} new items"
        yield at_most(
            f"`domain add` of {len(rows)} rows with {new}, to a live score of them", seconds, BOUND_S, " s", 1
        )
        yield measured("of this the command; its artifact", f"{told['seconds']:.1f} s; {told['size_bytes']:,} bytes")
        kept = work.folder / "known-theme.safetensors"
        told = add(store, "known-theme", known, "--gate", "record", "--overlay", "all", "--out", str(kept))
        wait_live(server, "known-theme", str(told["revision"]), user_of(known), [])
        worst, moved = farthest(server, run, AdapterFile(kept), known)
        what = f"a domain added with an overlay of {sum(told['overlay'].values())} ids, {REQUESTS} requests"
        yield at_most(f"served = oracle, {what}: max |dp|", worst, 2e-6, digits=9)
        yield at_least(f"{what}: share that the oracle has elsewhere than the backbone", moved, 0.95, digits=3)


def grown(work: Workplace) -> tuple[Run, Files, Files]:
    """A backbone that never saw one theme, nor some users and items; and that theme's rows, with and without them."""
    world = synthetic(WORLD)
    strange = {side: pl.col(f"{side}_id") % NEW_IN == 0 for side in ("user", "item")}
    theme = pl.col("domain_id") == LEFT_OUT
    mine = world.interactions.filter(theme)
    divisions = tuple(
        one.model_copy(update={"domains": tuple(name for name in one.domains if name != LEFT_OUT)})
        if one.natural
        else one
        for one in world.spec.divisions
    )
    data = work.folder / "newcomer-data"
    PreparedDataset(
        world.spec.model_copy(update={"divisions": divisions}),
        world.interactions.filter(~theme, ~strange["user"], ~strange["item"]),
        world.users.filter(~strange["user"]),
        world.items.filter(~strange["item"]),
    ).write(data)
    config = TrainingConfig.model_validate({**SETTINGS, "data": data})
    run = Run(train_all(config, folder_of(work, "newcomer-run"), resume=True))
    strangers = {
        side: getattr(world, f"{side}s").filter(strange[side]).rename({f"{side}_id": "id"}) for side in strange
    }
    some = pl.concat([mine.filter(strange["user"] | strange["item"]).head(ROWS // 4), mine.filter(~strange["user"])])
    return (
        run,
        write(work.folder / "fresh", some.head(ROWS), strangers["user"], strangers["item"]),
        write(work.folder / "known", mine.filter(~strange["user"], ~strange["item"]).head(2 * ROWS), None, None),
    )


def write(folder: Path, rows: pl.DataFrame, users: pl.DataFrame | None, items: pl.DataFrame | None) -> Files:
    """The files of one new domain."""
    folder.mkdir(parents=True, exist_ok=True)
    files = Files(*(folder / f"{name}.parquet" for name in ("rows", "users", "items")))
    rows.select("user_id", "item_id", "label", "hour").write_parquet(files.rows)
    for table, path in ((users, files.users), (items, files.items)):
        if table is not None:
            table.write_parquet(path)
    return files


def add(store: str, name: str, files: Files, *options: str) -> dict[str, Any]:
    """Run the command; what it says of itself.

    Raises:
        ClaimError: it failed.
    """
    command = [str(Path(sys.executable).with_name("espalier")), "domain", "add", name, "--rows", str(files.rows)]
    for side, path in (("--users", files.users), ("--items", files.items)):
        command += [side, str(path)] if path.exists() else []
    done = subprocess.run([*command, "--store", store, "--json", *options], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise ClaimError(f"{' '.join(command)} ended with {done.returncode}\n{done.stderr[-2000:]}")
    content: dict[str, Any] = json.loads(done.stdout)
    return content


def wait_live(server: Server, domain: str, revision: str, user: str, items: Sequence[str]) -> None:
    """Until the replica scores the domain by the revision and knows these ids.

    Raises:
        ClaimError: it does not in time.
    """
    until = time.monotonic() + WAIT_S
    body = {"user_id": user, "domain_id": domain, "item_ids": list(items) or ["1"]}
    answer: dict[str, Any] = {}
    with httpx.Client(base_url=server.url, headers=server.headers, timeout=30) as client:
        while time.monotonic() < until:
            answer = client.post("/score", json=body).raise_for_status().json()
            served = answer["served"]
            known = not items or not (answer["unknown_user"] or answer["unknown_items"])
            if served["revision"] == revision and served["fallback"] is None and known:
                return
            time.sleep(0.05)
    raise ClaimError(f"{domain} was not live in {WAIT_S:g} s; the last answer: {answer}")


def user_of(files: Files) -> str:
    """A user that the rows name."""
    return str(pl.read_parquet(files.rows)["user_id"][0])


def farthest(server: Server, run: Run, adapter: AdapterFile, files: Files) -> tuple[float, float]:
    """How served scores lie, over random requests of the rows' users.

    Returns:
        The largest distance from the oracle's, and the share of requests that the oracle has more than 1e-4 away from
        the backbone's.
    """
    oracle, rng = run.oracle, np.random.default_rng(5)
    users, items = pl.read_parquet(files.rows)["user_id"].unique().sort().to_list(), list(oracle.index["item"])
    domain = str(adapter.manifest["domain"])
    worst, moved = 0.0, 0
    with httpx.Client(base_url=server.url, headers=server.headers, timeout=30) as client:
        for _ in range(REQUESTS):
            user, chosen = str(rng.choice(users)), [str(one) for one in rng.choice(items, ITEMS, replace=False)]
            body = {"user_id": user, "domain_id": domain, "item_ids": chosen}
            scores = client.post("/score", json=body).raise_for_status().json()["scores"]
            expected = oracle.score(user, domain, chosen, adapter)
            worst = max(worst, float(np.abs(np.array(scores) - expected).max()))
            moved += bool(np.abs(expected - oracle.score(user, domain, chosen)).max() > 1e-4)
    return worst, moved / REQUESTS
