"""The training loop on a small problem of its own: checkpoints, early stopping, and what resuming must not change."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.training.problem import ROWS, Killed, Problem, same
from training.checkpoint import Memory, StateFolder
from training.config import Schedule, Select
from training.errors import RunExists, StateMismatch
from training.loops import Fitted, Loop, Trainee
from training.progress import SilentMeter
from training.seeds import Stream


def fit(
    folder: Path,
    problem: Problem,
    select: Select = "last_epoch",
    lr: float = 0.01,
    patience: int = 2,
    epochs: int = 5,
    falling: bool = False,
) -> Fitted:
    schedule = Schedule(lr=lr, batch_rows=64, epochs=epochs, patience=patience)
    memory = Memory(StateFolder(folder), "piece", {"lr": lr})
    return Loop(
        problem.trainee(),
        torch.arange(ROWS),
        schedule,
        select,
        Stream(1, ("test",)),
        memory,
        SilentMeter(),
        clock=lambda: 0.0,
        falling=falling,
    ).run()


@pytest.mark.parametrize("kill_after", range(0, 20, 3))
def test_killed_loop_ends_as_an_uninterrupted_one(tmp_path: Path, kill_after: int) -> None:
    """Law: whichever step a loop dies in, the next one ends with the same weights and history, bit for bit."""
    whole = Problem()
    expected = fit(tmp_path / "whole", whole)
    with pytest.raises(Killed):
        fit(tmp_path / "killed", Problem(kill_after=kill_after))
    resumed = Problem()
    assert fit(tmp_path / "killed", resumed) == expected
    assert same(resumed.weights(), whole.weights())


def test_killed_loop_of_two_kinds_of_parameters_ends_alike(tmp_path: Path) -> None:
    """Law: parameters without weight decay keep their own optimizer state over a kill; which they are matters."""
    whole, resumed, decayed = Problem(undecayed=(0, 2)), Problem(undecayed=(0, 2)), Problem()
    expected = fit(tmp_path / "whole", whole)
    with pytest.raises(Killed):
        fit(tmp_path / "killed", Problem(kill_after=10, undecayed=(0, 2)))
    assert fit(tmp_path / "killed", resumed) == expected
    assert same(resumed.weights(), whole.weights())
    fit(tmp_path / "decayed", decayed)
    assert not same(decayed.weights(), whole.weights())


def test_a_falling_step_ends_at_zero_and_resumes_where_it_was(tmp_path: Path) -> None:
    """Law: the step size falls linearly over all batches of all epochs; a kill changes none of them."""
    own = nn.ParameterDict({"w": torch.zeros(1)})
    before, steps = [0.0], []

    def loss(rows: Tensor) -> Tensor:
        steps.append(own["w"].item() - before[-1])
        before.append(own["w"].item())
        return own["w"].sum()  # a constant gradient: Adam moves by its step size

    trainee = Trainee(own, own, lambda: None, loss, lambda: 0.5, True)
    schedule = Schedule(lr=0.01, weight_decay=0.0, batch_rows=math.ceil(ROWS / 4), epochs=3)
    memory = Memory(StateFolder(tmp_path / "still"), "still", {})
    loop = Loop(
        trainee, torch.arange(ROWS), schedule, "last_epoch", Stream(1, ("test",)), memory, SilentMeter(), falling=True
    )
    loop.run()
    moved = [*steps[1:], own["w"].item() - before[-1]]
    assert moved == pytest.approx([-0.01 * (1 - i / 12) for i in range(12)], rel=1e-3)

    whole, resumed, constant = Problem(), Problem(), Problem()
    expected = fit(tmp_path / "whole", whole, falling=True)
    with pytest.raises(Killed):
        fit(tmp_path / "killed", Problem(kill_after=10), falling=True)
    assert fit(tmp_path / "killed", resumed, falling=True) == expected
    assert same(resumed.weights(), whole.weights())
    fit(tmp_path / "constant", constant)
    assert not same(constant.weights(), whole.weights())


def test_weight_decay_leaves_alone_what_it_shall(tmp_path: Path) -> None:
    """Law: what no loss pulls shrinks by the weight decay, and stays bit for bit where it has none."""
    own = nn.ParameterDict({"free": torch.ones(3), "held": torch.ones(3)})

    def loss(rows: Tensor) -> Tensor:
        return 0.0 * (own["free"].sum() + own["held"].sum())

    trainee = Trainee(own, own, lambda: None, loss, lambda: 0.5, True, [own["free"]])
    schedule = Schedule(lr=0.01, weight_decay=0.1, batch_rows=64, epochs=2)
    memory = Memory(StateFolder(tmp_path), "still", {})
    Loop(trainee, torch.arange(ROWS), schedule, "last_epoch", Stream(1, ("test",)), memory, SilentMeter()).run()
    assert torch.equal(own["free"], torch.ones(3))
    assert bool((own["held"] < 0.95).all())


def test_finished_loop_is_not_trained_again(tmp_path: Path) -> None:
    """Law: a finished piece is read back without a single step, with the same weights."""
    first, second = Problem(), Problem()
    assert fit(tmp_path, first) == fit(tmp_path, second)
    assert second.losses == 0
    assert same(first.weights(), second.weights())


def test_ambient_randomness_is_left_alone(tmp_path: Path) -> None:
    """Law: training neither reads nor moves torch's global generator, so what runs beside it changes nothing."""
    torch.manual_seed(5)
    one = Problem()
    before = torch.get_rng_state()
    fit(tmp_path / "one", one)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    other = Problem()
    fit(tmp_path / "other", other)
    assert same(one.weights(), other.weights())


