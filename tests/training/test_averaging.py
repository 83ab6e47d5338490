"""The tail average: its formula, its place among the candidates, and what a kill must not change of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from tests.training.problem import ROWS, Killed, Problem, same
from training.adapters import Place, TrainedAdapter
from training.averaging import TailAverage
from training.checkpoint import Memory, StateFolder
from training.config import Schedule, Select, TrainingConfig
from training.loops import Fitted, Loop
from training.notes import adapter_notes, curve
from training.packed.average import StackedAverage
from training.packed.stack import Stack
from training.progress import SilentMeter
from training.seeds import Stream

STEPS_AN_EPOCH = 4


def fit(folder: Path, problem: Problem, select: Select = "best", **changes: Any) -> Fitted:
    usual = {"lr": 0.01, "batch_rows": 64, "epochs": 5, "patience": 5, "average": "tail"}
    memory = Memory(StateFolder(folder), "piece", {})
    stream, schedule = Stream(1, ("test",)), Schedule.model_validate(usual | changes)
    rows = torch.arange(ROWS)
    trainee = problem.trainee()
    return Loop(trainee, rows, schedule, select, stream, memory, SilentMeter(), clock=lambda: 0.0).run()


def drawn(steps: int, *shape: int) -> Tensor:
    return torch.randn(steps, *shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def averaged(values: Tensor) -> np.ndarray[Any, Any]:
    """The oracle: step s of t has weight s (s + 1) (s + 2), the closed form of the recursion for eta = 3."""
    s = np.arange(1.0, len(values) + 1)
    return np.tensordot(s * (s + 1) * (s + 2), values.numpy(), 1) / (s * (s + 1) * (s + 2)).sum()


@pytest.mark.parametrize("steps", [1, 2, 7, 60])
def test_tail_average_is_its_closed_form(steps: int) -> None:
    """Law: after t steps the mean is that with weights s (s + 1) (s + 2), to 1e-12 in float64; whole numbers follow."""
    values = drawn(steps, 2, 3)
    average = TailAverage()
    for step, value in enumerate(values):
        average.follow({"weight": value, "count": torch.tensor(step)})
    np.testing.assert_allclose(average.mean["weight"], averaged(values), atol=1e-12)
    assert int(average.mean["count"]) == steps - 1


def test_stacked_rows_are_averaged_over_their_own_steps() -> None:
    """Law: a domain that misses steps, or whose neighbours leave the stack, has the average of its own steps."""
    learned, moments = drawn(6, 3, 4), drawn(6, 3, 2)
    average = StackedAverage(Stack(learned[0], moments[0]))
    busy = (3, 2, 3, 1)
    for step, count in enumerate(busy):
        average.follow(Stack(learned[step][:count], moments[step][:count]))
    average.take(torch.tensor([0, 2]))
    for step in (4, 5):
        average.follow(Stack(learned[step][[0, 2]], moments[step][[0, 2]]))
    for place, domain, steps in ((0, 0, [0, 1, 2, 3, 4, 5]), (1, 2, [0, 2, 4, 5])):
        np.testing.assert_allclose(average.mean.learned[place], averaged(learned[steps, domain]), atol=1e-12)
        np.testing.assert_allclose(average.mean.moments[place], averaged(moments[steps, domain]), atol=1e-12)


@pytest.mark.parametrize("kill_after", [1, 4, 6, 11, 19])
def test_killed_loop_ends_with_the_average_of_an_uninterrupted_one(tmp_path: Path, kill_after: int) -> None:
    """Law: whichever step a loop dies in, the next one ends with the same averaged weights and history, bit for bit."""
    aucs = (0.5, *(0.5 + 0.01 * judged for judged in range(1, 11)))  # each better than all before: the average is last
    whole = Problem(aucs)
    expected = fit(tmp_path / "whole", whole)
    assert (expected.epoch, expected.averaged) == (5, True)
    with pytest.raises(Killed):
        fit(tmp_path / "killed", Problem(aucs, kill_after=kill_after))
    told = 0 if kill_after < STEPS_AN_EPOCH else 1 + 2 * (kill_after // STEPS_AN_EPOCH)
    resumed = Problem(aucs[told:])
    assert fit(tmp_path / "killed", resumed) == expected
    assert same(resumed.weights(), whole.weights())
    again = Problem()
    assert fit(tmp_path / "whole", again) == expected
    assert same(again.weights(), whole.weights())
    assert again.losses == 0


class Watched(Problem):
    """Remembers the weights before each loss, which are those after the step before it."""

    def __init__(self, aucs: tuple[float, ...]) -> None:
        super().__init__(aucs)
        self.seen: list[dict[str, Tensor]] = []

    def _loss(self, rows: Tensor) -> Tensor:
        self.seen.append(self.weights())
        return super()._loss(rows)


def test_the_average_is_kept_where_validation_likes_it_best(tmp_path: Path) -> None:
    """Law: the average after the best epoch is in place at the end, moments with it; training went on without it."""
    problem = Watched((0.5, 0.6, 0.9, 0.7, 0.8, 0.7))
    fitted = fit(tmp_path, problem, epochs=2)
    assert (fitted.epoch, fitted.averaged, fitted.auc) == (1, True, 0.9)
    assert [entry.get("average_auc") for entry in fitted.history] == [None, 0.9, 0.8]
    after = problem.seen[1 : STEPS_AN_EPOCH + 1]
    for name, value in problem.weights().items():
        steps = torch.stack([step[name].double() for step in after])
        if value.is_floating_point():
            np.testing.assert_allclose(value, averaged(steps), atol=1e-6, err_msg=name)


def test_the_average_changes_nothing_but_the_choice(tmp_path: Path) -> None:
    """Law: losses and weights of the epochs are those without it; where they are better, they are kept."""
    without, beside = Problem((0.5, 0.6, 0.7)), Problem((0.5, 0.6, 0.1, 0.7, 0.2))
    plain = fit(tmp_path / "plain", without, epochs=2, average=None)
    fitted = fit(tmp_path / "beside", beside, epochs=2)
    assert [entry["loss"] for entry in fitted.history] == [entry["loss"] for entry in plain.history]
    assert (fitted.epoch, fitted.averaged, fitted.auc) == (2, False, 0.7)
    assert same(without.weights(), beside.weights())


def test_what_was_kept_is_noted(tmp_path: Path) -> None:
    """Law: an artifact's notes say whether its weights are the average; without averages nothing new stands in them."""
    averaged = fit(tmp_path / "average", Problem((0.5, 0.6, 0.9, 0.7, 0.8)), epochs=2)
    own = fit(tmp_path / "own", Problem((0.5, 0.6, 0.1, 0.7, 0.2)), epochs=2)
    plain = fit(tmp_path / "plain", Problem((0.5, 0.6, 0.7)), epochs=2, average=None)
    found = [_noted(fitted) for fitted in (averaged, own, plain)]
    assert [notes.get("averaged") for notes in found] == [True, False, None]
    assert [notes["validation_auc"] for notes in found] == [0.9, 0.7, 0.7]
    assert [curve(fitted).get("averaged") for fitted in (averaged, own, plain)] == [True, False, None]


