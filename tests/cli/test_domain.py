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
from benchmarks.oracle import Oracle
from benchmarks.oracle_files import AdapterFile, Array
from cli.domain import WITHHELD, app
from service.clock import LoopClock
from service.observer import SilentObserver
from service.replica import Replica
from service.replica_config import ReplicaConfig
from service.scorer import ScoreRequest, ScoreResult

runner = CliRunner()
NAME = "vegan"
SETTINGS = """
threads: 1
adapter: {ranks: [3, 2]}
schedule: {lr: 0.01, batch_rows: 64, min_batches: 4, steps: 10000, epochs: 6, dropout: 0.1}
min_of_class: 1000  # the last epoch is taken: an adapter differs from the backbone whatever validation would prefer
blind_epochs: 4
"""
NEW_USERS: dict[str, list[Any]] = {"id": ["90001", "u-new", "1"], "segment": ["a", "b", "c"]}
NEW_ITEMS: dict[str, list[Any]] = {"id": ["brand new", "x"], "tags": [["tag 1", "tag 5"], []], "price": [4.0, None]}


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


def add(folder: Path, *options: str, name: str = NAME, sides: tuple[str, ...] = ("users", "items")) -> Result:
    files = [part for side in sides for part in (f"--{side}", str(folder / f"{side}.parquet"))]
    common = ["--rows", str(folder / "rows.parquet"), "--config", str(folder / "domain.yaml")]
    return runner.invoke(app, ["add", name, *common, "--store", (folder / "store").as_uri(), *files, *options])


def shown(folder: Path, *options: str) -> dict[str, Any]:
    done = add(folder, *options, "--json")
    assert done.exit_code == 0, done.output
    content: dict[str, Any] = json.loads(done.stdout)
    return content


def contents(folder: Path) -> dict[str, bytes]:
    """Everything that the store holds."""
    return {str(path): path.read_bytes() for path in (folder / "store").rglob("*") if path.is_file()}


def score(folder: Path, user: str, items: list[str], **context: Any) -> ScoreResult:
    """What a replica that starts on this store answers."""

    async def ask() -> ScoreResult:
        store = AdapterStore(FileBackend(folder / "store"), time.time)
        clock = LoopClock()
        replica = await Replica.open(
            store, config=ReplicaConfig(cold_wait_ms=60_000), observer=SilentObserver(), clock=clock
        )
        await replica.start()
        try:
            request = ScoreRequest(user, NAME, items, deadline=clock.now() + 60, context=context, strict=True)
            return await replica.scorer.score(request)
        finally:
            await replica.stop()

    return asyncio.run(ask())


def expected(run: Run, content: bytes, user: str, items: list[str], **context: Any) -> Array:
    """The oracle's scores, its tables grown by hand by the new ids."""
    oracle = run.oracle
    for raw, segment in zip(NEW_USERS["id"], NEW_USERS["segment"], strict=True):
        if raw not in oracle.index["user"]:  # user 1 is known, and stays as it is
            grow(oracle, "user", raw, {"user_id": 0, "segment": oracle.words["segment"][segment] + 1})
    for raw, tags, price in zip(*NEW_ITEMS.values(), strict=True):
        missing = next(field["missing"] for field in oracle.fields if field["name"] == "price")
        scaled = missing if price is None else (price - 1.0) / 9.0
        grow(oracle, "item", raw, {"item_id": 0, "price": scaled})
        old = oracle.sides["item"]
        rows = np.array([oracle.words["tags"][tag] + 1 for tag in tags], np.int32)
        ends = old["column.tags.offsets"]
        oracle.sides["item"] |= {
            "column.tags.values": np.concatenate([old["column.tags.values"], rows]),
            "column.tags.offsets": np.append(ends, ends[-1] + len(rows)),
        }
    return oracle.score(user, NAME, items, AdapterFile(content), context=context)


def grow(oracle: Oracle, side: str, raw: str, row: dict[str, float]) -> None:
    """Put one row behind a table of the oracle's."""
    columns = oracle.sides[side]
    oracle.index[side][raw] = len(columns[f"column.{side}_id"])
    for name, value in row.items():
        columns[f"column.{name}"] = np.append(columns[f"column.{name}"], columns[f"column.{name}"].dtype.type(value))


def test_one_command_leads_from_rows_to_scores_that_are_the_oracle_s(random_run: Run, folder: Path) -> None:
    """Law: a replica scores known and new users and items of the domain as the oracle does, by an overlay that is not
    empty; nobody is unknown."""
    content = shown(folder, "--out", str(folder / "vegan.safetensors"))
    assert content["added"] == {"users": 2, "items": 2}
    assert (content["generation"], content["withheld"]) == (1, False)
    assert min(content["overlay"].values()) > 0
    artifact = (folder / "vegan.safetensors").read_bytes()
    items = ["item-3", "brand new", "x", "item-115", "item-60"]
    for user in ("u-new", "90001", "37", "1"):
        answer = score(folder, user, items, hour=7, age_days=12.5)
        assert answer.served.revision == content["revision"]
        assert (answer.served.alias, answer.unknown_user, list(answer.unknown_items)) == ("live", False, [])
        wanted = expected(random_run, artifact, user, items, hour=7, age_days=12.5)
        np.testing.assert_allclose(answer.scores, wanted, rtol=0, atol=2e-6)
    plain = random_run.oracle.score("1", NAME, ["item-3"], context={"hour": 7, "age_days": 12.5})
    assert abs(plain[0] - wanted[0]) > 1e-3


