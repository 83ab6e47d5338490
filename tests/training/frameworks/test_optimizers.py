"""The optimizers are torch's, and rows that have no gradient stay as they are."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from training.frameworks.optimizers import Name, Optimizer, Rule

TORCH: dict[Name, Callable[[list[Tensor], float, float], torch.optim.Optimizer]] = {
    "sgd": lambda p, lr, decay: torch.optim.SGD(p, lr, weight_decay=decay),
    "adam": lambda p, lr, decay: torch.optim.Adam(p, lr, weight_decay=decay),
    "adagrad": lambda p, lr, decay: torch.optim.Adagrad(p, lr, weight_decay=decay),
}


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("name", ["sgd", "adam", "adagrad"])
def test_dense_steps_are_torchs(name: Name, decay: float) -> None:
    """Law: on the same gradients each rule ends where torch's optimizer of that name ends."""
    generator = torch.Generator().manual_seed(1)
    mine = torch.randn(4, 3, generator=generator)
    theirs = mine.clone().requires_grad_()
    oracle = TORCH[name]([theirs], 0.05, decay)
    optimizer = Optimizer(Rule(name, 0.05, weight_decay=decay))
    weights = {"w": mine}
    for _ in range(5):
        gradient = torch.randn(4, 3, generator=generator)
        theirs.grad = gradient.clone()
        oracle.step()
        optimizer.begin()
        optimizer.dense(weights, {"w": gradient})
    torch.testing.assert_close(weights["w"], theirs.detach(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["sgd", "adam", "adagrad"])
def test_rows_step_as_torchs_sparse_optimizers_do(name: Name) -> None:
    """Law: rows with a gradient step as torch's sparse form of the rule; all others, and their state, stay."""
    generator = torch.Generator().manual_seed(2)
    table = torch.randn(7, 2, generator=generator)
    theirs = table.clone().requires_grad_()
    oracle = torch.optim.SparseAdam([theirs], 0.05) if name == "adam" else TORCH[name]([theirs], 0.05, 0.0)
    optimizer = Optimizer(Rule(name, 0.05, weight_decay=0.3))  # which no row feels
    start = table.clone()
    for ids in ([0, 2], [2, 5], [0, 2, 5]):
        rows = torch.tensor(ids)
        gradient = torch.randn(len(ids), 2, generator=generator)
        theirs.grad = torch.sparse_coo_tensor(rows.unsqueeze(0), gradient, table.shape, check_invariants=True)
        with torch.sparse.check_sparse_tensor_invariants(True):  # torch's Adagrad warns without
            oracle.step()
        optimizer.begin()
        optimizer.rows("table", table, rows, gradient)
    torch.testing.assert_close(table, theirs.detach(), rtol=1e-5, atol=1e-7)
    assert torch.equal(table[[1, 3, 4, 6]], start[[1, 3, 4, 6]])


@pytest.mark.parametrize("name", ["sgd", "adam", "adagrad"])
def test_leading_steps_are_those_of_each_training_alone(name: Name) -> None:
    """Law: trainings that stand side by side step as each would alone, also when the last are done earlier."""
    generator = torch.Generator().manual_seed(3)
    stack = torch.randn(3, 4, generator=generator)
    alone = [{"w": stack[i].clone()} for i in range(3)]
    optimizers = [Optimizer(Rule(name, 0.05)) for _ in range(3)]
    together = Optimizer(Rule(name, 0.05))
    for busy in (3, 3, 2, 1):
        gradient = torch.randn(busy, 4, generator=generator)
        together.begin()
        together.leading({"w": stack}, {"w": gradient})
        for i in range(busy):
            optimizers[i].begin()
            optimizers[i].dense(alone[i], {"w": gradient[i]})
    assert torch.equal(stack, torch.stack([weights["w"] for weights in alone]))


@pytest.mark.parametrize("name", ["sgd", "adam", "adagrad"])
def test_state_that_is_put_away_and_taken_back_goes_on_alike(name: Name) -> None:
    """Law: an optimizer loaded from another's tensors steps as that one does; after a reset it steps as a fresh one."""
    weights = {"w": torch.ones(3)}
    first = Optimizer(Rule(name, 0.1))
    first.begin()
    first.dense(weights, {"w": torch.tensor([1.0, -2.0, 0.5])})
    second = Optimizer(Rule(name, 0.1))
    second.load(first.tensors())
    copies = [{"w": weights["w"].clone()} for _ in range(2)]
    for optimizer, copy in zip((first, second), copies, strict=True):
        optimizer.begin()
        optimizer.dense(copy, {"w": torch.tensor([0.3, 0.2, -1.0])})
    assert torch.equal(copies[0]["w"], copies[1]["w"])
    first.reset()
    assert {key: int(value) for key, value in first.tensors().items()} == {"step": 0}
