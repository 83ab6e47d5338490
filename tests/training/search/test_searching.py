"""A search: its budget, its cost, what a kill must not change, and what it leaves behind."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from tests.training.search.told import Listening
from tests.training.search.world import ONCE, Planned, framework, searching, stages
from training.config import load_config
from training.errors import StateMismatch
from training.search.errors import NothingJudged
from training.search.found import Budget, Searched
from training.search.journal import FOR_IMPORTANCE
from training.search.space import Range
from training.search.writing import configured, write_found
from training.trials.seeds import read_any

TRIALS = 12


def test_a_killed_search_ends_as_an_uninterrupted_one(tmp_path: Path) -> None:
    """Law: whichever trial a search dies in, that trial is run again and counted once: points, worths and the
    configuration are those of a search that nobody stopped."""
    whole = searching(tmp_path / "whole", Planned(), TRIALS, Listening()).run()
    for stops_at in (1, 10):
        out = tmp_path / str(stops_at)
        with pytest.raises(KeyboardInterrupt):
            searching(out, Planned(stops_at), TRIALS, Listening()).run()
        assert len(list((out / "trials").iterdir())) == 1
        left = Planned()
        again = searching(out, left, TRIALS, Listening()).run()
        assert again == whole
        assert len(left.judged) == TRIALS - stops_at + 1
        assert list((out / "trials").iterdir()) == []


def test_a_finished_search_trains_nothing_again(tmp_path: Path) -> None:
    """Law: the same command finds what was found; a larger budget goes on from there."""
    first = searching(tmp_path, Planned(), 3, Listening()).run()
    judge = Planned()
    assert searching(tmp_path, judge, 3, Listening()).run() == first
    assert judge.judged == []
    more = searching(tmp_path, judge, 5, Listening()).run()
    assert len(judge.judged) == 2
    assert more.told[:3] == first.told


def test_the_configuration_as_given_is_the_first_trial(tmp_path: Path) -> None:
    """Law: what is found is never worse on validation than what was given; of equal trials the earlier one is found."""
    judge = Planned()
    found = searching(tmp_path / "best", judge, TRIALS, Listening(), lr=1e-3, dropout=0.2).run()
    assert judge.judged[0] == stages(pretrain={**ONCE, "lr": 1e-3, "dropout": 0.2})
    assert found.best.number == 0
    assert found.config == judge.judged[0]
    poor = searching(tmp_path / "poor", Planned(), TRIALS, Listening(), lr=1e-2).run()
    assert poor.best.number > 0
    best = max(told.judged.auc for told in poor.told if told.judged.auc is not None)
    assert poor.best.judged.auc == best
    assert poor.best.point == {key: getattr(poor.config.pretrain, key.split(".")[1]) for key in poor.space}


def test_no_trial_begins_after_the_hours(tmp_path: Path) -> None:
    """Law: the sum of the trials' seconds, earlier sittings included, bounds when one may begin; the first one may."""
    hours = 5 / 3600  # a trial takes two seconds
    judge = Planned()
    searching(tmp_path, judge, 2, Listening(), hours).run()
    found = searching(tmp_path, judge, 99, Listening(), hours).run()
    assert len(judge.judged) == len(found.told) == 3
    assert len(searching(tmp_path / "none", Planned(), 99, Listening(), 0.0).run().told) == 1


def test_the_cost_is_said_before_the_run(tmp_path: Path) -> None:
    """Law: trials and rows are stated from the configuration alone; what is left, after each trial."""
    meter = Listening()
    search = searching(tmp_path, Planned(), 4, meter, epochs=7)
    assert "search pretrain: 4 trials, each of at most 7,000 rows passed, 28,000 in all" in search.cost()
    assert not tmp_path.joinpath("journal.log").exists()
    search.run()
    assert "3 trials are left, about 6 s" in meter.lines[0]
    assert "best is" in meter.lines[-1]
    assert len(meter.lines) == 4


def test_a_trial_without_an_auc_counts_and_is_not_found(tmp_path: Path) -> None:
    """Law: what was drawn and is worth nothing takes its place in the budget; as given it ends the search untold."""
    found = searching(tmp_path / "drawn", Planned(worthless=(2, 3)), 5, Listening()).run()
    assert [told.judged.auc is None for told in found.told] == [False, True, True, False, False]
    assert found.best.number not in (1, 2)
    with pytest.raises(NothingJudged, match="pretrain as given has no validation AUC"):
        searching(tmp_path / "given", Planned(worthless=(1,)), 5, Listening()).run()
    again = searching(tmp_path / "given", Planned(), 1, Listening()).run()
    assert len(again.told) == 1


def test_another_configuration_is_refused(tmp_path: Path) -> None:
    """Law: trials of one configuration are not taken for another's; keys that decide no trial may change."""
    searching(tmp_path, Planned(), 1, Listening()).run()
    with pytest.raises(StateMismatch, match=r"config\.pretrain\.epochs was 1, is now 2"):
        searching(tmp_path, Planned(), 2, Listening(), epochs=2).run()


def found_by(out: Path, trials: int) -> Searched:
    return searching(out / "pretrain", Planned(worthless=(3,)), trials, Listening()).run()


def test_tables_hold_every_trial(tmp_path: Path) -> None:
    """Law: search.json has each trial, the best and the given one, search.md a row for each, with what was searched."""
    one = found_by(tmp_path, FOR_IMPORTANCE + 1)
    write_found(tmp_path, [one], Budget(FOR_IMPORTANCE + 1, 2.0))
    content = json.loads((tmp_path / "search.json").read_text())
    assert content["budget"] == {"trials": FOR_IMPORTANCE + 1, "hours": 2.0}
    method = content["methods"]["pretrain"]
    assert [trial["auc"] for trial in method["trials"]] == [told.judged.auc for told in one.told]
    assert method["best"]["number"] == one.best.number
    assert method["given"] == method["trials"][0]
    assert method["space"]["pretrain.dropout"] == Range(low=0.0, high=0.6).model_dump()
    assert next(iter(method["importance"])) in ("pretrain.lr", "pretrain.dropout")
    page = (tmp_path / "search.md").read_text()
    for told in one.told:
        assert f"\n| {told.number} " in page
    assert f"| {one.best.number} (best) | {one.best.judged.auc:.5f} |" in page
    assert "`pretrain.lr` 0.0001 to 0.01 on a log scale" in page
    assert "1 trials have no AUC" in page


def test_the_configuration_is_one_that_training_takes(tmp_path: Path) -> None:
    """Law: config.yaml read back is the best trial's configuration, of the stages and of a framework with a preset."""
    one = found_by(tmp_path, 4)
    write_found(tmp_path, [one], Budget(4))
    assert load_config(tmp_path / "pretrain" / "config.yaml") == one.config
    for config in (framework(), framework(preset="parity", inner={"reset": "loop"}, finetune={"epochs": 0})):
        path = tmp_path / "framework.yaml"
        path.write_text(configured(replace(one, config=config)))
        assert read_any(path) == config
        assert "AUC" in path.read_text().splitlines()[0]
    assert yaml.safe_load((tmp_path / "pretrain" / "config.yaml").read_text())["threads"] == 1
