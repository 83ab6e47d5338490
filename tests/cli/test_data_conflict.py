"""Laws of `espalier data prepare conflict`: the conflict world as a source like the others."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from cli.data import app
from training.prepared import PreparedDataset
from training.sources.conflict import ConflictWorld, conflicting

SIZES = {"rows": 3000, "users": 30, "items": 20, "domains": 3}


def test_the_conflict_world_is_prepared_as_it_is_drawn(tmp_path: Path) -> None:
    """Law: the options are the world's own; its folder is loaded again, its best AUC stands on the screen."""
    options = [word for name, value in SIZES.items() for word in (f"--{name}", str(value))]
    words = ["prepare", "conflict", "--out", str(tmp_path / "data"), "--seed", "4", "--conflict", "0.5", *options]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    drawn = conflicting(ConflictWorld(seed=4, conflict=0.5, **SIZES))
    prepared = PreparedDataset.load(tmp_path / "data")
    assert prepared.interactions.equals(drawn.interactions)
    assert prepared.spec.facts["mean_cosine"] == drawn.spec.facts["mean_cosine"]
    assert f"no model can beat: {drawn.spec.facts['bayes_auc']:.4f}" in result.output


def test_a_world_that_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    """Law: what no world can have ends with code 1 and a line that says why; nothing is written."""
    words = ["prepare", "conflict", "--out", str(tmp_path / "data"), "--domains", "4", "--directions", "3"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 1
    assert "directions" in result.output + result.stderr
    assert not (tmp_path / "data").exists()
