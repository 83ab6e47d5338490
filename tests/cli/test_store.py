"""`espalier store` on file stores."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from adapters_store.file import FileBackend
from adapters_store.store import AdapterStore
from cli.store import app, seconds_of
from tests.adapters_store.world import World

runner = CliRunner()
DAY_S = 86_400.0


def opened(folder: Path, age_s: float = 0.0) -> AdapterStore:
    """The store under test, by a clock that is behind."""
    return AdapterStore(FileBackend(folder / "store", create=True), lambda: time.time() - age_s)


@pytest.fixture
def revisions(tmp_path: Path) -> list[str]:
    """Two revisions of theme-1: the first is live, the second nobody names."""
    world, store = World(tmp_path / "world"), opened(tmp_path)

    async def fill() -> list[str]:
        stored = [await store.put(world.lora("theme-1", "theme")) for _ in range(2)]
        await store.set_live("theme-1", "theme", stored[0], "test")
        return stored

    return asyncio.run(fill())


def call(folder: Path, *arguments: str) -> Any:
    """Run a subcommand; its JSON, or stderr where it failed."""
    done = runner.invoke(app, [*arguments, "--json"], env={"ESPALIER_STORE": (folder / "store").as_uri()})
    return json.loads(done.stdout) if done.exit_code == 0 else done.stderr


def blobs(folder: Path) -> set[str]:
    """What the store has."""
    return set(asyncio.run(opened(folder).backend.list_blobs()))


def test_gc_says_what_it_would_do_and_does_nothing(tmp_path: Path, revisions: list[str]) -> None:
    """Law: without --delete not a byte of the store changes."""
    before = sorted((path.name, path.stat().st_mtime_ns) for path in (tmp_path / "store").rglob("*.json"))
    found = call(tmp_path, "gc")
    assert (found["dry_run"], found["blobs"], found["kept"], found["condemned"]) == (True, 2, 1, 1)
    assert sorted((path.name, path.stat().st_mtime_ns) for path in (tmp_path / "store").rglob("*.json")) == before
    assert blobs(tmp_path) == set(revisions)


def test_gc_condemns_first_and_deletes_after_the_grace_period(tmp_path: Path, revisions: list[str]) -> None:
    """Law: it takes two runs with the grace period between them, and what is named stays."""
    assert call(tmp_path, "gc", "--delete")["condemned"] == 1
    assert call(tmp_path, "gc", "--delete", "--grace", "1h")["waiting"] == 1
    assert blobs(tmp_path) == set(revisions)
    asyncio.run(aged(tmp_path, 2 * DAY_S))
    assert call(tmp_path, "gc", "--delete", "--grace", "7d")["waiting"] == 1
    assert call(tmp_path, "gc", "--delete", "--grace", "1d")["deleted"] == 1
    assert blobs(tmp_path) == {revisions[0]}


async def aged(folder: Path, age_s: float) -> None:
    """Make every mark on the domain older."""
    then = opened(folder, age_s)
    held = await then.backend.read_record("domain/theme-1")
    assert held is not None
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(then.clock()))
    record = held.record | {"generation": held.record["generation"] + 1}
    record["condemned"] = {revision: mark | {"since": since} for revision, mark in record["condemned"].items()}
    assert await then.backend.compare_and_set("domain/theme-1", held.record["generation"], record)


def test_a_grace_period_is_a_time_and_long_enough(tmp_path: Path, revisions: list[str]) -> None:
    """Law: a time is a number and a unit; what is shorter than any change of a record takes is refused."""
    assert [seconds_of(text) for text in ("90s", "1.5h", "7d", "1w")] == [90, 5400, 604_800, 604_800]
    for text in ("7", "d", "-1d", "7 days"):
        assert "is no time" in call(tmp_path, "gc", "--grace", text)
    assert "10 minutes at least" in call(tmp_path, "gc", "--grace", "9m")


def test_tables_are_for_people(tmp_path: Path, revisions: list[str]) -> None:
    """Law: without --json the same is said as text."""
    store = ["--store", (tmp_path / "store").as_uri()]
    said = runner.invoke(app, ["gc", *store]).stdout
    assert "would be condemned: 1" in said
    assert "nothing was changed" in said
    assert "would be" not in runner.invoke(app, ["gc", "--delete", *store]).stdout