def _noted(fitted: Fitted) -> Mapping[str, Any]:
    """What an auxiliary domain's manifest says of its training."""
    adapter = TrainedAdapter(Place(1, 0, "segment", "a"), _NOT_ASKED, fitted, 5)
    return adapter_notes(TrainingConfig(), adapter, _NOT_ASKED, _NOT_ASKED).training


_NOT_ASKED: Any = None
"""Of the network, and of selection and evaluation, which only natural domains have, these notes say nothing."""


def test_nothing_is_averaged_where_nothing_is_selected(tmp_path: Path) -> None:
    """Law: with `last_epoch` the last weights remain as they are, and a configuration that asks for both is refused."""
    fitted = fit(tmp_path, Problem(), select="last_epoch")
    assert not fitted.averaged
    assert all("average_auc" not in entry for entry in fitted.history)
    with pytest.raises(ValidationError, match="last_epoch takes no average"):
        TrainingConfig.model_validate({"select": "last_epoch", "fuse": {"average": "tail"}})


def test_a_run_of_an_older_build_is_resumed(tmp_path: Path) -> None:
    """Law: a checkpoint that knows nothing of averages is that of a schedule without one."""
    memory = Memory(StateFolder(tmp_path), "piece", {"schedule": Schedule().model_dump(exclude={"average"})})
    memory.save({}, {"finished": True})
    assert Memory(StateFolder(tmp_path), "piece", {"schedule": Schedule().model_dump()}).load() is not None
