"""`espalier evaluate` over a run folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from cli.evaluate import evaluate
from tests.training.scored import scored_rows
from training.predictions import write_predictions

app = typer.Typer()
app.command()(evaluate)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with predictions alone."""
    write_predictions(tmp_path, scored_rows())
    return tmp_path


def test_evaluate_prints_and_writes_the_report(run: Path) -> None:
    """Law: from predictions alone it prints every method and writes report.json, report.md and the picture."""
    result = CliRunner().invoke(app, [str(run), "--draws", "100"])
    assert result.exit_code == 0, result.output
    assert "SingleLoRA" in result.output
    assert "large" in result.output
    assert {"report.json", "report.md", "auc.png"} <= {path.name for path in run.iterdir()}
    assert json.loads((run / "report.json").read_text())["evaluation"]["draws"] == 100


def test_evaluate_keeps_what_the_report_says_of_the_training(run: Path) -> None:
    """Law: evaluating again changes figures, not the training's record, and takes the run's own seed and draws."""
    record = {"config": {"seed": 5, "bootstrap_draws": 110}, "parameters": {"all": 7}}
    (run / "report.json").write_text(json.dumps({"evaluation": {}, "training": record}))
    assert CliRunner().invoke(app, [str(run)]).exit_code == 0
    report = json.loads((run / "report.json").read_text())
    assert report["training"] == record
    assert (report["evaluation"]["seed"], report["evaluation"]["draws"]) == (5, 110)


def test_evaluate_sends_the_run_where_it_is_asked_to(run: Path) -> None:
    """Law: the page is always there; a sink is told when asked, and one that fails ends the command with code 1."""
    pytest.importorskip("tensorboard")
    result = CliRunner().invoke(app, [str(run), "--draws", "100", "--tensorboard"])
    assert result.exit_code == 0, result.output
    assert (run / "report.html").exists()
    assert list((run / "tensorboard").glob("events.out.tfevents.*"))
    for path in (run / "tensorboard").iterdir():
        path.unlink()
    (run / "tensorboard").rmdir()
    (run / "tensorboard").write_text("a file in the way")
    result = CliRunner().invoke(app, [str(run), "--draws", "100", "--tensorboard"])
    assert result.exit_code == 1
    assert "did not take the run" in result.output


def test_evaluate_without_predictions_says_what_to_run(tmp_path: Path) -> None:
    """Law: a folder that is no finished run ends with code 1 and the command that makes one, no traceback."""
    folder = tmp_path / "run [red]"
    result = CliRunner().invoke(app, [str(folder)])
    assert result.exit_code == 1
    assert "espalier train" in result.stderr.replace("\n", " ")
    assert "run [red]" in result.stderr  # a path is no markup
    assert result.stdout == ""
    assert "Traceback" not in result.output
