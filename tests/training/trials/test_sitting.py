"""Sittings: what is finished is never trained again, and what is not goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.trials.planned import Training, trial
from training.progress import SilentMeter
from training.trials.sitting import Sat, Sitting
from training.trials.trial import Trial


def sit(out: Path, training: Training, trials: list[Trial], most: int | None = None, **options: bool) -> Sat:
    """One sitting."""
    return Sitting(out, training, SilentMeter(), **options).run(trials, most)


def table() -> list[Trial]:
    """Two methods with two seeds."""
    return [trial(method, seed) for seed in (0, 1) for method in ("base", "deep")]


def test_a_second_sitting_trains_nothing_again(tmp_path: Path) -> None:
    """Law: results are those of the first sitting, though every object is another."""
    first = sit(tmp_path, Training(), table())
    again = Training()
    second = sit(tmp_path, again, table())
    assert again.trained == []
    assert list(second.found.values()) == list(first.found.values())
    assert second.missing == ()


def test_an_interrupted_sitting_loses_only_what_was_under_way(tmp_path: Path) -> None:
    """Law: what was finished before is kept, the state of what was not stays for the next sitting."""
    with pytest.raises(KeyboardInterrupt):
        sit(tmp_path, Training(stops_at=3), table())
    assert len(list((tmp_path / "runs").iterdir())) == 1
    again = Training()
    found = sit(tmp_path, again, table())
    assert [(t.method, t.seed) for t in again.trained] == [("base", 1), ("deep", 1)]
    assert len(found.found) == 4
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_sitting_trains_at_most_what_it_may(tmp_path: Path) -> None:
    """Law: the first of what is missing, in order; the rest is told as missing."""
    training = Training()
    sat = sit(tmp_path, training, table(), most=3)
    assert len(training.trained) == len(sat.found) == 3
    assert [(t.method, t.seed) for t in sat.missing] == [("deep", 1)]
    assert len(sit(tmp_path, training, table(), most=0).missing) == 1
    assert sit(tmp_path, training, table(), most=3).missing == ()


def test_results_of_other_code_are_taken_only_when_asked(tmp_path: Path) -> None:
    """Law: after a change of the code a trial is trained again; with `any_commit` it is taken, and its commit told."""
    sit(tmp_path, Training(), [trial(commit="old")])
    training = Training()
    taken = sit(tmp_path, training, [trial(commit="new")], any_commit=True)
    assert training.trained == []
    assert list(taken.other_commits.values()) == ["old"]
    fresh = sit(tmp_path, training, [trial(commit="new")])
    assert len(training.trained) == 1
    assert fresh.other_commits == {}


def test_run_folders_stay_only_when_asked(tmp_path: Path) -> None:
    """Law: a finished trial's folder is removed once its result is kept, unless it is to stay."""
    sit(tmp_path / "a", Training(), [trial()])
    sit(tmp_path / "b", Training(), [trial()], keep_runs=True)
    assert list((tmp_path / "a" / "runs").iterdir()) == []
    assert [path.name for path in (tmp_path / "b" / "runs").iterdir()] == [trial().key.name]


def test_what_decides_a_result_decides_the_key() -> None:
    """Law: settings, data, seed and code are in the key; where data lies and who is told are not."""
    key = trial().key
    assert trial(data="elsewhere", rows="disk", sinks={"tensorboard": True}).key == key
    assert trial(pretrain={"lr": 0.5}).key.config != key.config
    assert Trial("base", trial().config, "other data", "c1").key.config != key.config
    assert trial(seed=1).key.config == key.config
    assert trial(seed=1).key != key
    assert trial(commit="c2").key != key