def test_best_epoch_is_restored(tmp_path: Path) -> None:
    """Law: with `best` the weights of the best validation AUC are in place at the end, from the checkpoint too."""
    until_best, whole = Problem(), Problem(aucs=[0.5, 0.6, 0.7, 0.6, 0.6])
    fit(tmp_path / "two", until_best, epochs=2)
    fitted = fit(tmp_path / "five", whole, select="best")
    assert (fitted.epoch, fitted.auc) == (2, 0.7)
    assert same(until_best.weights(), whole.weights())
    again = Problem()
    assert fit(tmp_path / "five", again, select="best").epoch == 2
    assert same(again.weights(), whole.weights())


def test_untrained_start_is_a_candidate(tmp_path: Path) -> None:
    """Law: when no epoch beats the start, the start is what remains, after `patience` epochs."""
    start = Problem().weights()
    problem = Problem(aucs=[0.7, 0.6, 0.7])
    fitted = fit(tmp_path, problem, select="best")
    assert fitted.epoch == 0
    assert len(fitted.history) == 3
    assert same(problem.weights(), start)


def test_domain_without_an_auc_keeps_its_start(tmp_path: Path) -> None:
    """Law: where validation has one class only, no epoch can be shown to be better, and none is trained."""
    problem = Problem(aucs=[None])
    fitted = fit(tmp_path, problem, select="best")
    assert (fitted.epoch, fitted.auc, problem.losses) == (0, None, 0)


def test_last_epoch_never_stops_early(tmp_path: Path) -> None:
    """Law: with `last_epoch` every epoch is trained and the last one remains, whatever validation says."""
    problem = Problem(aucs=[0.9, 0.1])
    assert fit(tmp_path, problem, select="last_epoch").epoch == 5


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    """Law: a checkpoint of other settings is refused, and the message names what differs."""
    fit(tmp_path, Problem(), lr=0.01)
    with pytest.raises(StateMismatch, match=r"lr was 0\.01, is now 0\.02"):
        fit(tmp_path, Problem(), lr=0.02)


def test_broken_state_is_refused_by_path(tmp_path: Path) -> None:
    """Law: a state file that is not one is refused with its path and what to do."""
    fit(tmp_path, Problem())
    path = tmp_path / "piece.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(StateMismatch, match=r"piece\.safetensors.*delete it"):
        fit(tmp_path, Problem())


def test_second_process_is_kept_out(tmp_path: Path) -> None:
    """Law: one process at a time trains in a run folder."""
    second = StateFolder(tmp_path)
    with StateFolder(tmp_path).locked(), pytest.raises(RunExists, match="another process"), second.locked():
        pass


def test_left_over_of_a_kill_is_swept(tmp_path: Path) -> None:
    """Law: what a killed writer left beside its file is removed by the next run."""
    left = tmp_path / "adapters" / ".tmp-1-abc"
    left.parent.mkdir()
    left.write_bytes(b"half")
    with StateFolder(tmp_path).locked():
        assert not left.exists()


def test_streams_are_named_and_stable() -> None:
    """Law: a stream's seed depends on its name alone, differs for every name, and never changes between releases."""
    numbers = {Stream(seed, name).number() for seed in (0, 1) for name in ((), ("a",), ("a", 1), ("a", "1"), ("b",))}
    assert len(numbers) == 10
    assert Stream(0, ("a",)).of("order", 3).number() == Stream(0, ("a", "order", 3)).number()
    assert Stream(0, ("pretrain", "order", 1)).number() == 406671150334775793


def test_a_trainee_that_learns_nothing_stays_as_it_starts(tmp_path: Path) -> None:
    """Law: without anything to learn no epoch runs, epoch 0 is judged and kept, and resuming says the same."""
    for select in ("best", "last_epoch"):
        problem = Problem(aucs=(0.6,))
        problem.net.requires_grad_(False)
        before = problem.weights()
        first = fit(tmp_path / select, problem, select)
        assert (first.epoch, first.auc, problem.losses) == (0, 0.6, 0)
        assert fit(tmp_path / select, problem, select) == first
        assert same(problem.weights(), before)
