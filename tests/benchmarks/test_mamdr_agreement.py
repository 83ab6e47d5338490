"""Laws of the comparison of gradients under Domain Negotiation and under alternate training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.claims.mamdr_agreement import ALIKE, DN, DRAWS, SEEDS, TEN, TUNED, TWO, Watched, compared, plan, watch
from benchmarks.claims.mamdr_contest import Row
from benchmarks.claims.mamdr_trial import Trial
from training.sources.conflict import ConflictWorld, conflicting

ROWS = {
    "alternate": Row({"framework": "alternate", "inner": {"lr": 0.003, "reset": "never"}}, ()),
    "dn": Row({"framework": "dn", "inner": {"lr": 0.001}, "outer": {"lr": 0.2}}, ()),
}
SMALL = {
    "framework": "alternate",
    "inner": {"lr": 0.01, "reset": "never"},
    "network": {"width": 4, "tower": [8], "dropout": 0.2},
    "batch_rows": 64,
    "epochs": 3,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small world of three domains."""
    folder = tmp_path_factory.mktemp("agreement") / "data"
    conflicting(ConflictWorld(rows=1_500, users=40, items=30, domains=3, directions=2)).write(folder)
    return folder


def test_every_seed_is_trained_as_recorded_in_both_worlds() -> None:
    """Law: both are as they were tuned, and Alternate once more with DN's inner loop; seed 0 alone is drawn."""
    found = plan(ROWS, {TWO: Path("two"), TEN: Path("ten")})
    assert len({one.key.name for one in found}) == len(found) == 3 * 2 * len(SEEDS)
    by_name = {name: next(one.trial.checked() for one in found if one.name == name) for name in (DN, TUNED, ALIKE)}
    assert [by_name[name].framework for name in (DN, TUNED, ALIKE)] == ["dn", "alternate", "alternate"]
    assert by_name[TUNED].inner.lr == 0.003
    assert by_name[ALIKE].inner == by_name[DN].inner
    assert by_name[ALIKE].inner != by_name[TUNED].inner
    assert all(one.draws == DRAWS and one.by_epoch == (one.trial.seed == 0) for one in found)


def test_looking_changes_no_training_and_every_draw_is_another(data: Path) -> None:
    """Law: the way is the same however much is looked at; each draw starts where the chosen epoch did."""
    one = watch(Watched(TUNED, TEN, Trial.of(data, SMALL, 0), draws=1, by_epoch=True))
    two = watch(Watched(TUNED, TEN, Trial.of(data, SMALL, 0), draws=2, by_epoch=True))
    assert one["by_epoch"] == two["by_epoch"]
    assert one["epoch"] == two["epoch"] == watch(Watched(TUNED, TEN, Trial.of(data, SMALL, 0), draws=1))["epoch"]
    second = 2 * two["inner"] - one["inner"]
    assert len({one["inner"], second, *one["by_epoch"]}) == 2 + len(one["by_epoch"])
    again = watch(Watched(TUNED, TEN, Trial.of(data, SMALL, 0), draws=2))
    assert {**again, "by_epoch": two["by_epoch"]} == two
    assert (2 * two["last"] + two["others"]) / 3 == pytest.approx(two["inner"])


def test_an_epoch_that_is_drawn_again_begins_where_the_chosen_one_did(data: Path) -> None:
    """Law: with the first epoch chosen, nothing of it is left in what is drawn: another number is another seed's."""
    first = Watched(TUNED, TEN, Trial.of(data, {**SMALL, "epochs": 1}, 0), draws=1)
    untrained = {**SMALL, "epochs": 1, "inner": {"lr": 1e-12, "reset": "never"}}
    still = watch(replace(first, trial=Trial.of(data, untrained, 0)))
    assert still["epoch"] == 1
    assert still["loss"] == pytest.approx(0.69, abs=0.1)
    assert watch(first)["loss"] < still["loss"]


@pytest.mark.parametrize(
    ("others", "verdict", "apart", "more"),
    [
        ([1.0, 1.1, 0.9], "holds", True, 3),
        ([1.9, 2.3, 1.8], "holds", False, 2),  # more in the mean, and no more than seeds differ: it is said
        ([3.0, 3.1, 2.9], "falls short", True, 0),
    ],
)
def test_more_in_the_mean_holds_and_says_whether_the_seeds_tell_it_apart(
    others: list[float], verdict: str, apart: bool, more: int
) -> None:
    """Law: the verdict is that of the mean; the interval and the seeds stand beside it."""
    line = compared("claim", [{"inner": value} for value in (2.0, 2.2, 1.9)], TUNED, [{"inner": v} for v in others])
    assert line.verdict == verdict
    assert ("not told apart" not in line.figure) == apart
    assert f"more in {more} of 3 seeds" in line.figure
