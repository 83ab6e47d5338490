"""`espalier train search`, end to end on a world that trains in a blink."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from cli.main import app
from tests.training.search.world import FRAMEWORK, STAGES
from training.config import read_config
from training.frameworks.config import MamdrConfig
from training.sources.synthetic import SyntheticWorld, synthetic


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared data and two configurations: of the three stages, and of a framework."""
    folder = tmp_path_factory.mktemp("world")
    synthetic(SyntheticWorld(seed=0, rows=6_000, users=60, items=30, domains=2, segments=2)).write(folder / "data")
    for name, keys in (("stages", STAGES), ("framework", FRAMEWORK)):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({**keys, "data": str(folder / "data")}))
    return folder


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["train", *arguments], env={"COLUMNS": "300"})


def test_a_stage_is_searched_and_trained_as_found(world: Path, tmp_path: Path) -> None:
    """Law: the command states its cost, refuses to begin again, goes on with a larger budget, and what it leaves is a
    configuration that `train` takes as it is."""
    out = tmp_path / "search"
    arguments = ["search", "pretrain", "--config", str(world / "stages.yaml"), "--out", str(out)]
    first = run(*arguments, "--trials", "2")
    assert first.exit_code == 0, first.output
    assert "search pretrain: 2 trials, each of at most 4,800 rows passed, 9,600 in all" in first.output
    assert (out / "search.md").exists()
    again = run(*arguments, "--trials", "3")
    assert again.exit_code == 1
    assert "--resume goes on with it" in again.stderr
    more = run(*arguments, "--trials", "3", "--resume")
    assert more.exit_code == 0, more.output
    method = json.loads((out / "search.json").read_text())["methods"]["pretrain"]
    assert len(method["trials"]) == 3
    config = str(out / "pretrain" / "config.yaml")
    trained = run("pretrain", "--config", config, "--out", str(tmp_path / "run"))
    assert trained.exit_code == 0, trained.output
    assert f"validation AUC {method['best']['auc']:.5f}" in trained.output


def test_a_framework_is_searched_in_a_space_of_ones_own(world: Path, tmp_path: Path) -> None:
    """Law: a configuration of a framework is searched by name, and a file of spaces replaces the usual one."""
    (tmp_path / "spaces.yaml").write_text("mix: {inner.lr: {low: 0.001, high: 0.01, log: true}}")
    out = tmp_path / "search"
    options = ["--config", str(world / "framework.yaml"), "--out", str(out), "--trials", "2"]
    found = run("search", "mix", *options, "--space", str(tmp_path / "spaces.yaml"))
    assert found.exit_code == 0, found.output
    method = json.loads((out / "search.json").read_text())["methods"]["mix"]
    assert [list(trial["point"]) for trial in method["trials"]] == [["inner.lr"]] * 2
    config = read_config(out / "mix" / "config.yaml", MamdrConfig)
    assert config.inner.lr == method["best"]["point"]["inner.lr"]
    assert config.framework == "mix"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["pretrian"], "no method 'pretrian' to search"),
        (["pretrain", "--space", "SPACES"], "a space for mix, which is not searched here"),
    ],
)
def test_a_wrong_use_is_told_before_anything_is_trained(
    world: Path, tmp_path: Path, arguments: list[str], said: str
) -> None:
    """Law: a name or a space that does not fit is one line, and no folder is made."""
    (tmp_path / "spaces.yaml").write_text("mix: {inner.lr: {values: [0.1]}}")
    given = [str(tmp_path / "spaces.yaml") if part == "SPACES" else part for part in arguments]
    options = ["--config", str(world / "stages.yaml"), "--out", str(tmp_path / "out"), "--trials", "1"]
    result = run("search", *given, *options)
    assert result.exit_code == 1
    assert said in result.stderr
    assert not (tmp_path / "out").exists()
