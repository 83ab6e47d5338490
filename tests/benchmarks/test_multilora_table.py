"""Laws of MultiLoRA's long tables: what is tuned, what is run again, and what a missing record says."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.claims import multilora_epinions, multilora_movielens
from benchmarks.claims.mamdr_contest import Row
from benchmarks.claims.multilora_movielens import AIMS, PUBLISHED, families, table
from benchmarks.claims.multilora_table import NOT_RECORDED, Family, Table, gains, merged, paired, reaches
from benchmarks.claims.multilora_trial import STAGES, Training, run, told_by
from benchmarks.claims.workplace import ClaimError, Workplace
from training.sources.synthetic import SyntheticWorld, synthetic
from training.trials.kept import Found, KeptResults
from training.trials.student import quantile

TINY: dict[str, Any] = {
    "backbone": {"width": 3, "tower": [6]},
    "adapter": {"ranks": [2]},
    **{stage: {"epochs": 1, "batch_rows": 512} for stage in ("pretrain", "adapters", "fuse")},
}


def row(*values: float) -> Row:
    """A method whose seeds gave these figures."""
    return Row({}, tuple({"test": value} for value in values))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two themes, two segments."""
    folder = tmp_path_factory.mktemp("tiny")
    synthetic(SyntheticWorld(rows=6_000, users=60, items=30, domains=2, segments=2)).write(folder)
    return folder


def test_sections_are_merged_key_by_key() -> None:
    """Law: a change of one key of a section leaves its others; the base itself never changes."""
    base = {"pretrain": {"lr": 1.0, "epochs": 2}, "seed": 0}
    assert merged(base, {"pretrain": {"lr": 3.0}, "threads": 1}) == {
        "pretrain": {"lr": 3.0, "epochs": 2},
        "seed": 0,
        "threads": 1,
    }
    assert base == {"pretrain": {"lr": 1.0, "epochs": 2}, "seed": 0}


def test_every_configuration_is_one_that_the_trainers_accept() -> None:
    """Law: no key of a grid is unknown, none of a family's configurations is another's, and each family has as many."""
    for chosen, base in (
        (families(), multilora_movielens.BASE),
        (multilora_epinions.FAMILIES, multilora_epinions.BASE),
    ):
        assert {len(family.grid) for family in chosen} == {4}
        for family in chosen:
            trainings = [Training.of(Path("data"), family.kind, merged(base, config), 0) for config in family.grid]
            assert len({training.key for training in trainings}) == 4
            for training in trainings:
                config, whole = training.checked()
                assert (whole is None) == (family.kind == "stages")
                assert config.seed == 0
    with pytest.raises(ValueError, match="1 to 4 are tuned over"):
        Family("stages", ({},) * 5)


def test_published_numbers_and_aims_are_of_rows() -> None:
    """Law: what stands beside a row, and what must be reached, names a row of the table."""
    assert set(PUBLISHED) | set(AIMS) <= set(table().methods)
    assert len(table().methods) == len(set(table().methods))


def test_a_gain_needs_its_size_and_an_interval_above_zero() -> None:
    """Law: the mean of the seeds' differences reaches the bound, and Student's paired 95% interval leaves out 0."""
    worse = row(0.80, 0.81, 0.79, 0.80, 0.80)
    steady = row(*(value + 0.002 + 0.0001 * i for i, value in enumerate(worse.means)))
    mean, half = paired(steady, worse)
    assert mean == pytest.approx(0.0022)
    assert half == pytest.approx(quantile(0.95, 4) * statistics.stdev([0.002 + 0.0001 * i for i in range(5)]) / 5**0.5)
    assert gains("a - b", steady, worse, 0.001).verdict == "holds"
    assert gains("a - b", steady, worse, 0.003).verdict == "falls short"
    wild = row(0.86, 0.79, 0.83, 0.76, 0.80)
    assert paired(wild, worse)[0] > 0.001
    assert gains("a - b", wild, worse, 0.001).verdict == "falls short"


def test_an_aim_is_of_the_mean() -> None:
    """Law: the mean over seeds is held to the bound, not its best seed."""
    assert reaches("auc", row(0.8, 0.9), 0.85).verdict == "holds"
    assert reaches("auc", row(0.8, 0.89), 0.85).verdict == "falls short"


def test_a_missing_record_falls_short(tiny: Path, tmp_path: Path) -> None:
    """Law: without a record there are no rows, and each claim says that FULL=1 makes them."""
    own = Table("no-such-table", {}, (Family("stages", ({},)),), "pooled", (), 1.0)
    assert own.brought(Workplace(tmp_path), tiny) is None
    (line,) = own.missing([("multi_lora", ">= 1")])
    assert (line.figure, line.verdict) == (NOT_RECORDED, "falls short")


