"""`espalier backbone` on a file store."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from adapters_store.file import FileBackend
from adapters_store.store import AdapterStore
from benchmarks.forge import Run
from cli.main import app
from tests.adapters_store.world import World

runner = CliRunner()


def call(folder: Path, *arguments: str) -> Any:
    """Run a subcommand; its JSON, or stderr where it failed."""
    command = ["backbone", *arguments, "--json"]
    done = runner.invoke(app, command, env={"ESPALIER_STORE": (folder / "store").as_uri()})
    return json.loads(done.stdout) if done.exit_code == 0 else done.stderr


def test_a_default_is_made_shown_and_rolled_back(tmp_path: Path, random_run: Run) -> None:
    """Law: default and rollback move what show tells; a stale --from or an unknown bundle changes nothing."""
    store = AdapterStore(FileBackend(tmp_path / "store", create=True), time.time)
    first = asyncio.run(store.put_bundle(random_run.folder / "bundle"))
    assert call(tmp_path, "show")["bundles"] == []
    assert call(tmp_path, "default", first)["default"] == first
    assert "none before it" in call(tmp_path, "rollback", "--from", first)
    second = asyncio.run(store.put_bundle(World(tmp_path / "world").folder / "bundle"))
    assert call(tmp_path, "default", second)["previous"] == [first]
    shown = call(tmp_path, "show")["bundles"]
    assert [(one["role"], one["revision"]) for one in shown] == [("default", second), ("before", first)]
    assert len({one["fingerprint"] for one in shown}) == 2
    assert call(tmp_path, "rollback", "--from", second)["default"] == first
    assert f"is {first}, not {second}" in call(tmp_path, "rollback", "--from", second)
    assert "not in the store" in call(tmp_path, "default", "0" * 64)
    assert call(tmp_path, "show")["record"]["default"] == first
