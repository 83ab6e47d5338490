"""The audit lines of the commands that change a store, on a file store."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from adapters_store.file import FileBackend
from adapters_store.releases import Release
from adapters_store.store import AdapterStore
from cli.adapters import app as adapters
from cli.release import app as release
from cli.store import app as store_commands
from tests.adapters_store.world import World

runner = CliRunner()


class Desk:
    """Runs commands on a store, and keeps what each of them left in the audit."""

    def __init__(self, folder: Path, revisions: list[str]) -> None:
        self.url = (folder / "store").as_uri()
        self.revisions = revisions

    def lines(self, app: Any, *arguments: str, **environ: str) -> list[dict[str, Any]]:
        """The audit lines on stderr."""
        done = runner.invoke(app, arguments, env={"ESPALIER_STORE": self.url, "ESPALIER_BY": "ada", **environ})
        written = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
        assert all((line["event"], line["by"].split()[0]) == ("audit", "ada") for line in written)
        return written

    def line(self, app: Any, *arguments: str, **environ: str) -> dict[str, Any]:
        """The only one."""
        (line,) = self.lines(app, *arguments, **environ)
        return line


@pytest.fixture
async def desk(tmp_path: Path) -> Desk:
    """A store with two revisions of theme-1, the second one live."""
    world = World(tmp_path / "world")
    store = AdapterStore(FileBackend(tmp_path / "store", create=True), time.time)
    stored = [await store.put(world.lora("theme-1", "theme")) for _ in range(2)]
    for revision in stored:
        await store.set_live("theme-1", "theme", revision, "test")
    return Desk(tmp_path, stored)


def test_each_change_of_a_domain_names_who_what_from_and_to(desk: Desk) -> None:
    """Law: action, author, domain, what stood and stands, generation and outcome; looking leaves no line."""
    old, new = desk.revisions
    told = [
        desk.line(adapters, *arguments)
        for arguments in (
            ("canary", "theme-1", old, "--percent", "5"),
            ("canary", "theme-1", old, "--percent", "10"),
            ("clear", "theme-1", "canary"),
            ("shadow", "theme-1", old, "--percent", "50"),
            ("rollback", "theme-1", "--from", new),
            ("rollback", "theme-1", "--from", new),
            ("activate", "theme-1", new),
            ("activate", "theme-1", new),
            ("freeze", "theme-1", "--reason", "incident 7"),
            ("thaw", "theme-1"),
            ("delete", "theme-1"),
        )
    ]
    keys = ("action", "outcome", "from", "to", "generation")
    assert [tuple(line.get(key) for key in keys) for line in told] == [
        ("set_canary", "changed", None, old, 3),
        ("set_canary", "changed", old, old, 4),
        ("clear_canary", "changed", old, None, 5),
        ("set_shadow", "changed", None, old, 6),
        ("rollback", "changed", new, old, 7),
        ("rollback", "RecordConflict", None, None, None),
        ("set_live", "changed", old, new, 8),
        ("set_live", "unchanged", new, new, 8),
        ("freeze", "changed", False, True, 9),
        ("thaw", "changed", True, False, 10),
        ("delete", "changed", new, None, 11),
    ]
    assert {line["domain"] for line in told} == {"theme-1"}
    assert (told[1]["from_percent"], told[1]["to_percent"], told[8]["reason"]) == (5, 10, "incident 7")
    assert new in told[5]["reason"]
    assert desk.lines(adapters, "show", "theme-1") == []


def test_switches_of_the_fleet_are_told(desk: Desk) -> None:
    """Law: freezing everything, thawing it and the emergency switch are lines too."""
    told = [
        desk.line(adapters, *arguments)
        for arguments in (("freeze", "--reason", "week 9"), ("thaw",), ("backbone-only", "on"), ("backbone-only", "on"))
    ]
    assert [(line["action"], line["outcome"], line["from"], line["to"]) for line in told] == [
        ("freeze", "changed", False, True),
        ("thaw", "changed", True, False),
        ("backbone_only", "changed", False, True),
        ("backbone_only", "unchanged", True, True),
    ]


def test_releases_are_told(desk: Desk, tmp_path: Path) -> None:
    """Law: staging, flipping and rolling back name the releases that stood before and stand now."""
    file = tmp_path / "release.json"
    file.write_bytes(Release(divisions={"theme": {"theme-1": desk.revisions[0]}}).encoded())
    staged = desk.line(release, "stage", "--file", str(file))
    revision = staged["revision"]
    refused = desk.line(release, "flip")
    flipped = desk.line(release, "flip", "--min-staged", "0")
    back = desk.line(release, "rollback", "--from", revision)
    assert [
        (line["action"], line["outcome"], line.get("from"), line.get("to")) for line in (staged, flipped, back)
    ] == [
        ("stage_release", "changed", None, revision),
        ("flip_release", "changed", None, revision),
        ("rollback_release", "changed", revision, None),
    ]
    assert (refused["action"], refused["outcome"]) == ("flip_release", "NotStaged")


def test_garbage_collection_is_told_where_it_deletes(desk: Desk) -> None:
    """Law: a dry run changes nothing and leaves no line."""
    assert desk.lines(store_commands, "gc", "--json") == []
    line = desk.line(store_commands, "gc", "--delete", "--json")
    assert (line["action"], line["outcome"], line["deleted"]) == ("collect_garbage", "changed", 0)


def test_copies_are_told_without_secrets(desk: Desk) -> None:
    """Law: a copy names both stores, and not the passwords in their URLs, also where it fails."""
    secret = "redis://user:hunter2@127.0.0.1:1/0?prefix=hunter2x"
    for arguments in ((desk.url, secret), (secret, desk.url)):
        done = runner.invoke(store_commands, ["copy", *arguments, "--json"], env={"ESPALIER_BY": "ada"})
        assert "hunter2" not in done.output


def test_lines_go_to_the_file_that_is_named(desk: Desk, tmp_path: Path) -> None:
    """Law: with ESPALIER_AUDIT_LOG they are appended there, and stderr has none."""
    file = tmp_path / "audit.ndjson"
    for state in ("on", "off"):
        assert desk.lines(adapters, "backbone-only", state, ESPALIER_AUDIT_LOG=str(file)) == []
    assert [json.loads(line)["to"] for line in file.read_text().splitlines()] == [True, False]


def test_without_a_name_the_user_and_the_machine_are_named(desk: Desk) -> None:
    """Law: who ran a command is known even where nobody said so, in the audit and in the record."""
    environ = {"ESPALIER_STORE": desk.url, "ESPALIER_BY": "", "LOGNAME": "grace"}
    done = runner.invoke(adapters, ["rollback", "theme-1", "--from", desk.revisions[1], "--json"], env=environ)
    by = json.loads(done.stdout)["by"]
    assert by.startswith("grace@")
    assert by.endswith("(espalier adapters)")
    assert json.loads(done.stderr)["by"] == by
