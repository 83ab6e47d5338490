"""`espalier adapters` on a file store."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from adapters_store.artifact import decode_adapter
from adapters_store.file import FileBackend
from adapters_store.releases import Release
from adapters_store.store import AdapterStore
from cli.adapters import app
from tests.adapters_store.world import World, encoded

runner = CliRunner()
AUTHOR = {"ESPALIER_BY": "ada"}
BY = "ada (espalier adapters)"


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
        done = runner.invoke(
            app, [*arguments, "--json"], env={**AUTHOR, "ESPALIER_STORE": (tmp_path / "store").as_uri()}
        )
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
    assert (again["live"]["revision"], again["by"], again["generation"]) == (revisions[0], BY, 6)


def test_activate_takes_only_that_domains_adapters(call: Any, revisions: list[str]) -> None:
    """Law: a revision is activated for the domain that its manifest names, and only if it is stored."""
    assert "is of domain 'theme-2', not 'theme-1'" in call("activate", "theme-1", revisions[3])
    assert "no blob" in call("activate", "theme-1", "0" * 64)
    assert "is no revision" in call("activate", "theme-1", "latest")
    assert call("activate", "theme-2", revisions[3])["generation"] == 1


def test_canary_and_shadow_stand_beside_live(call: Any, revisions: list[str]) -> None:
    """Law: both name a share and end by clear; raising a canary's share keeps its salt; live ends its own canary."""
    first = call("canary", "theme-1", revisions[0], "--percent", "5")["canary"]
    second = call("canary", "theme-1", revisions[0], "--percent", "10")["canary"]
    assert (second["percent"], second["salt"]) == (10, first["salt"])
    both = call("shadow", "theme-1", revisions[1], "--percent", "50")
    assert (both["shadow"]["revision"], both["live"]["revision"]) == (revisions[1], revisions[2])
    assert call("clear", "theme-1", "shadow")["shadow"] is None
    assert call("activate", "theme-1", revisions[0])["canary"] is None


def test_canary_and_shadow_take_only_that_domains_adapters(call: Any, revisions: list[str]) -> None:
    """Law: another domain's revision, one that is absent, or the live one stands beside nothing."""
    for alias in ("canary", "shadow"):
        assert "is of domain 'theme-2'" in call(alias, "theme-1", revisions[3], "--percent", "5")
        assert "no blob" in call(alias, "theme-1", "0" * 64, "--percent", "5")
        assert "is live" in call(alias, "theme-1", revisions[2], "--percent", "5")
        for share in ("0", "101", "-1", "nan"):
            assert "above 0 and up to 100" in call(alias, "theme-1", revisions[0], "--percent", share)
        assert "percent" in call(alias, "theme-1", revisions[0])
    assert call("show", "theme-1")["record"]["generation"] == 3


def test_an_auxiliary_domain_has_no_trials(tmp_path: Path, call: Any, revisions: list[str]) -> None:
    """Law: a canary or shadow that no request would meet is refused, and the refusal says what to do instead."""

    async def publish() -> str:
        world = World(tmp_path / "other")
        store = AdapterStore(FileBackend(tmp_path / "store"), time.time)
        await store.publish_backbone(world.folder / "bundle", "test")
        revision = await store.put(world.lora("gender-f", "gender"))
        await store.set_live("gender-f", "gender", revision, "test")
        return await store.put(world.lora("gender-f", "gender"))

    revision = asyncio.run(publish())
    for alias in ("canary", "shadow"):
        refusal = call(alias, "gender-f", revision, "--percent", "5")
        assert f"auxiliary division 'gender', which is never scored by itself: its {alias}" in refusal
        assert call(alias, "theme-1", revisions[0], "--percent", "5")[alias]["revision"] == revisions[0]
    assert call("show", "gender-f")["record"]["generation"] == 1


def test_a_frozen_domain_takes_no_change_but_a_rollback(call: Any, revisions: list[str]) -> None:
    """Law: whoever is refused reads who froze it and why; thawing takes changes again, for one domain or for all."""
    stopped = call("freeze", "theme-1", "--reason", "incident 7")
    assert (stopped["frozen"]["by"], stopped["frozen"]["reason"]) == (BY, "incident 7")
    assert "incident 7" in call("activate", "theme-1", revisions[0])
    assert call("rollback", "theme-1", "--from", revisions[2])["live"]["revision"] == revisions[1]
    assert call("thaw", "theme-1")["frozen"] is None
    assert call("freeze", "--reason", "release week")["frozen"]["reason"] == "release week"
    assert "release week" in call("activate", "theme-1", revisions[0])
    assert call("thaw")["frozen"] is None
    assert call("activate", "theme-1", revisions[0])["live"]["revision"] == revisions[0]


