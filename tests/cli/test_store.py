"""`espalier store` on file stores."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from typer.testing import CliRunner

from adapters_store.file import FileBackend
from adapters_store.objects import open_objects
from adapters_store.store import AdapterStore
from cli.store import app, seconds_of
from tests.adapters_store.world import World
from tests.servers.s3 import serve_s3
from tests.servers.valkey import Valkey, valkey

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


def test_check_names_each_fault_and_ends_with_status_1(tmp_path: Path, revisions: list[str]) -> None:
    """Law: a sound store is 0; a damaged blob, a lost one and an unreadable record are named, and the status is 1."""
    sound = call(tmp_path, "check")
    assert (sound["sound"], sound["blobs"], sound["records"]) == (True, 2, 1)
    (path,) = (tmp_path / "store" / "blobs").rglob(revisions[0])
    path.write_bytes(path.read_bytes()[:-1])
    done = runner.invoke(app, ["check", "--json"], env={"ESPALIER_STORE": (tmp_path / "store").as_uri()})
    (fault,) = json.loads(done.stdout)["faults"]
    assert done.exit_code == 1
    assert revisions[0] in fault["key"]
    path.unlink()
    text = runner.invoke(app, ["check", "--store", (tmp_path / "store").as_uri()])
    assert text.exit_code == 1
    assert revisions[0] in text.stdout
    assert "nothing is wrong" not in text.stdout


def test_check_looks_at_the_store_and_not_at_its_cache(
    tmp_path: Path, revisions: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law: a blob that rotted behind a sound copy in Redis is a fault, and nothing is written to Redis."""
    with serve_s3() as s3, valkey(tmp_path / "valkey", appendonly="no") as redis:
        for name, value in s3.env.items():
            monkeypatch.setenv(name, value)
        url = f"redis+{s3.url('store')}&redis={quote(redis.url, safe='')}"
        assert runner.invoke(app, ["copy", (tmp_path / "store").as_uri(), url]).exit_code == 0
        copies = copies_in(redis)
        assert len(copies) == 2
        asyncio.run(spoilt(s3.url("store"), revisions[0]))
        with redis.client() as client:
            client.delete(*(key for key in copies if revisions[1].encode() in key))
        done = runner.invoke(app, ["check", "--json", "--store", url])
        assert done.exit_code == 1
        (fault,) = json.loads(done.stdout)["faults"]
        assert (revisions[0] in fault["key"], fault["what"]) == (True, "its bytes are not those of its digest")
        assert [revisions[0].encode() in key for key in copies_in(redis)] == [True]


def copies_in(redis: Valkey) -> list[bytes]:
    """Keys of blobs in a cache."""
    with redis.client() as client:
        return [key for key in client.scan_iter() if b"blob" in key]


async def spoilt(url: str, revision: str) -> None:
    """Rot a blob behind the store's back."""
    backend = open_objects(url, timeout_s=5)
    try:
        await backend.delete_blob(revision)
        await backend.put_blob(revision, b"rotten")
    finally:
        await backend.close()


def test_copy_brings_everything_and_goes_on_where_it_was(tmp_path: Path, revisions: list[str]) -> None:
    """Law: the copy has every blob and record; the second time nothing is left to bring, and later changes are."""
    source, destination = (tmp_path / "store").as_uri(), (tmp_path / "other").as_uri()
    first = call(tmp_path, "copy", source, destination)
    assert (first["blobs"], first["records"], first["blobs_there"]) == (2, 1, 0)
    again = call(tmp_path, "copy", source, destination)
    assert (again["blobs"], again["records"], again["blobs_there"], again["records_there"]) == (0, 0, 2, 1)
    asyncio.run(opened(tmp_path).set_live("theme-1", "theme", revisions[1], "test"))
    assert call(tmp_path, "copy", source, destination)["records"] == 1
    live = asyncio.run(AdapterStore(FileBackend(tmp_path / "other"), time.time).domain("theme-1"))
    assert live is not None
    assert live.live is not None
    assert (live.live.revision, live.generation) == (revisions[1], 2)
    assert "records: 0 copied, 1 were there" in runner.invoke(app, ["copy", source, destination]).stdout


def test_copy_shows_no_secret_of_either_store(tmp_path: Path, revisions: list[str]) -> None:
    """Law: an error names neither URL's password."""
    secret = "redis://user:hunter2@127.0.0.1:1/0"
    for pair in ((secret, (tmp_path / "other").as_uri()), ((tmp_path / "store").as_uri(), secret)):
        done = runner.invoke(app, ["copy", *pair])
        assert done.exit_code == 1
        assert "hunter2" not in done.output


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
