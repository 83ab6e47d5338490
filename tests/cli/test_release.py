"""`espalier release` on a file store, with replicas that report as real ones do."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from adapters_store.file import FileBackend
from adapters_store.records import ReplicaReport
from adapters_store.store import AdapterStore
from cli.release import app
from tests.adapters_store.world import World

runner = CliRunner()
DOMAINS = ("theme-1", "theme-2")


def opened(folder: Path) -> AdapterStore:
    """The store under test."""
    return AdapterStore(FileBackend(folder / "store", create=True), time.time)


@pytest.fixture
def releases(tmp_path: Path) -> list[Path]:
    """Two release files over adapters that the store has."""
    world, store = World(tmp_path / "world"), opened(tmp_path)

    async def fill() -> list[dict[str, str]]:
        return [{domain: await store.put(world.lora(domain, "theme")) for domain in DOMAINS} for _ in range(2)]

    files = []
    for number, adapters in enumerate(asyncio.run(fill())):
        files.append(tmp_path / f"release-{number}.json")
        files[-1].write_text(json.dumps({"divisions": {"theme": adapters}}))
    return files


def call(folder: Path, *arguments: str) -> Any:
    """Run a subcommand; its JSON, or stderr where it failed."""
    done = runner.invoke(app, [*arguments, "--json"], env={"ESPALIER_STORE": (folder / "store").as_uri()})
    return json.loads(done.stdout) if done.exit_code == 0 else done.stderr


def report(folder: Path, release: str, staged: int, replica: str = "replica-1") -> None:
    """A replica says how far it is."""
    said = ReplicaReport(replica=replica, release=release, staged=staged, of=len(DOMAINS))
    asyncio.run(opened(folder).report_replica(said))


def test_a_release_is_staged_prepared_flipped_and_rolled_back(tmp_path: Path, releases: list[Path]) -> None:
    """Law: stage, flip and rollback move what show tells, and only in that order."""
    assert "no release is staged" in call(tmp_path, "flip")
    staged = call(tmp_path, "stage", "--file", str(releases[0]))["release"]
    assert call(tmp_path, "show")["pointer"]["release"] is None
    report(tmp_path, staged, 2)
    flipped = call(tmp_path, "flip")
    assert (flipped["release"], flipped["generation"]) == (staged, 1)
    second = call(tmp_path, "stage", "--file", str(releases[1]))["release"]
    report(tmp_path, second, 2)
    assert call(tmp_path, "flip", second)["release"] == second
    shown = call(tmp_path, "show")
    assert (shown["pointer"]["release"], shown["staged"]["release"]) == (second, second)
    assert [(each["replica"], each["staged"], each["of"]) for each in shown["replicas"]] == [("replica-1", 2, 2)]
    assert call(tmp_path, "rollback", "--from", second)["release"] == staged
    assert staged[:12] in call(tmp_path, "rollback", "--from", second)


def test_a_flip_waits_for_min_staged_and_names_the_worst_replica(tmp_path: Path, releases: list[Path]) -> None:
    """Law: while one replica has prepared less than asked, nothing is flipped, with or without a wait."""
    staged = call(tmp_path, "stage", "--file", str(releases[0]))["release"]
    assert "no replica" in call(tmp_path, "flip")
    report(tmp_path, staged, 2)
    report(tmp_path, staged, 1, "replica-2")
    refused = call(tmp_path, "flip", "--wait", "0.6")
    assert "replica-2" in refused
    assert "50" in refused
    assert call(tmp_path, "show")["pointer"]["generation"] == 0
    assert call(tmp_path, "flip", "--min-staged", "0.5")["release"] == staged


def test_a_release_of_adapters_that_are_not_stored_is_refused(tmp_path: Path, releases: list[Path]) -> None:
    """Law: what no replica could prepare is never staged; the message names the domain."""
    releases[0].write_text(json.dumps({"divisions": {"theme": {"theme-7": "a" * 64}}}))
    assert "theme-7" in call(tmp_path, "stage", "--file", str(releases[0]))
    releases[0].write_text(json.dumps({"divisions": {"theme": {"theme-7": "latest"}}}))
    assert "must be JSON" in call(tmp_path, "stage", "--file", str(releases[0]))
    releases[0].write_text("{")
    assert "must be JSON" in call(tmp_path, "stage", "--file", str(releases[0]))
    assert "cannot be read" in call(tmp_path, "stage", "--file", str(tmp_path / "absent.json"))
    assert call(tmp_path, "show")["staged"]["release"] is None


def test_staging_names_exactly_one_release(tmp_path: Path, releases: list[Path]) -> None:
    """Law: a stored revision, a file or nothing (--clear): one of them."""
    staged = call(tmp_path, "stage", "--file", str(releases[0]))["release"]
    assert call(tmp_path, "stage", "--clear")["release"] is None
    assert call(tmp_path, "stage", staged)["release"] == staged
    assert "name one of" in call(tmp_path, "stage")
    assert "name one of" in call(tmp_path, "stage", staged, "--clear")


def test_tables_are_for_people(tmp_path: Path, releases: list[Path]) -> None:
    """Law: without --json every subcommand says the same as text."""
    store = ["--store", (tmp_path / "store").as_uri()]
    text = runner.invoke(app, ["stage", "--file", str(releases[0]), *store]).stdout
    staged = text.split()[1]
    assert len(staged) == 64
    report(tmp_path, staged, 2)
    assert f"live release: {staged}" in runner.invoke(app, ["flip", *store]).stdout
    shown = runner.invoke(app, ["show", *store], env={"COLUMNS": "200"}).stdout
    assert "replica-1" in shown
    assert f"staged: {staged}" in shown
    back = runner.invoke(app, ["rollback", "--from", staged, *store]).stdout
    assert "none: every domain is scored by its own record" in back
