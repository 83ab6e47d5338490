"""Laws of the long tables: ranks, intervals, aims, and what a method is tuned over."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from benchmarks.claims import mamdr_conflict, mamdr_movielens
from benchmarks.claims.mamdr import bills, cost
from benchmarks.claims.mamdr_contest import MOST_CONFIGURATIONS, Method, Row, aim, rank
from benchmarks.claims.mamdr_epinions import AGAIN, BASE
from benchmarks.claims.mamdr_grids import FRAMEWORKS, JOINT, NETWORKS, framework, network
from benchmarks.claims.mamdr_structures import AGAIN as STRUCTURES_AGAIN
from benchmarks.claims.mamdr_structures import STRUCTURES, structures
from benchmarks.claims.mamdr_trial import Trial, run
from training.baselines.table import BASELINES, settings_of
from training.frameworks.config import MamdrConfig
from training.frameworks.table import FRAMEWORKS as KNOWN
from training.sources.conflict import ConflictWorld, conflicting
from training.trials.student import quantile


def row(*seeds: dict[str, float | None]) -> Row:
    """A method whose seeds gave these AUCs by domain."""
    found: list[dict[str, Any]] = []
    for domains in seeds:
        known = [value for value in domains.values() if value is not None]
        found.append({"test": sum(known) / len(known), "domains": domains, "pooled": 0.5, "seconds": 1.0})
    return Row({}, tuple(found))


def test_rank_is_the_mean_place_over_domains_and_seeds() -> None:
    """Law: 1 is best in a domain, equal ones share their places, a domain where one has no AUC does not count."""
    rows = {
        "a": row({"x": 0.9, "y": 0.5, "z": None}, {"x": 0.9, "y": 0.9, "z": 0.1}),
        "b": row({"x": 0.8, "y": 0.6, "z": 0.9}, {"x": 0.8, "y": 0.9, "z": 0.2}),
    }
    assert rank(rows) == {"a": (1 + 2 + 1 + 1.5 + 2) / 5, "b": (2 + 1 + 2 + 1.5 + 1) / 5}


def test_an_aim_is_the_paired_difference_with_its_interval() -> None:
    """Law: differences are taken seed by seed; Student's t with n - 1 degrees of freedom gives the interval."""
    better = row(*({"x": value} for value in (0.75, 0.85, 0.65)))
    worse = row(*({"x": value} for value in (0.74, 0.82, 0.63)))
    line = aim("table", {"a": better, "b": worse}, "a", "b")
    half = quantile(0.95, 2) * 0.01 / math.sqrt(3)
    assert line.figure == f"{0.02:+.4f} [{0.02 - half:+.4f}, {0.02 + half:+.4f}], not told apart"
    assert line.verdict == "holds"
    assert aim("table", {"a": better, "b": worse}, "b", "a").verdict == "falls short"
    clear = row(*({"x": value} for value in (0.65, 0.73, 0.53)))
    assert "told apart" not in aim("table", {"a": better, "b": clear}, "a", "b").figure


def test_the_interval_of_a_seed_widens_with_the_spread_of_the_seeds() -> None:
    """Law: mean ± t sd sqrt(1 + 1/n): where one more training may lie, 95%."""
    low, high = row(*({"x": value} for value in (0.70, 0.72, 0.71, 0.69, 0.73))).interval()
    half = quantile(0.95, 4) * math.sqrt(0.00025) * math.sqrt(1.2)
    assert (low, high) == (pytest.approx(0.71 - half), pytest.approx(0.71 + half))
    low, high = row(*({"x": 0.7 + i / 100} for i in range(6))).interval()  # as many seeds as there are
    assert low < 0.70 < 0.75 < high


def test_every_method_is_tuned_over_four_configurations_that_exist() -> None:
    """Law: all methods get as many trainings, and each configuration is one that the trainer accepts."""
    methods = [*map(framework, FRAMEWORKS), *map(network, NETWORKS)]
    assert set(FRAMEWORKS) == set(KNOWN)
    assert set(NETWORKS) == set(BASELINES)
    for method in methods:
        assert len(method.grid) == MOST_CONFIGURATIONS
        assert len({str(config) for config in method.grid}) == MOST_CONFIGURATIONS
        for config in method.grid:
            checked = MamdrConfig.model_validate(config)
            if checked.structure != "plain":
                settings_of(checked.structure, checked.settings)
    with pytest.raises(ValueError, match="tuned over 1 to 4"):
        Method("greedy", ({},) * 5)


