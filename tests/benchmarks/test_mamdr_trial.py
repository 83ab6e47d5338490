"""Trials of the long tables: what is kept is not trained again."""

from __future__ import annotations

from pathlib import Path

from benchmarks.claims.mamdr_trial import Trial, run_all
from training.trials.kept import KeptResults


def test_a_kept_trial_is_not_run_again(tmp_path: Path) -> None:
    """Law: its result is taken from disk, even where its data is gone; the seed and every key tell trials apart."""
    trial = Trial.of(tmp_path / "gone", {"framework": "mix", "epochs": 1}, 0)
    KeptResults(tmp_path / "kept").put(trial.key, {"test": 0.75})
    assert run_all([trial], tmp_path / "kept") == {trial: {"test": 0.75}}
    others = (
        Trial.of(tmp_path / "gone", {"framework": "mix", "epochs": 1}, 1),
        Trial.of(tmp_path / "gone", {"framework": "mix", "epochs": 2}, 0),
        Trial.of(tmp_path / "gone", {"framework": "dn", "epochs": 1}, 0),
        Trial.of(tmp_path / "elsewhere", {"framework": "mix", "epochs": 1}, 0),
    )
    assert len({each.key for each in (trial, *others)}) == 5
