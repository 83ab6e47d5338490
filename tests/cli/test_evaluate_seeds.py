"""`espalier evaluate --seeds`, end to end on a world that trains in a blink."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner, Result

from cli.evaluate import evaluate
from tests.training.small import SETTINGS
from tests.training.trials.planned import Training
from training.progress import SilentMeter
from training.sources.synthetic import SyntheticWorld, synthetic
from training.trials.seeds import read_any, trials_of
from training.trials.sitting import Sitting

app = typer.Typer()
app.command()(evaluate)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared data and two configurations: of the three stages, and of a framework."""
    folder = tmp_path_factory.mktemp("world")
    synthetic(SyntheticWorld(seed=0, rows=6_000, users=60, items=30, domains=2, segments=2)).write(folder / "data")
    once = {"lr": 5e-3, "batch_rows": 512, "epochs": 1}
    stages = {**SETTINGS, "export_ablations": False, "pretrain": once, "adapters": once, "fuse": once}
    mix = {"framework": "mix", "network": {"width": 4, "tower": [8]}, "epochs": 1, "bootstrap_draws": 100}
    for name, keys in (("stages", stages), ("mix", mix)):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({**keys, "data": str(folder / "data")}))
    return folder


def seeds(world: Path, out: Path, *options: str) -> Result:
    """Two seeds of both configurations, whatever code kept results came from: a checkout may change under a test."""
    configs = [part for name in ("stages", "mix") for part in ("--config", str(world / f"{name}.yaml"))]
    return CliRunner().invoke(app, ["--seeds", "2", *configs, "--out", str(out), "--any-commit", *options])


def test_a_table_is_finished_over_sittings(world: Path, tmp_path: Path) -> None:
    """Law: a sitting trains what is missing alone; its figures are the run's own; a finished table trains nothing."""
    out = tmp_path / "table"
    trials = trials_of({name: read_any(world / f"{name}.yaml") for name in ("stages", "mix")}, 2, "old")
    Sitting(out, Training(), SilentMeter()).run(trials, most=3)
    first = seeds(world, out, "--most", "0")
    assert first.exit_code == 0, first.output
    assert "1 trainings are left" in first.output
    second = seeds(world, out, "--keep-runs")
    assert second.exit_code == 0, second.output
    assert "3 of 4 trials are kept; 1 are trained now" in second.output
    again = seeds(world, out, "--against", "mix:backbone")
    assert "4 of 4 trials are kept; 0 are trained now" in again.output
    content = json.loads((out / "seeds.json").read_text())
    assert content["against"] == "mix:backbone"
    assert content["missing"] == []
    assert content["other_commits"] == {"stages, seed 0": "old", "mix, seed 0": "old", "stages, seed 1": "old"}
    (run,) = (out / "runs").glob("mix-1-*")
    assert aucs(content, "mix:backbone") == [0.5, reported(run)]


def test_a_line_that_is_still_to_be_trained_is_waited_for(world: Path, tmp_path: Path) -> None:
    """Law: a sitting that ends before the line to compare with is there ends well, keeps what it trained and writes no
    table; a name that will never be there is refused before anything is trained."""
    out = tmp_path / "table"
    trials = trials_of({name: read_any(world / f"{name}.yaml") for name in ("stages", "mix")}, 2, "old")
    Sitting(out, Training(), SilentMeter()).run(trials, most=1)
    waited = seeds(world, out, "--most", "0", "--against", "mix:backbone")
    assert waited.exit_code == 0, waited.output
    assert "no table yet" in waited.output
    assert "3 trainings are left: the same command goes on" in waited.output
    assert [path.name for path in out.iterdir() if path.is_file()] == []
    assert len(list((out / "kept").iterdir())) == 1
    mistyped = seeds(world, tmp_path / "other", "--against", "mux:backbone")
    assert mistyped.exit_code == 1
    assert "lines are called like stages:backbone, mix:backbone" in mistyped.stderr
    assert not (tmp_path / "other").exists()


def test_a_folder_that_cannot_be_made_is_told(world: Path, tmp_path: Path) -> None:
    """Law: what the file system refuses is one line that names the folder, and no traceback."""
    (tmp_path / "file").write_text("")
    result = seeds(world, tmp_path / "file" / "table", "--most", "0")
    assert result.exit_code == 1
    assert "cannot go on in" in result.stderr
    assert "Traceback" not in result.output


def aucs(content: dict[str, Any], line: str) -> list[float]:
    """What the table has of a line, by seed."""
    return [score["auc"] for score in content["methods"][line]["seeds"].values()]


def reported(run: Path) -> float:
    """The pooled AUC that a run's own report has of what its domains share."""
    methods = json.loads((run / "report.json").read_text())["evaluation"]["methods"]
    return float(methods["backbone"]["pooled"]["auc"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--seeds"),
        (["run", "--seeds", "2"], "--seeds"),
        (["run", "--most", "2"], "goes with --seeds"),
        (["--seeds", "2", "--mlflow", "http://a"], "goes with a run"),
        (["--seeds", "2"], "--config FILE and --out DIR"),
        (["run", "--mlflow", "http://me:secret@a"], "MLFLOW_TRACKING_PASSWORD"),
    ],
)
def test_options_that_do_not_fit_are_refused(arguments: list[str], said: str) -> None:
    """Law: a run or seeds, each with its own options; the message says what fits."""
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "300"})
    assert result.exit_code == 2
    assert said in result.output


def test_configurations_need_names_of_their_own(world: Path, tmp_path: Path) -> None:
    """Law: two files of one name would be one line of the table, so they are refused."""
    twice = ["--config", str(world / "mix.yaml")] * 2
    result = CliRunner().invoke(app, ["--seeds", "1", *twice, "--out", str(tmp_path / "t")], env={"COLUMNS": "300"})
    assert result.exit_code == 2
    assert not (tmp_path / "t").exists()