def test_what_was_done_is_said(folder: Path) -> None:
    """Law: new ids, rows, overlay, calibration, verdict and revision stand in what is printed."""
    done = add(folder)
    assert done.exit_code == 0, done.output
    for said in (
        "users: 2 new to the feature table; 1 of the file are known and stay as they are",
        "items: 2 new to the feature table",
        " rows: LoRA, and an overlay of",
        "4 epochs; the last is taken, for validation has too few rows",
        "by the backbone",
        "calibration: none",
        "gate: not passed",
        "live: generation 1",
    ):
        assert said in done.stdout, said


def test_a_domain_that_serves_is_replaced_or_trained_on_only_when_asked(folder: Path) -> None:
    """Law: without an option it is refused; --replace trains anew; --continue starts from it and tells the drift."""
    first = shown(folder)
    refused = add(folder)
    assert refused.exit_code == 1
    assert "--continue trains on from it, --replace trains anew" in refused.stderr
    pl.DataFrame(rows_of(seed=1)).write_parquet(folder / "rows.parquet")
    again = shown(folder, "--replace")
    assert (again["generation"], again["drift"], again["added"]) == (2, None, {"users": 0, "items": 0})
    on = shown(folder, "--continue")
    assert on["generation"] == 3
    assert on["drift"]["from"] == again["revision"] != first["revision"]
    assert on["drift"]["mean"] > 0
    assert [each["rival"] for each in (first, again, on)] == [None, first["revision"], again["revision"]]
    assert "auc_live" in again["figures"]["gate"]
    both = add(folder, "--continue", "--replace").stderr
    assert "choose one" in " ".join(both.replace("│", " ").split())


def test_what_cannot_be_gone_on_from_is_replaced_and_that_is_said(random_run: Run, folder: Path) -> None:
    """Law: a fused adapter whose pins are gone refuses --continue with what to do; --replace says that it was not
    judged against."""
    fused = next(iter(random_run.natural("attention").values())).read_bytes()

    async def put() -> None:
        store = AdapterStore(FileBackend(folder / "store"), time.time)
        await store.set_live(NAME, random_run.natural_division, await store.put(fused), "somebody")

    asyncio.run(put())
    refused = " ".join(add(folder, "--continue").stderr.split())
    assert "pins what the store does not have (no blob" in refused
    assert "--replace trains it anew" in refused
    done = add(folder, "--replace", "--dry-run")
    assert done.exit_code == 0, done.output
    assert "judged against the backbone, not against what is live" in done.stdout


def test_a_withheld_domain_and_a_dry_run_publish_nothing(folder: Path) -> None:
    """Law: neither tables nor domain change by a byte; the status of a withheld one is its own, and the reason stands
    there."""
    before = contents(folder)
    withheld = add(folder, "--gate", "withhold")
    assert withheld.exit_code == WITHHELD
    assert "nothing is published: the backbone scores this domain as before" in withheld.stdout
    assert "gate: not passed" in withheld.stdout
    dry = add(folder, "--dry-run", "--overlay", "none")
    assert dry.exit_code == 0, dry.output
    assert "an overlay of no ids" in dry.stdout
    assert "verified; nothing written" in dry.stdout
    nowhere = add(folder, "--out", str(folder / "no folder" / "vegan.safetensors"))
    assert nowhere.exit_code == 1
    assert "cannot write" in nowhere.stderr
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("columns", "sides", "name", "message"),
    [
        ({"label": None}, ("users", "items"), NAME, "rows.parquet has no column 'label'"),
        ({"label": [2] * 240}, ("users", "items"), NAME, "rows.parquet row 0: label is 2; a label is 0 or 1"),
        ({"label": [1] * 240}, ("users", "items"), NAME, "all 240 labels are 1"),
        ({"hour": None}, ("users", "items"), NAME, "rows.parquet has no column 'hour'"),
        ({}, ("items",), NAME, "2 users that the rows name, such as '90001', 'u-new': give them by --users FILE"),
        ({}, ("users", "items"), "segment-a", "'segment-a' is a domain of the auxiliary division 'segment'"),
        ({}, ("users", "items"), "no domain", "'no domain' is no domain id"),
    ],
)
def test_what_cannot_be_learned_from_is_refused_and_nothing_is_written(
    folder: Path, columns: dict[str, Any], sides: tuple[str, ...], name: str, message: str
) -> None:
    """Law: the fault stands on stderr, the status is 1, and not a byte of the store changes."""
    rows = {key: values for key, values in {**rows_of(), **columns}.items() if values is not None}
    pl.DataFrame(rows).write_parquet(folder / "rows.parquet")
    before = contents(folder)
    done = add(folder, name=name, sides=sides)
    assert done.exit_code == 1
    assert message in done.stderr
    assert contents(folder) == before


def test_a_wrong_configuration_and_a_store_without_backbone_are_told(folder: Path) -> None:
    """Law: an unknown key is named with what was meant; a store that nobody published to is told as such."""
    (folder / "domain.yaml").write_text("overlays: {ids: all}\n")
    assert "overlays is no known key; did you mean 'overlay'?" in add(folder).stderr
    (folder / "domain.yaml").write_text("adapter: {ranks: [8]}\n")
    assert "adapter.ranks has 1 numbers for 2 hidden layers" in add(folder).stderr
    FileBackend(folder / "empty" / "store", create=True)
    options = ["--rows", str(folder / "rows.parquet"), "--store", (folder / "empty" / "store").as_uri()]
    assert "no default backbone" in runner.invoke(app, ["add", NAME, *options]).stderr
