"""Trainings side by side: what is kept, what a broken one costs the others, and whose folders are new."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.claims.trainings import fresh, run_all, sittings
from benchmarks.claims.workplace import Workplace
from training.trials.kept import ANY_COMMIT, Found, KeptResults, TrialKey


@dataclass(frozen=True)
class Sum:
    """A training that takes no time; one of seed 0 breaks, one of seed 1 gives what JSON does not have."""

    seed: int

    @property
    def key(self) -> TrialKey:
        """What its result is kept by."""
        return TrialKey("sum", self.seed, "0" * 64, ANY_COMMIT)


def run(one: Sum) -> Found:
    """Run it."""
    if one.seed == 0:
        raise ValueError("no sum of nothing")
    return {"figure": float("nan") if one.seed == 1 else one.seed / 2}


def told(one: Sum, found: Found) -> str:
    """A line about it."""
    return f"sum {found['figure']:.1f} of {one.seed}"


def test_a_broken_training_loses_no_other(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Law: what breaks is told and raised at the end; every other result is kept by then, and a repeat runs none of
    them again. A result that is no JSON breaks, too."""
    with pytest.raises(ValueError, match=r"no sum of nothing|JSON"):
        run_all([Sum(seed) for seed in range(4)], run, told, tmp_path)
    said = capfd.readouterr().out
    assert "# broke: sum, seed 0: ValueError('no sum of nothing')" in said
    assert "# broke: sum, seed 1" in said
    assert "# sum 1.5 of 3" in said
    assert [KeptResults(tmp_path).get(Sum(seed).key) for seed in range(4)] == [
        None,
        None,
        {"figure": 1},
        {"figure": 1.5},
    ]
    KeptResults(tmp_path).put(Sum(2).key, {"figure": 7.0})
    assert run_all([Sum(3), Sum(2)], run, told, tmp_path) == {Sum(3): {"figure": 1.5}, Sum(2): {"figure": 7.0}}
    assert capfd.readouterr().out == ""


def test_a_folder_is_new_unless_it_is_to_be_reused(tmp_path: Path) -> None:
    """Law: what an earlier call left is gone, and stays where it is to be reused; another folder is left alone."""
    for name in ("own", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "result").write_text("old")
    assert fresh(Workplace(tmp_path, reuse=True), "own") == tmp_path / "own"
    assert (tmp_path / "own" / "result").exists()
    assert fresh(Workplace(tmp_path), "own") == tmp_path / "own"
    assert not (tmp_path / "own").exists()
    assert (tmp_path / "other" / "result").exists()


def test_what_sittings_left_is_gone_once_the_table_is_finished(tmp_path: Path) -> None:
    """Law: a block that ends with an error keeps its folder; one that ends well leaves nothing, other tables' aside."""
    for name in ("own", "other"):
        with pytest.raises(FileExistsError), sittings(name, tmp_path) as kept:
            _made_twice(kept)
    with sittings("own", tmp_path) as kept:
        assert kept.exists()
    assert [path.name for path in (tmp_path / "unfinished").iterdir()] == ["other"]
    with sittings("other", tmp_path):
        pass
    assert not (tmp_path / "unfinished").exists()


def _made_twice(folder: Path) -> None:
    folder.mkdir(parents=True)
    folder.mkdir()
