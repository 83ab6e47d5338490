"""`espalier features` on a file store and the bundle of a random run."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from adapters_store.file import FileBackend
from adapters_store.store import AdapterStore
from benchmarks.forge import Run
from cli.features import app
from service.tables import FeatureTables, load_side

runner = CliRunner()
USERS: dict[str, Any] = {
    "id": [1, 2, 1000],
    "segment": ["a", "z", None],
    "division.segment": ["segment-a", "segment-b", None],
}


@pytest.fixture
def folder(random_run: Run, tmp_path: Path) -> Path:
    """A file store that has the run's bundle as its default."""
    store = AdapterStore(FileBackend(tmp_path / "store", create=True), time.time)
    asyncio.run(store.publish_backbone(random_run.folder / "bundle"))
    return tmp_path


def publish(folder: Path, columns: dict[str, Any], *options: str) -> Result:
    pq.write_table(pa.table(columns), folder / "users.parquet")
    store = (folder / "store").as_uri()
    return runner.invoke(app, ["publish", str(folder / "users.parquet"), "--store", store, "--side", "users", *options])


def show(folder: Path, *options: str) -> dict[str, Any]:
    done = runner.invoke(app, ["show", "--json", "--store", (folder / "store").as_uri(), *options])
    assert done.exit_code == 0, done.output
    shown: dict[str, Any] = json.loads(done.stdout)
    return shown


def tables(folder: Path) -> FeatureTables:
    """The tables as a replica would read them now."""

    async def read() -> FeatureTables:
        store = AdapterStore(FileBackend(folder / "store"), time.time)
        backbone = await store.bundle((await store.backbone_record()).default or "")
        record = await store.feature_record(backbone.fingerprint, "users")
        loaded, revision = await load_side(store, backbone, "users", record)
        return FeatureTables(backbone).with_side("users", loaded, revision)

    return asyncio.run(read())


def encoded(read: FeatureTables, user: Any) -> tuple[int, int, bool]:
    rows = read.encode(user, ["item-1"], "theme-1", None)
    return int(rows.rows.arrays["user_id"][0]), int(rows.rows.arrays["segment"][0]), rows.unknown_user


def test_full_table_then_delta_is_what_replicas_read(folder: Path) -> None:
    """Law: publish --full replaces the table, --parent changes rows of it; unknown values are counted and named."""
    first = publish(folder, USERS, "--full", "--by", "the nightly job")
    assert first.exit_code == 0, first.output
    assert "3 rows, 0 deleted; full layer" in first.output
    assert "field user_id: 1 values are not in the vocabulary" in first.output
    assert "field segment: 1 values are not in the vocabulary" in first.output
    current = show(folder)["users"]
    assert current["revision"] in first.output
    assert current["manifest"]["unknown_values"] == {"segment": 1, "user_id": 1}
    assert current["record"]["by"] == "the nightly job"
    read = tables(folder)
    assert read.revisions["users"] == current["revision"]
    assert [encoded(read, user) for user in (1, "2", 1000, 3)] == [
        (1, 1, False),
        (2, 0, False),
        (0, 0, False),
        (0, 0, True),
    ]
    delta = {"id": ["2", "3", "1"], "segment": ["b", "c", None], "deleted": [False, False, True]}
    second = publish(folder, delta, "--parent", current["revision"], "--json")
    assert second.exit_code == 0, second.output
    content = json.loads(second.stdout)
    assert content["unnamed_divisions"] == ["segment"]
    assert (content["manifest"]["rows"], content["manifest"]["deleted"], content["manifest"]["deltas"]) == (2, 1, 1)
    read = tables(folder)
    assert [encoded(read, user) for user in (1, 2, 3)] == [(0, 0, True), (2, 2, False), (3, 3, False)]
    parts = [read.parts(read.encode(user, ["item-1"], "theme-1", None), ["segment"])[0] for user in (2, 3)]
    assert [part.combination for part in parts] == [("segment-b",), (None,)]  # 2 keeps what its parent says


def test_show_names_the_bundle_s_tables_before_anything_was_published(folder: Path, random_run: Run) -> None:
    """Law: what `show` prints is what the first delta names as its parent."""
    shown = show(folder)
    done = publish(folder, {"id": [1], "segment": ["b"]}, "--parent", shown["users"]["revision"])
    assert done.exit_code == 0, done.output
    assert encoded(tables(folder), 1) == (1, 2, False)
    plain = runner.invoke(app, ["show", "--store", (folder / "store").as_uri()])
    assert "delta layer of 1 rows, 0 deleted, delta 1 on its full layer; parent " in plain.output
    assert f"items: {shown['items']['revision']}\n  the bundle's own table" in plain.output


