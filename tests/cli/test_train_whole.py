"""`espalier train all --store`, `train whole` and `train overlays`, on a world that trains in a blink."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from adapters_store.file import FileBackend
from adapters_store.store import AdapterStore
from cli.main import app
from tests.training.search.world import STAGES
from training.predictions import read_predictions
from training.sources.synthetic import SyntheticWorld, synthetic


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared data and a configuration of it."""
    folder = tmp_path_factory.mktemp("world")
    synthetic(SyntheticWorld(seed=0, rows=6_000, users=60, items=30, domains=2, segments=2)).write(folder / "data")
    keys = {**STAGES, "data": str(folder / "data"), "fusion": {"mode": "single"}}
    (folder / "config.yaml").write_text(yaml.safe_dump(keys))
    return folder


OVERLAYS = {"threads": 1, "overlay": {"ids": "all"}, "schedule": {"epochs": 1, "batch_rows": 512}}


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["train", *arguments], env={"COLUMNS": "300"})


def live(folder: Path) -> set[str]:
    """Every domain that serves a revision of its own."""
    records = asyncio.run(AdapterStore(FileBackend(folder), time.time).domains())
    return {record.domain for record in records if record.live is not None}


def test_one_command_trains_and_publishes_and_baselines_stand_beside_it(world: Path, tmp_path: Path) -> None:
    """Law: `train all --store` ends with every domain live; `train whole` takes the run's backbone and reports the
    baselines named, and them alone; `train overlays` takes the finished run."""
    out, store = tmp_path / "run", tmp_path / "store"
    options = ["--config", str(world / "config.yaml"), "--out", str(out)]
    first = run("all", *options, "--store", store.as_uri())
    assert first.exit_code == 0, first.output
    assert "is now the default" in first.output
    assert {"theme-01", "theme-02"} <= live(store)
    beside = run("whole", *options, "single")
    assert beside.exit_code == 0, beside.output
    assert "report:" in beside.output
    assert list(read_predictions(out / "whole").logits) == ["backbone", "single"]
    (tmp_path / "overlays.yaml").write_text(yaml.safe_dump(OVERLAYS))
    laid = run("overlays", str(out), "--out", str(tmp_path / "laid"), "--config", str(tmp_path / "overlays.yaml"))
    assert laid.exit_code == 0, laid.output
    assert "2 of 2 domains have overlays now" in laid.output
    assert (tmp_path / "laid" / "overlays.json").exists()


def test_a_store_that_cannot_be_had_is_told_before_anything_is_trained(world: Path, tmp_path: Path) -> None:
    """Law: the command ends with status 1 and the reason, and no run is begun."""
    out = tmp_path / "run"
    options = ["--config", str(world / "config.yaml"), "--out", str(out), "--store", "memory://"]
    result = run("all", *options)
    assert result.exit_code == 1
    assert "name a store like file:///" in result.stderr
    assert not out.exists()


def test_overlays_are_of_a_finished_run(tmp_path: Path) -> None:
    """Law: a folder that holds none is an error that names what makes one."""
    result = run("overlays", str(tmp_path), "--out", str(tmp_path / "laid"))
    assert result.exit_code == 1
    assert "holds no finished run" in result.stderr


def test_a_baseline_of_no_such_name_is_a_wrong_use(world: Path, tmp_path: Path) -> None:
    """Law: only Fine-tune and Single are trained so."""
    result = run("whole", "--config", str(world / "config.yaml"), "--out", str(tmp_path / "run"), "mmoe")
    assert result.exit_code == 2
    assert not (tmp_path / "run").exists()


def test_shares_of_the_baselines_are_put_together(world: Path, tmp_path: Path) -> None:
    """Law: --packs trains its share and compares nothing; the run after it reads the shares and reports."""
    options = ["--config", str(world / "config.yaml"), "--out", str(tmp_path / "run")]
    assert run("pretrain", *options).exit_code == 0
    for packs in ("1/2", "2/2"):
        share = run("whole", *options, "single", "--packs", packs, "--resume")
        assert share.exit_code == 0, share.output
        assert f"of share {packs} are trained" in share.output
        assert not (tmp_path / "run" / "whole").exists()
    told = run("whole", *options, "single", "--resume")
    assert told.exit_code == 0, told.output
    assert list(read_predictions(tmp_path / "run" / "whole").logits) == ["backbone", "single"]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--packs", "1/2", "--ray"), "leave --packs out"),
        (("--ray", "single"), "write it before --ray"),
        (("--packs", "half"), "write i/n"),
        (("--packs", "3/2"), "no share 3 of 2"),
    ],
)
def test_what_cannot_be_shared_out_is_refused(world: Path, tmp_path: Path, words: tuple[str, ...], named: str) -> None:
    """Law: the message says what to write instead, and nothing is trained."""
    refused = run("whole", "--config", str(world / "config.yaml"), "--out", str(tmp_path / "run"), *words)
    assert refused.exit_code != 0
    assert named in refused.output
    assert not (tmp_path / "run").exists()
