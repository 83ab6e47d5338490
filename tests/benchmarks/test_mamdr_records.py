"""Laws of the long tables' records: what is written, what is run again, what it costs, what a page is made of."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.claims import mamdr_movielens, mamdr_sweeps
from benchmarks.claims.line import Line
from benchmarks.claims.mamdr_contest import (
    SEEDS,
    Contest,
    Method,
    Row,
    Rows,
    longest_first,
    origin,
    write_record,
)
from benchmarks.claims.mamdr_results import AGREEMENT, TITLES, chosen, write_results
from benchmarks.claims.mamdr_trial import Found, Trial, run
from benchmarks.claims.workplace import Workplace
from training.config import TrainingConfig
from training.sources.conflict import ConflictWorld, conflicting
from training.stages import folder_digest
from training.trials.kept import KeptResults
from training.trials.student import quantile

BASE: dict[str, Any] = {"network": {"width": 3, "tower": [4], "dropout": 0.1, "embedding_std": 0.1}, "epochs": 1}
METHODS = tuple(
    Method(name, tuple({"framework": name, "inner": {"lr": lr}} for lr in (1e-3, 3e-3))) for name in ("mix", "dn")
)


class Told:
    """Rows of another trainer, which takes no time."""

    trainings = 6

    def rows(self, data: Path, seeds: Sequence[int], kept: Path) -> dict[str, Row]:
        """One row."""
        return {"other": Row({"asked": True}, tuple(figures(0.6 + seed / 100) for seed in seeds))}

    def again(self, data: Path, rows: Rows, kept: Path) -> dict[str, Found]:
        """Far away from what it was."""
        return {name: figures(0.9) for name in rows}


def figures(auc: float, seconds: float = 30.0) -> dict[str, Any]:
    """What a training gives."""
    domains = {"x": auc, "y": None}
    return {"validation": auc, "test": auc, "domains": domains, "pooled": auc, "seconds": seconds, "code": "c" * 40}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two domains of a few hundred rows."""
    folder = tmp_path_factory.mktemp("tiny")
    conflicting(ConflictWorld(rows=900, users=30, items=20, domains=2)).write(folder)
    return folder


@pytest.fixture
def kept(tiny: Path, tmp_path: Path) -> Workplace:
    """Every training of the table is finished, in a work folder and in sittings: the larger step size is the better."""
    work = Workplace(tmp_path / "work", reuse=True)
    folders = (work.folder / "contest-tried", tmp_path / "records" / "unfinished" / "tried")
    for place, method in enumerate(METHODS):
        for config in method.grid:
            for seed in SEEDS:
                value = 0.5 + place / 10 + config["inner"]["lr"] + seed / 1000
                trial = Trial.of(tiny, {**BASE, **config}, seed, folder_digest(tiny))
                for folder in folders:
                    KeptResults(folder).put(trial.key, figures(value, seconds=60.0 * (place + 1)))
    return work


def contest(records: Path, **more: Any) -> Contest:
    """The table of two methods and another trainer's row."""
    settings: dict[str, Any] = {"aims": [("dn", "mix")], "best": "other", "beside": Told(), "records": records}
    return Contest("tried", BASE, METHODS, **{**settings, **more})


def claims(lines: Iterator[Line]) -> Mapping[str, Line]:
    """Lines by what they claim."""
    return {line.claim: line for line in lines}


