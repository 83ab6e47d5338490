"""Laws of `espalier data prepare`: a folder that training can load, or one clear line on what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.data import app
from tests.training.movielens_files import RATINGS, write_movielens
from training.prepared import PreparedDataset


def test_synthetic_data_is_prepared_with_its_bayes_auc_on_the_screen(tmp_path: Path) -> None:
    """The folder loads, has the size asked for, and the screen says what no model can beat."""
    sizes = ["--rows", "30000", "--users", "100", "--items", "50", "--domains", "5", "--segments", "3", "--seed", "7"]
    result = CliRunner().invoke(app, ["prepare", "synthetic", "--out", str(tmp_path / "data"), *sizes])
    assert result.exit_code == 0, result.output
    prepared = PreparedDataset.load(tmp_path / "data")
    assert len(prepared.interactions) == 30_000
    assert len(prepared.spec.natural.domains) == 5
    assert f"no model can beat: {prepared.spec.facts['bayes_auc']:.4f}" in result.output


def test_movielens_is_prepared_from_its_files(tmp_path: Path) -> None:
    """Small files of the same form need --any-size; with it the folder loads."""
    source = write_movielens(tmp_path / "source")
    command = ["prepare", "movielens-1m", "--source", str(source), "--out", str(tmp_path / "data")]
    refused = CliRunner().invoke(app, command)
    assert refused.exit_code == 1
    assert "--any-size" in refused.stderr
    assert not (tmp_path / "data").exists()
    result = CliRunner().invoke(app, [*command, "--any-size"])
    assert result.exit_code == 0, result.output
    assert len(PreparedDataset.load(tmp_path / "data").interactions) == len(RATINGS)


@pytest.mark.parametrize(
    ("broken", "message"),
    [("ratings.dat", "ratings.dat, line 7: rating is no integer"), (None, "users.dat: is missing")],
)
def test_a_broken_source_ends_with_one_line_and_no_folder(tmp_path: Path, broken: str | None, message: str) -> None:
    """No stack trace: file, line, fault and remedy on stderr, exit status 1."""
    source = write_movielens(tmp_path / "source", ratings=[*RATINGS, "2::2::?"])
    if broken is None:
        (source / "users.dat").unlink()
    command = ["prepare", "movielens-1m", "--source", str(source), "--out", str(tmp_path / "data"), "--any-size"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 1
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert not (tmp_path / "data").exists()


def test_a_world_that_cannot_be_drawn_is_refused_in_words(tmp_path: Path) -> None:
    """Too few rows for the domains: the line says how many are needed."""
    command = ["prepare", "synthetic", "--out", str(tmp_path / "data"), "--rows", "2000", "--domains", "40"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 1
    assert "need at least" in result.stderr