def test_a_trial_is_named_by_all_that_its_result_depends_on() -> None:
    """Law: data, configuration or seed change the name; the order of keys does not."""
    one = Trial.of(Path("data"), {"a": 1, "b": 2}, 0)
    assert one.key == Trial.of(Path("data"), {"b": 2, "a": 1}, 0).key
    others = [
        Trial.of(Path("other"), {"a": 1, "b": 2}, 0),
        Trial.of(Path("data"), {"a": 1, "b": 3}, 0),
        Trial.of(Path("data"), {"a": 1, "b": 2}, 1),
    ]
    assert len({one.key, *(other.key for other in others)}) == 4


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two domains of a few hundred rows."""
    folder = tmp_path_factory.mktemp("tiny")
    conflicting(ConflictWorld(rows=900, users=30, items=20, domains=2)).write(folder)
    return folder


@pytest.mark.parametrize(
    "config",
    [
        {"framework": "mix"},
        {"framework": "finetune", "finetune": {"epochs": 1}},
        {"framework": "mix", "structure": "plate", "settings": {"user_fields": ["user_id", "group"]}},
    ],
)
def test_a_trial_gives_the_same_figures_again(tiny: Path, config: dict[str, Any]) -> None:
    """Law: plain, finetuned or in two phases, a trial's figures are decided by data, configuration and seed."""
    network = {"width": 3, "tower": [4], "dropout": 0.1, "embedding_std": 0.1}
    trial = Trial.of(tiny, {**config, "network": network, "epochs": 1}, 3)
    first, again = run(trial), run(trial)
    del first["seconds"], again["seconds"]
    assert first == again
    assert list(first["domains"]) == ["shelf-01", "shelf-02"]
    assert first["test"] == pytest.approx(sum(first["domains"].values()) / 2)
    assert 0 < first["pooled"] < 1
    assert run(Trial.of(tiny, {**config, "network": network, "epochs": 1}, 4))["domains"] != first["domains"]


def test_methods_are_treated_alike_where_they_do_not_differ() -> None:
    """Law: nobody has weight decay, all have the same step sizes, and all take as many steps an epoch of one pass."""
    for method in [*map(framework, FRAMEWORKS), *map(network, NETWORKS)]:
        configs = [MamdrConfig.model_validate(config) for config in method.grid]
        assert {config.inner.weight_decay for config in configs} == {0.0}
        assert sorted(config.inner.lr for config in configs) == [1e-3, 1e-3, 3e-3, 3e-3]
        assert {config.inner.steps for config in configs} == {"epoch"}
        if method.name in JOINT:
            assert {config.joint_steps for config in configs} == {"all"}


def test_the_grid_of_alternate_training_holds_negotiation_with_beta_one() -> None:
    """Law: for each of DN's step sizes Alternate is also tried with the inner loop that DN has, so beta is all."""
    loops = [config["inner"]["lr"] for config in framework("alternate").grid if config["inner"]["reset"] == "loop"]
    assert loops == sorted({config["inner"]["lr"] for config in framework("dn").grid})
    for name in ("dn", "dr", "mamdr", "finetune", "reptile"):
        assert {MamdrConfig.model_validate(config).inner.reset for config in framework(name).grid} == {"loop"}


def test_fewer_values_keep_the_usual_one() -> None:
    """Law: a table that tries one value of each method's own thing tries the same with both step sizes."""
    for method in [*(framework(name, 1) for name in FRAMEWORKS), *(network(name, 1) for name in NETWORKS)]:
        first, second = method.grid
        assert [config["inner"].pop("lr") for config in (first, second)] == [1e-3, 3e-3]
        assert first == second
    assert framework("dn", 1).grid[0]["outer"] == {"lr": 0.5}


def test_one_adam_is_usual_where_there_is_no_inner_loop() -> None:
    """Law: where one value is tried, what has no inner loop keeps its Adam, and Alternate has the loop that DN has."""
    kept = [*(framework(name, 1) for name in ("mix", "weighted", "pcgrad")), *(network(name, 1) for name in NETWORKS)]
    assert {config["inner"]["reset"] for method in kept for config in method.grid} == {"never"}
    assert {config["inner"]["reset"] for config in framework("alternate", 1).grid} == {"loop"}


def test_what_is_run_again_stands_in_its_table() -> None:
    """Law: names of rows whose seed 0 is run again are rows of the table; MAMDR and its parts are among them."""
    assert set(AGAIN) <= {*FRAMEWORKS, *NETWORKS}
    assert set(mamdr_conflict.AGAIN) <= {*FRAMEWORKS, *NETWORKS}
    assert set(mamdr_movielens.AGAIN) == {"mix", *mamdr_movielens.NETWORKS, "multi_lora"}
    assert {"alternate", "finetune", "dn", "dr", "mamdr"} <= set(AGAIN)
    tuned = {name: Row({**BASE, **framework(name).grid[0]}, ()) for name in ("alternate", "dn", "dr", "mamdr")}
    assert set(STRUCTURES_AGAIN) <= {method.name for method in structures(tuned)}
    assert {name.split()[0] for name in STRUCTURES_AGAIN} == set(STRUCTURES)


def test_what_everything_costs_is_told_first() -> None:
    """Law: before anything runs, FULL=1 names the core hours of every long table, their sum, and how they are known."""
    found = bills()
    assert list(found) == ["conflict", "movielens", "epinions", "structures", "sweeps"]
    assert all(hours > 0 for hours, _ in found.values())
    assert f"about {sum(hours for hours, _ in found.values()):.1f} core hours" in cost()
    for name, (hours, known) in found.items():
        assert f"{name} {hours:.1f} ({known})" in cost()


def test_other_structures_are_trained_as_the_mlp_was_tuned() -> None:
    """Law: a structure's row takes the step size that its framework preferred on the MLP, and is not tuned again."""
    tuned = {
        name: Row({**BASE, **framework(name).grid[place]}, ())
        for place, name in enumerate(("alternate", "dn", "dr", "mamdr"))
    }
    found = {method.name: method.grid for method in structures(tuned)}
    assert len(found) == 12
    for name, grid in found.items():
        structure, one = name.split()
        config = MamdrConfig.model_validate(grid[0])
        assert len(grid) == 1
        assert (config.framework, config.inner.lr) == (one, tuned[one].config["inner"]["lr"])
        assert structure in (config.structure, config.network.kind)