@pytest.mark.parametrize("reuse", [False, True])
def test_seed_0_again_is_trained_again(tmp_path: Path, reuse: bool) -> None:
    """Law: a result that an earlier call kept is not taken for seed 0's, unless it is to be reused."""
    folders: list[int] = []

    def trained(trainings: Sequence[Training], kept: Path) -> dict[Training, Found]:
        folders.append(sum(KeptResults(kept).get(one.key) is not None for one in trainings))
        return {one: {"single": {"pooled": 0.7}} for one in trainings}

    own = Table("t", {}, (Family("single", ({},)),), "pooled", ("single",), 0.0, trained=trained)
    rows = {"single": row(0.7, 0.71, 0.69)}
    KeptResults(tmp_path / "table-t").put(Training.of(tmp_path, "single", {}, 0).key, {"single": {"pooled": 0.1}})
    (line,) = own.again(Workplace(tmp_path, reuse), tmp_path, rows)
    assert line.verdict == "holds"
    assert folders == [int(reuse)]


def test_rows_of_one_training_are_looked_at_together(tmp_path: Path) -> None:
    """Law: of the rows that are asked for each configuration is trained once, and every row that it gives is a line."""
    asked: list[int] = []

    def trained(trainings: Sequence[Training], kept: Path) -> dict[Training, Found]:
        asked.append(len(trainings))
        return {one: {inner: {"pooled": 0.7} for inner in STAGES} for one in trainings}

    own = Table("t", {}, (Family("stages", ({}, {"seed": 1})),), "pooled", ("multi_lora", "mix"), 0.0, trained=trained)
    shared = row(0.7, 0.71, 0.69)
    rows = dict.fromkeys(STAGES, shared) | {"single_lora": Row({"seed": 1}, shared.seeds)}
    lines = list(own.again(Workplace(tmp_path), tmp_path, rows))
    assert asked == [1]
    assert len(lines) == len(STAGES) - 1
    assert not any(": single_lora," in line.claim for line in lines)


def test_what_a_table_costs_is_told_by_its_last_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Law: a record of these rows tells how long they take; one of other rows, or none, leaves the guess."""
    monkeypatch.setenv("FULL", "1")
    monkeypatch.setattr("benchmarks.claims.multilora_table.RECORDS", tmp_path)
    monkeypatch.setattr("benchmarks.claims.trainings.RECORDS", tmp_path)

    def trained(trainings: Sequence[Training], kept: Path) -> dict[Training, Found]:
        figures = {"validation": 0.8, "pooled": 0.7, "seconds": 720.0, "code": "d" * 40}
        return {one: dict.fromkeys(("single", "finetune"), figures) for one in trainings}

    for kinds, told in (
        (["single"], "at most 5 trainings; about 1.5 core hours, a guess"),
        (["single"], "at most 5 trainings; at most 1.0 core hours, by the last record"),
        (["single", "finetune"], "at most 10 trainings; about 1.5 core hours, a guess"),
    ):
        families = [Family(kind, ({},)) for kind in kinds]
        assert Table("t", {}, families, "pooled", (), 1.5, trained=trained).brought(Workplace(tmp_path), tmp_path)
        assert told in capsys.readouterr().out


def test_a_record_of_another_table_is_refused() -> None:
    """Law: rows hold for the methods and configurations that the table tunes over now, an earlier row's among them."""
    grid = ({"pretrain": {"lr": 0.1}}, {"pretrain": {"lr": 0.2}})
    families = (Family("stages", grid, methods=("mix",)), Family("single", ({"whole": {"lr": 1}},), start="mix"))
    own = Table("t", {"seed": 0}, families, "pooled", (), 0.0)
    mix = {"seed": 0, "pretrain": {"lr": 0.2}}
    good = {"mix": Row(mix, ()), "single": Row({**mix, "whole": {"lr": 1}}, ())}
    own.check(good)
    for bad in (
        {"mix": good["mix"]},
        good | {"mix": Row({"seed": 0, "pretrain": {"lr": 0.3}}, ())},
        good | {"single": Row({"seed": 0, "pretrain": {"lr": 0.1}, "whole": {"lr": 1}}, ())},
    ):
        with pytest.raises(ClaimError, match="of another table"):
            own.check(bad)