def test_everything_is_recorded_and_seed_0_is_checked_against_it(
    kept: Workplace, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law: FULL=1 records what validation preferred and every seed of it, and goes on from what earlier sittings left,
    which is gone then; later calls print that, and run seed 0 again and hold it to the recorded interval; a row that
    left it falls short."""
    table = contest(tmp_path / "records", again=("dn", "other"))
    monkeypatch.setenv("FULL", "1")
    found = claims(table.lines(kept, tiny))
    assert not any("again" in claim for claim in found)
    assert not (tmp_path / "records" / "unfinished").exists()
    rows = table.rows()
    assert rows is not None
    assert [rows[name].config["inner"]["lr"] for name in ("mix", "dn")] == [3e-3, 3e-3]
    assert rows["dn"].means == pytest.approx([0.603 + seed / 1000 for seed in SEEDS])
    monkeypatch.delenv("FULL")
    found = claims(table.lines(kept, tiny))
    claim = "tried: {}, seed 0 again, in the recorded 95% interval of a seed"
    assert [found[claim.format(name)].verdict for name in ("dn", "other")] == ["holds", "falls short"]
    assert "mix" in found["tried: rows whose seed 0 is not run again"].figure
    assert found["tried: dn - mix, mean per-domain AUC, paired 95% over 5 seeds"].verdict == "holds"
    assert "trained by code ccccccccc" in found["tried: recorded"].figure


def test_without_a_record_every_aim_falls_short(tiny: Path, tmp_path: Path) -> None:
    """Law: nothing is taken for granted that was not measured, and nothing is trained to say so."""
    lines = list(contest(tmp_path).lines(Workplace(tmp_path / "work"), tiny))
    assert [line.verdict for line in lines] == ["falls short"] * 2
    assert all("FULL=1" in line.figure for line in lines)


def test_what_is_run_again_fits_into_its_time(tmp_path: Path) -> None:
    """Law: in order of importance, each row that what is left of the time allows; none that is not recorded."""
    rows = {name: Row({}, (figures(0.6, seconds),)) for name, seconds in (("a", 100.0), ("b", 90.0), ("c", 20.0))}
    order = ("a", "unknown", "b", "c")
    assert contest(tmp_path, again=order, again_minutes=2.0).run_again(rows) == ["a", "c"]
    assert contest(tmp_path, again=order).run_again(rows) == ["a", "b", "c"]
    assert contest(tmp_path, again=order, again_minutes=0.0).run_again(rows) == []


def test_the_bill_is_what_the_record_took(tmp_path: Path) -> None:
    """Law: of each method as many trainings as configurations and seeds more; of another trainer its own number."""
    rows = {"mix": figures(0.6, 60.0), "dn": figures(0.6, 120.0), "other": figures(0.6, 600.0)}
    methods = {name: {"config": {}, "seeds": [found] * len(SEEDS)} for name, found in rows.items()}
    assert contest(tmp_path, core_hours=3.5).bill() == (3.5, "a guess")
    write_record(tmp_path / "tried.json", {**origin([]), "methods": methods})
    hours, known = contest(tmp_path).bill()
    assert hours == pytest.approx((6 * 60 + 6 * 120 + 6 * 600) / 3600)
    assert known == "by the last record"


def test_the_page_is_made_of_the_records(tmp_path: Path) -> None:
    """Law: a table and a plot for each record, best first; what is not recorded says so, and no plot is linked."""
    records, page, images = tmp_path / "records", tmp_path / "docs" / "page.md", tmp_path / "docs" / "images"
    page.parent.mkdir()
    write_results(records, page, images)
    assert page.read_text().count("Not recorded yet") == len(TITLES) + 1
    assert "![" not in page.read_text()
    rows = {name: [figures(auc + seed / 100) for seed in SEEDS] for name, auc in (("worse", 0.6), ("better", 0.7))}
    methods = {name: {"config": {"inner": {"lr": 0.003}}, "seeds": seeds} for name, seeds in rows.items()}
    write_record(records / "mamdr-conflict.json", {**origin(["d" * 40]), "methods": methods})
    curves = {name: {"1": [0.6, 0.7], "2": [0.7, 0.7]} for name in ("k", "alpha", "beta")}
    write_record(records / "mamdr-sweeps.json", {**origin([]), "seconds": 7200, "curves": curves})
    images.joinpath(AGREEMENT).write_bytes(b"")
    write_results(records, page, images)
    text = page.read_text()
    assert "| better | 0.7200 ± 0.0158 | 0.7200 | 1.00 | inner.lr 0.003 | 30 |" in text
    assert text.index("| better |") < text.index("| worse |")
    assert "| k | 1: 0.6500, 2: 0.7000 |" in text
    for name in ("mamdr-conflict.png", "mamdr-sweeps.png", AGREEMENT):
        assert f"](images/{name})" in text
        assert (images / name).exists()
    assert text.count("Not recorded yet") == len(TITLES) - 1


def test_what_tuning_chose_is_named_by_its_keys() -> None:
    """Law: what methods are tuned over, and what the paper names; not what all of them share."""
    config = {"network": {"width": 16}, "inner": {"lr": 1e-3, "reset": "never"}, "outer": {"lr": 0.5}}
    assert chosen(config) == "inner.lr 0.001, inner.reset never, outer.lr 0.5"
    assert chosen({"network": {"width": 16}}) == "–"


def test_the_interval_of_a_sweep_is_of_all_its_points() -> None:
    """Law: the spread of all points together, the one that the curves share counted once, about the usual point."""
    usual, other = [0.70, 0.72], [0.60, 0.64]
    curves = {
        name: {f"{value:g}": usual if value == mamdr_sweeps.USUAL[name] else other for value in values}
        for name, values in mamdr_sweeps.VALUES.items()
    }
    low, high = mamdr_sweeps.interval(curves)
    variance = (0.0002 + 9 * 0.0008) / 10
    half = quantile(0.95, 10) * math.sqrt(variance * 1.5)
    assert (low, high) == (pytest.approx(0.71 - half), pytest.approx(0.71 + half))


def test_the_curves_meet_in_one_training(tiny: Path) -> None:
    """Law: the usual k, alpha and beta are trained once a seed."""
    found = mamdr_sweeps.trials(tiny)
    assert len(found) == 12 * len(mamdr_sweeps.SEEDS)
    assert len(set(found.values())) == 10 * len(mamdr_sweeps.SEEDS)
    for seed in mamdr_sweeps.SEEDS:
        assert len({found[name, value, seed] for name, value in mamdr_sweeps.USUAL.items()}) == 1


def test_multi_lora_is_tuned_over_the_step_sizes_of_the_others() -> None:
    """Law: as many configurations as every other row of the table, each of which the stages accept; and the page's
    network, batch and bounds are those of its first stage."""
    grid = mamdr_movielens.grid()
    rates = [TrainingConfig.model_validate(config).pretrain.lr for config in grid]
    assert rates == [config["inner"]["lr"] for config in mamdr_movielens.framework("mix", 1).grid]
    first = TrainingConfig.model_validate(grid[0])
    base = mamdr_movielens.BASE
    assert [first.pretrain.batch_rows, first.pretrain.epochs, first.pretrain.patience, first.pretrain.dropout] == [
        base["batch_rows"],
        base["epochs"],
        base["patience"],
        base["network"]["dropout"],
    ]
    assert list(first.backbone.tower) == base["network"]["tower"]


def test_long_trainings_begin_first() -> None:
    """Law: by passes over the rows: of Domain Regularization 1 + 2k, of what has many experts as many as they cost."""
    configs = (
        {"framework": "mix"},
        {"framework": "mamdr", "regularization": {"others": 1}},
        {"framework": "mix", "structure": "ple"},
        {"framework": "dr", "structure": "shared_bottom"},
    )
    trials = [Trial.of(Path("data"), config, 0) for config in configs]
    assert longest_first(trials) == [trials[2], trials[3], trials[1], trials[0]]


def test_trials_that_share_their_rows_do_not_change_them(tiny: Path) -> None:
    """Law: a trial gives the same figures whether it reads its rows or has them of the trial before."""
    trials = {name: Trial.of(tiny, {**BASE, "framework": name}, 0) for name in ("mix", "dn")}
    first = {name: run(trial) for name, trial in trials.items()}
    again = run(trials["mix"])
    assert {**again, "seconds": 0} == {**first["mix"], "seconds": 0}
    assert json.dumps(first["mix"]["domains"]) != json.dumps(first["dn"]["domains"])
