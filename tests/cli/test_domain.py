"""`espalier domain add` on a file store and the bundle of a random run."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner, Result

from adapters_store.file import FileBackend
from adapters_store.store import AdapterStore
from benchmarks.forge import Run
from cli.domain import app

runner = CliRunner()
NAME = "vegan"
SETTINGS = """
threads: 1
adapter: {ranks: [3, 2]}
schedule: {lr: 0.01, batch_rows: 64, min_batches: 4, epochs: 6, patience: 6, dropout: 0.1}
calibration: {min_rows: 20, min_of_class: 5}
"""


def rows_of(n: int = 240, seed: int = 0) -> dict[str, list[Any]]:
    """Rows of known users and items whose labels both decide, and two ids of each side that are new."""
    rng = np.random.default_rng(seed)
    users = [*map(str, range(1, 39)), "u-new", "90001"]
    items = [f"item-{i}" for i in range(1, 119)] + ["brand new", "x"]
    user, item = rng.integers(0, len(users), n), rng.integers(0, len(items), n)
    taste, appeal = rng.normal(0, 2, len(users)), rng.normal(0, 2, len(items))
    return {
        "user_id": [users[i] for i in user],
        "item_id": [items[i] for i in item],
        "label": (taste[user] + appeal[item] + rng.normal(0, 0.3, n) > 0).astype(int).tolist(),
        "hour": rng.integers(0, 24, n).tolist(),
        "age_days": rng.normal(30, 12, n).tolist(),
    }


NEW_USERS: dict[str, list[Any]] = {"id": ["90001", "u-new", "1"], "segment": ["a", "b", "c"]}
NEW_ITEMS: dict[str, list[Any]] = {"id": ["brand new", "x"], "tags": [["tag 1", "tag 5"], []], "price": [4.0, None]}


@pytest.fixture
def folder(random_run: Run, tmp_path: Path) -> Path:
    """A file store that has the run's bundle as its default; the files of a new domain beside it."""
    store = AdapterStore(FileBackend(tmp_path / "store", create=True), time.time)
    asyncio.run(store.publish_backbone(random_run.folder / "bundle"))
    pl.DataFrame(rows_of()).write_parquet(tmp_path / "rows.parquet")
    pl.DataFrame(NEW_USERS).write_parquet(tmp_path / "users.parquet")
    pl.DataFrame(NEW_ITEMS).write_parquet(tmp_path / "items.parquet")
    (tmp_path / "domain.yaml").write_text(SETTINGS)
    return tmp_path


def add(folder: Path, *options: str, name: str = NAME, files: bool = True) -> Result:
    given = ["--users", str(folder / "users.parquet"), "--items", str(folder / "items.parquet")] if files else []
    common = ["--rows", str(folder / "rows.parquet"), "--config", str(folder / "domain.yaml")]
    return runner.invoke(app, ["add", name, *common, "--store", (folder / "store").as_uri(), *given, *options])


def shown(folder: Path, *options: str, **arguments: Any) -> dict[str, Any]:
    done = add(folder, *options, "--json", **arguments)
    assert done.exit_code == 0, done.output
    content: dict[str, Any] = json.loads(done.stdout)
    return content


def test_one_command_leads_from_rows_to_a_live_adapter(folder: Path) -> None:
    """Law: the adapter is live in the store, carries an overlay of the ids that the backbone lacks, and the new ids
    are in the tables."""
    content = shown(folder)
    assert content["added"] == {"users": 2, "items": 2}
    assert (content["generation"], content["withheld"]) == (1, False)
    assert min(content["overlay"].values()) > 0
    store = AdapterStore(FileBackend(folder / "store"), time.time)
    record = asyncio.run(store.domain(NAME))
    assert record is not None
    assert record.live is not None
    assert record.live.revision == content["revision"]