def test_each_backbone_has_tables_of_its_own(folder: Path, three_way_run: Run) -> None:
    """Law: with --backbone a table is encoded by, recorded for and shown of that bundle, whichever is the default; the
    default's stay as they are, and become current again with it."""
    store = AdapterStore(FileBackend(folder / "store"), time.time)
    before = asyncio.run(store.backbone_record()).default or ""
    publish(folder, USERS, "--full")
    kept = show(folder)
    asyncio.run(store.publish_backbone(three_way_run.folder / "bundle"))
    own = show(folder)
    assert own["users"]["revision"] != kept["users"]["revision"]
    assert show(folder, "--backbone", before) == kept
    done = publish(folder, {"id": [9], "segment": ["b"]}, "--parent", kept["users"]["revision"], "--backbone", before)
    assert done.exit_code == 0, done.output
    assert show(folder) == own
    assert show(folder, "--backbone", before)["users"]["manifest"]["parent"] == kept["users"]["revision"]
    asyncio.run(store.set_default_backbone(before, "test"))
    assert encoded(tables(folder), 9) == (9, 2, False)


@pytest.mark.parametrize("which", ["absent", "table", "malformed"])
def test_what_is_no_bundle_of_the_store_is_refused_by_name(folder: Path, which: str) -> None:
    """Law: a revision that the store lacks, or that is something else, is named, and nothing is written."""
    named = {"absent": "ab" * 32, "table": show(folder)["users"]["revision"], "malformed": "../x"}[which]
    done = publish(folder, USERS, "--full", "--backbone", named)
    assert done.exit_code == 1
    assert named in done.stderr
    assert show(folder)["users"]["record"]["generation"] == 0


def test_stale_parent_is_refused_saying_what_is_current(folder: Path) -> None:
    """Law: a delta made for a table that is not current changes nothing, and the current one is named."""
    stale = show(folder)["users"]["revision"]
    publish(folder, USERS, "--full")
    current = show(folder)["users"]["revision"]
    done = publish(folder, USERS, "--parent", stale)
    assert done.exit_code == 1
    assert f"the current table of users is {current}, not {stale}" in done.stderr
    assert show(folder)["users"]["revision"] == current


def test_publishing_again_finds_nothing_to_do_and_dry_run_writes_nothing(folder: Path) -> None:
    """Law: both leave the record as it is and say so."""
    dry = publish(folder, USERS, "--full", "--dry-run")
    assert "nothing written" in dry.output
    assert show(folder)["users"]["record"]["generation"] == 0
    publish(folder, USERS, "--full")
    assert "nothing to do" in publish(folder, USERS, "--full").output
    assert show(folder)["users"]["record"]["generation"] == 1


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        (USERS, (), "name either --full, or --parent"),
        (USERS, ("--full", "--parent", "x"), "name either --full, or --parent"),
        ({"id": [1]}, ("--full",), "users.parquet has no column 'segment'"),
        ({"id": [1, 1], "segment": ["a", "a"]}, ("--full",), "id '1' stands in more than one row"),
        ({"id": [1], "segment": ["a"], "deleted": [True]}, ("--full",), "only a delta deletes"),
        ({"id": [1], "segment": ["a"]}, ("--parent", "x"), "not x: make the delta for that one"),
    ],
)
def test_wrong_call_or_file_ends_with_its_fault_and_writes_nothing(
    folder: Path, columns: dict[str, Any], options: tuple[str, ...], message: str
) -> None:
    """Law: what is wrong is named on stderr, the status is not 0, the record stays."""
    done = publish(folder, columns, *options)
    assert done.exit_code in (1, 2)
    assert message in " ".join(done.stderr.replace("│", " ").split())
    assert show(folder)["users"]["record"]["generation"] == 0


def test_unknown_side_and_store_without_backbone_are_refused(folder: Path, tmp_path: Path) -> None:
    """Law: a side that is neither users nor items, and a store that nobody published to, are told as such."""
    assert "'users'" in publish(folder, USERS, "--full", "--side", "shops").stderr
    FileBackend(tmp_path / "empty" / "store", create=True)
    done = publish(tmp_path / "empty", USERS, "--full")
    assert done.exit_code == 1
    assert "no default backbone: publish one with `espalier publish RUN" in done.stderr