def test_backbone_only_is_a_switch_for_all(call: Any, revisions: list[str]) -> None:
    """Law: on and off, shown beside every domain; no record changes."""
    assert call("backbone-only", "on")["adapters_only_backbone"] is True
    shown = call("show", "theme-1")
    assert (shown["switches"]["adapters_only_backbone"], shown["record"]["generation"]) == (True, 3)
    assert call("backbone-only", "off")["adapters_only_backbone"] is False


def test_show_tells_what_a_release_makes_live(call: Any, tmp_path: Path, revisions: list[str]) -> None:
    """Law: the effective live revision is told apart from the record's own."""

    async def flip() -> None:
        store = AdapterStore(FileBackend(tmp_path / "store"), time.time)
        release = await store.put_release(Release(divisions={"theme": {"theme-1": revisions[0]}}))
        await store.flip(release, "test", min_staged=0)

    asyncio.run(flip())
    shown = call("show", "theme-1")
    assert (shown["effective_live"], shown["record"]["live"]["revision"]) == (revisions[0], revisions[2])
    text = runner.invoke(app, ["show", "theme-1"], env={"ESPALIER_STORE": (tmp_path / "store").as_uri()}).stdout
    assert f"the release's {revisions[0]} scores instead" in text


def test_an_unreadable_record_hides_no_other(call: Any, tmp_path: Path, revisions: list[str]) -> None:
    """Law: list shows what is wrong with it in its place."""
    call("activate", "theme-2", revisions[3])
    (path,) = (tmp_path / "store" / "records").glob("*theme-1.json")
    path.write_text('{"generation": 4, "schema": 2}')
    broken, whole = call("list")
    assert broken["domain"] == "theme-1"
    assert "schema 2" in broken["error"]
    assert whole["live"]["revision"] == revisions[3]
    text = runner.invoke(app, ["list"], env={"ESPALIER_STORE": (tmp_path / "store").as_uri(), "COLUMNS": "200"}).stdout
    assert "unreadable" in text


def test_a_password_of_the_store_is_never_printed(tmp_path: Path) -> None:
    """Law: a store that cannot be reached is named without user, password and query, and so is it in --help.

    Nothing but the result goes to stdout: retries are not told there.
    """
    secret = "redis://user:hunter2@127.0.0.1:1/0?prefix=hunter2x"
    for arguments in (["list"], ["list", "--help"]):
        done = runner.invoke(app, arguments, env={"ESPALIER_STORE": secret})
        assert "hunter2" not in done.output
    assert runner.invoke(app, ["list", "--json"], env={"ESPALIER_STORE": secret}).stdout == ""


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
    share = ["--percent", "5"]
    assert (
        f"canary: {revisions[0]} for 5% of the users"
        in runner.invoke(app, ["canary", "theme-1", revisions[0], *share, *store]).stdout
    )
    assert (
        f"shadow: {revisions[0]} for 5% of the requests"
        in runner.invoke(app, ["shadow", "theme-1", revisions[0], *share, *store]).stdout
    )
    assert "for this: why" in runner.invoke(app, ["freeze", "--reason", "for this: why", *store]).stdout
    assert "the backbone scores every domain" in runner.invoke(app, ["backbone-only", "on", *store]).stdout
    gone = runner.invoke(app, ["delete", "theme-1", *store])
    assert "live: deleted" in gone.stdout


def test_absent_store_is_refused(tmp_path: Path) -> None:
    """Law: looking never makes a store."""
    done = runner.invoke(app, ["list", "--store", (tmp_path / "absent").as_uri()])
    assert done.exit_code == 1
    assert "there is no store" in done.stderr
    assert not (tmp_path / "absent").exists()


def test_a_trial_needs_what_its_revision_pins(call: Any, tmp_path: Path, revisions: list[str]) -> None:
    """Law: canary and shadow are refused, as activate is, while an adapter that theirs pins is not stored."""
    world = World(tmp_path / "other")
    lora = world.lora("gender-f", "gender")
    store = AdapterStore(FileBackend(tmp_path / "store"), time.time)
    parts = world.fused_parts("theme-1", "avg", {"gender-f": decode_adapter(lora)}, None, [("gender-f",)])
    revision = asyncio.run(store.put(encoded(*parts)))
    for trial in ("canary", "shadow"):
        assert "is not in the store" in call(trial, "theme-1", revision, "--percent", "5")
    asyncio.run(store.put(lora))
    for trial in ("canary", "shadow"):
        assert call(trial, "theme-1", revision, "--percent", "5")[trial]["revision"] == revision
