"""Truncated SVD, and the choice of ranks, against brute force."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training.deltas.low_rank import Factors, smallest_ranks


def test_factors_are_the_best_approximation_of_each_rank() -> None:
    """Law: at rank r the error is the root of the squared singular values left out (Eckart and Young)."""
    delta = torch.randn((9, 6), generator=torch.Generator().manual_seed(0)).double()
    factors, values = Factors.of(delta, 99), torch.linalg.svdvals(delta)
    assert factors.rank == 6
    for rank in range(1, 7):
        up, down = factors.at(rank, torch.float64)
        assert (up.shape, down.shape) == ((9, rank), (rank, 6))
        torch.testing.assert_close(torch.linalg.matrix_norm(delta - up @ down), values[rank:].square().sum().sqrt())


def test_factors_keep_to_the_cap_and_to_the_rank_that_there_is() -> None:
    """Law: a matrix of rank 2 gives two factors, a zero matrix one of zeros, and never more than the cap."""
    up, down = torch.randn((8, 2)), torch.randn((2, 5))
    assert Factors.of(up.double() @ down.double(), 99).rank == 2
    zero = Factors.of(torch.zeros(4, 3), 99)
    assert (zero.rank, float(zero.up.abs().sum() + zero.down.abs().sum())) == (1, 0.0)
    assert Factors.of(torch.eye(7), 3).rank == 3


@settings(deadline=None)
@given(
    st.lists(st.lists(st.floats(0, 1), min_size=1, max_size=4), min_size=1, max_size=3),
    st.floats(0, 1),
)
def test_no_chosen_rank_can_be_lowered(costs: list[list[float]], bound: float) -> None:
    """Law: whatever the loss, monotone or not: it keeps to the bound, and no smaller rank of any one layer does."""
    full = {f"layer {i}": len(own) for i, own in enumerate(costs)}

    def loss(ranks: dict[str, int]) -> float:
        return sum(own[rank - 1] for own, rank in zip(costs, ranks.values(), strict=True)) / len(costs)

    chosen = smallest_ranks(full, loss, bound)
    if chosen is None:
        assert loss(full) > bound
        return
    assert loss(chosen) <= bound
    for layer, rank in chosen.items():
        assert all(loss({**chosen, layer: less}) > bound for less in range(1, rank))


def test_ranks_are_minimal_among_all_where_layers_cost_alike() -> None:
    """Law: with one layer the choice is the smallest rank of all that keep to the bound."""
    costs = [0.9, 0.2, 0.5, 0.1, 0.0]
    for bound in (0.0, 0.1, 0.3, 0.95):
        chosen = smallest_ranks({"only": 5}, lambda ranks: costs[ranks["only"] - 1], bound)
        best = next(rank for rank, cost in enumerate(costs, 1) if cost <= bound)
        assert chosen == {"only": best}