def test_a_gate_that_lets_nothing_pass_shows_nothing() -> None:
    """Law: that no passing domain is worse holds of passing domains alone; without any it falls short."""

    def rows(passed: bool, high: float) -> dict[str, Row]:
        gated = {"a": {"passed": passed, "low": -0.5, "high": high}}
        seed = {"test": 0.7, "domains": {"a": 0.7}, "gated": gated}
        return {name: Row({}, (seed, seed)) for name in ("mix", "single", "multi_lora")}

    verdicts = [list(multilora_epinions.judged("t", rows(*case)))[-1].verdict for case in _GATED]
    assert verdicts == ["holds", "falls short", "falls short"]


_GATED = ((True, 0.1), (True, -0.1), (False, 0.1))


def test_a_report_gives_a_row_for_each_method() -> None:
    """Law: each form has its own figures and its own validation, what is served that of the chosen one, and the gate's
    verdicts stand beside the intervals of the domains; a domain of one class has neither AUC nor interval."""
    names = ("backbone", "single_lora", "multi_lora", "multi_lora_attention", "multi_lora_avg", "multi_lora_add")
    methods = {
        name: {
            "pooled": {"auc": 0.7 + i / 100, "log_loss": 0.5},
            "macro": {"auc": 0.6},
            "domains": {
                "a": {"auc": 0.6, "difference": {"value": 0.0, "low": -0.2, "high": 0.2}},
                "b": {"auc": None, "difference": None},
            },
        }
        for i, name in enumerate(names)
    }
    candidates = {"backbone": 0.1, "single": 0.2, "avg": 0.3, "attention": 0.4}
    training = {
        "selection": {"chosen": "avg", "candidates": candidates},
        "fuse": {"attention": {"auc": 0.4}, "avg": {"auc": 0.3}, "add": {"auc": 0.05}},
        "gate": {"domains": {"a": {"passed": True}, "b": {"passed": False}}},
    }
    found = told_by({"evaluation": {"methods": methods}, "training": training})
    assert {name: each["validation"] for name, each in found.items()} == {
        "mix": 0.1,
        "single_lora": 0.2,
        "multi_lora": 0.3,
        "multi_lora-attention": 0.4,
        "multi_lora-avg": 0.3,
        "multi_lora-add": 0.05,
    }
    assert set(found) == set(STAGES)
    assert found["mix"]["pooled"] == 0.7
    assert found["multi_lora-add"]["pooled"] == 0.75
    assert found["multi_lora"]["gated"] == {
        "a": {"passed": True, "low": -0.2, "high": 0.2},
        "b": {"passed": False, "low": None, "high": None},
    }


@pytest.mark.parametrize("kind", ["finetune", "single"])
def test_a_baseline_is_scored_on_the_same_rows(tiny: Path, kind: Any) -> None:
    """Law: a network of each domain's own gives a figure for each domain, decided by data, configuration and seed."""
    config = {**TINY, "whole": {"epochs": 1, "batch_rows": 256}}
    found, again = (run(Training.of(tiny, kind, config, 1)) for _ in range(2))
    assert set(found) == {kind}
    for each in (found, again):
        del each[kind]["seconds"]
    assert found == again
    assert set(found[kind]["domains"]) == {"theme-01", "theme-02"}
    assert found[kind]["macro"] == pytest.approx(statistics.mean(found[kind]["domains"].values()))


def test_trainings_share_stage_1(tiny: Path, tmp_path: Path) -> None:
    """Law: what is decided by the same settings, data and seed is trained once, and no figure is another by it."""
    longer = merged(TINY, {"adapters": {"epochs": 2}})
    tuned = {**TINY, "whole": {"epochs": 1, "batch_rows": 256}}
    todo = [
        Training.of(tiny, "stages", TINY, 0),
        Training.of(tiny, "stages", longer, 0),
        Training.of(tiny, "finetune", tuned, 0),
        Training.of(tiny, "single", tuned, 0),
        Training.of(tiny, "stages", TINY, 1),
    ]
    for training in todo:
        alone, sharing = run(training), run(training, tmp_path)
        for found in (alone, sharing):
            assert all(each.pop("seconds") >= 0 for each in found.values())
        assert sharing == alone
    assert len(list(tmp_path.iterdir())) == 2
    assert len({training.stage_1 for training in todo}) == 2


def test_a_baseline_of_another_kind_is_trained_one_by_one(tiny: Path) -> None:
    """Law: what no pack can hold is trained all the same."""
    config = merged({**TINY, "whole": {"epochs": 1}}, {"backbone": {"kind": "deepfm"}})
    assert 0 < run(Training.of(tiny, "finetune", config, 0))["finetune"]["pooled"] < 1
