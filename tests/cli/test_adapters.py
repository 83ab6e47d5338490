"""`espalier adapters` on a file store."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from adapters_store.file import FileBackend
from adapters_store.store import AdapterStore
from cli.adapters import app
from tests.adapters_store.world import World

runner = CliRunner()


@pytest.fixture
async def revisions(tmp_path: Path) -> list[str]:
    """Three revisions of theme-1 in a store, published one after the other; one more of theme-2, stored only."""
    world = World(tmp_path / "world")
    store = AdapterStore(FileBackend(tmp_path / "store", create=True), time.time)
    stored = [await store.put(world.lora("theme-1", "theme")) for _ in range(3)]
    for revision in stored:
        await store.set_live("theme-1", "theme", revision, "test")
    return [*stored, await store.put(world.lora("theme-2", "theme"))]


@pytest.fixture
def call(tmp_path: Path, revisions: list[str]) -> Any:
    """Runs a subcommand on that store; returns its JSON, or stderr where it failed."""

    def run(*arguments: str) -> Any:
        done = runner.invoke(app, [*arguments, "--json"], env={"ESPALIER_STORE": (tmp_path / "store").as_uri()})
        return json.loads(done.stdout) if done.exit_code == 0 else done.stderr

    return run


def test_list_and_show_tell_what_is_live(call: Any, revisions: list[str]) -> None:
    """Law: list gives every record, show one with its history and what the live adapter says."""
    (record,) = call("list")
    assert record["live"]["revision"] == revisions[2]
    assert call("list", "--after", "theme-1") == []
    shown = call("show", "theme-1")
    assert shown["record"] == record
    assert [entry["revision"] for entry in shown["record"]["previous"]] == revisions[1::-1]
    assert shown["manifest"]["ranks"] == {"tower.0": 3, "tower.1": 2}
    assert "no domain 'theme-9'" in call("show", "theme-9")


def test_rollback_delete_and_activate_change_the_record(call: Any, revisions: list[str]) -> None:
    """Law: each subcommand is the store's transition of that name, with its conditions."""
    back = call("rollback", "theme-1", "--from", revisions[2])
    assert back["live"]["revision"] == revisions[1]
    assert "cannot roll back from" in call("rollback", "theme-1", "--from", revisions[2])
    assert "has generation 4, not 3" in call("delete", "theme-1", "--if-generation", "3")
    gone = call("delete", "theme-1", "--if-generation", "4")
    assert (gone["deleted"], gone["live"], gone["generation"]) == (True, None, 5)
    assert call("show", "theme-1")["manifest"] is None
    again = call("activate", "theme-1", revisions[0])
    assert (again["live"]["revision"], again["by"], again["generation"]) == (revisions[0], "espalier adapters", 6)


def test_activate_takes_only_that_domains_adapters(call: Any, revisions: list[str]) -> None:
    """Law: a revision is activated for the domain that its manifest names, and only if it is stored."""
    assert "is of domain 'theme-2', not 'theme-1'" in call("activate", "theme-1", revisions[3])
    assert "no blob" in call("activate", "theme-1", "0" * 64)
    assert "is no revision" in call("activate", "theme-1", "latest")
    assert call("activate", "theme-2", revisions[3])["generation"] == 1


def test_tables_are_for_people(tmp_path: Path, revisions: list[str]) -> None:
    """Law: without --json every subcommand prints the same facts as text."""
    store = ["--store", (tmp_path / "store").as_uri()]
    listed = runner.invoke(app, ["list", *store, "--limit", "1"], env={"COLUMNS": "200"})
    assert revisions[2] in listed.stdout
    assert "there may be more: --after theme-1" in listed.stdout
    shown = runner.invoke(app, ["show", "theme-1", *store])
    assert f"live: {revisions[2]}" in shown.stdout
    assert f"before: {revisions[1]}" in shown.stdout
    back = runner.invoke(app, ["rollback", "theme-1", "--from", revisions[2], *store])
    assert f"before: {revisions[2]}   rolled back from" in back.stdout
    gone = runner.invoke(app, ["delete", "theme-1", *store])
    assert "live: deleted" in gone.stdout


def test_absent_store_is_refused(tmp_path: Path) -> None:
    """Law: looking never makes a store."""
    done = runner.invoke(app, ["list", "--store", (tmp_path / "absent").as_uri()])
    assert done.exit_code == 1
    assert "there is no store" in done.stderr
    assert not (tmp_path / "absent").exists()
