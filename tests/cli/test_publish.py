"""`espalier publish` on a run of random artifacts, with the real engine and a file store."""

from __future__ import annotations

import asyncio
import shutil
import time
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from adapters_store.file import FileBackend
from adapters_store.releases import Release
from adapters_store.store import AdapterStore
from benchmarks.forge import Run
from cli.publish import publish

app = typer.Typer()
app.command()(publish)
runner = CliRunner()


def generations(folder: Path) -> dict[str, int]:
    records = asyncio.run(AdapterStore(FileBackend(folder), time.time).domains())
    return {record.domain: record.generation for record in records}


def test_publishing_makes_a_run_live_and_can_be_repeated(random_run: Run, tmp_path: Path) -> None:
    """Law: the first run publishes everything, the second one finds nothing to do and says so."""
    store = tmp_path / "store"
    first = runner.invoke(app, [str(random_run.folder), "--store", store.as_uri()])
    assert first.exit_code == 0, first.output
    assert "is now the default" in first.output
    assert "adapters: 7 now live, 0 unchanged" in first.output
    published = generations(store)
    assert len(published) == 7
    second = runner.invoke(app, [str(random_run.folder)], env={"ESPALIER_STORE": store.as_uri()})
    assert second.exit_code == 0, second.output
    assert "nothing to do: all 9 artifacts are live already" in second.output
    assert generations(store) == published


def test_a_release_is_stored_and_staged_and_moves_no_record(random_run: Run, tmp_path: Path) -> None:
    """Law: with `--release` every adapter is stored, one release names them all, and no domain's record is written."""
    url = (tmp_path / "store").as_uri()
    for stored in ("7 stored now, 0 were there", "0 stored now, 7 were there"):
        done = runner.invoke(app, [str(random_run.folder), "--store", url, "--release"])
        assert done.exit_code == 0, done.output
        assert stored in done.output
    assert generations(tmp_path / "store") == {}

    async def staged() -> Release:
        store = AdapterStore(FileBackend(tmp_path / "store"), time.time)
        revision = (await store.staged()).release
        assert revision is not None
        assert f"release {revision} is staged" in done.output
        return await store.release(revision)

    release = asyncio.run(staged())
    assert {division: len(domains) for division, domains in release.divisions.items()} == {"segment": 3, "theme": 4}


def test_dry_run_writes_nothing(random_run: Run, tmp_path: Path) -> None:
    """Law: `--dry-run` verifies and leaves no store behind."""
    done = runner.invoke(app, [str(random_run.folder), "--store", (tmp_path / "store").as_uri(), "--dry-run"])
    assert done.exit_code == 0, done.output
    assert "7 adapters; nothing written" in done.output
    assert not (tmp_path / "store").exists()


def test_refused_run_ends_with_status_1_and_the_fault(random_run: Run, tmp_path: Path) -> None:
    """Law: a damaged file is named on stderr, and nothing is written."""
    run = tmp_path / "run"
    shutil.copytree(random_run.folder, run)
    path = run / "adapters" / "theme-3.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    done = runner.invoke(app, [str(run), "--store", (tmp_path / "store").as_uri()])
    assert done.exit_code == 1
    assert "error: theme-3.safetensors: truncated" in done.stderr
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("store", "message"),
    [
        ("memory://", "memory:// lives in one process"),
        ("redis://127.0.0.1:1", "127.0.0.1:1"),
        ("redys://x", "redys:// is none"),
        ("x", "starts with"),
    ],
)
def test_store_that_cannot_be_published_to_says_why(random_run: Run, store: str, message: str) -> None:
    """Law: a URL of no use here is refused with advice."""
    done = runner.invoke(app, [str(random_run.folder), "--store", store])
    assert done.exit_code == 1
    assert message in done.stderr


def test_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    """Law: a wrong folder is told apart from a wrong run."""
    done = runner.invoke(app, [str(tmp_path), "--store", (tmp_path / "store").as_uri()])
    assert done.exit_code == 1
    assert "name the folder that `espalier train all` wrote" in done.stderr
