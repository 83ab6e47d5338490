"""The parts of a pack, each held to what serves one domain."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from network.dropout import dropout
from network.norm import DomNorm
from training.config import Schedule
from training.metrics import auc
from training.packed.adam import StackedAdam
from training.packed.aucs import domain_aucs
from training.packed.fusion import RowAdam
from training.packed.masks import Masks
from training.packed.norm import Dropped, Filled, StackedNorm


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_masks_are_those_of_a_domain_alone() -> None:
    """Law: a domain's factors are, layer after layer, what `network.dropout` draws from its stream."""
    counts, widths = [5, 3, 4], (3, 6)
    drawn = Masks([torch.Generator().manual_seed(seed) for seed in range(3)], widths, 0.4).draw(counts, torch.float32)
    for domain, count in enumerate(counts):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(domain)
            for layer, width in enumerate(widths):
                ones = drawn[layer].of(torch.ones(3, 5, width))[domain, :count]
                assert ones.equal(dropout(torch.ones(count, width), 0.4))


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_stacked_adam_steps_each_row_by_its_own_count(decay: float) -> None:
    """Law: rows that miss steps are where an Adam of their own would be."""
    schedule = Schedule(lr=0.05, weight_decay=decay)
    start = numbers(3, 4)
    stacked = start.clone()
    optimizer = StackedAdam(stacked, schedule)
    chosen = nn.Parameter(start.clone())
    used = torch.arange(3)
    by_rows = RowAdam([chosen], [], schedule, lambda: used)
    alone = [start[row].clone().requires_grad_() for row in range(3)]
    own = [torch.optim.Adam([value], schedule.lr, weight_decay=decay) for value in alone]
    for step, busy in enumerate(([0, 1, 2], [0, 1], [0], [0, 1, 2], [0])):
        gradient = numbers(3, 4, seed=step + 1)
        optimizer.step(stacked[: len(busy)], gradient[: len(busy)])
        used = torch.tensor(busy)
        chosen.grad = gradient
        by_rows.step()
        for row in busy:
            alone[row].grad = gradient[row].clone()
            own[row].step()
    expected = torch.stack([value.detach() for value in alone])
    np.testing.assert_allclose(stacked, expected, atol=1e-12)
    np.testing.assert_allclose(chosen.detach(), expected, atol=1e-12)


def test_hidden_layer_is_each_domains() -> None:
    """Law: outputs, gradients and running moments are those of DomNorm, ReLU and dropout for each domain.

    Rows of filling have no part in them.
    """
    counts, width = [40, 33, 7], 3
    h = numbers(3, 40, width).requires_grad_()
    above = numbers(3, 40, width, seed=9)
    filled = Filled.of(counts, torch.float64)
    weight, bias, mean = (numbers(3, width, seed=seed).requires_grad_(seed < 3) for seed in (1, 2, 3))
    var = numbers(3, width, seed=4).abs() + 0.1
    before = mean.clone(), var.clone()
    dropped = Dropped((numbers(3, 40, width, seed=5) > 0.5).double(), 1.25)
    out = StackedNorm(weight, bias, mean, var, 1e-5, 0.1).hidden(h, filled, dropped=dropped)
    (out * above * (filled.weight > 0).unsqueeze(2)).sum().backward()
    assert h.grad is not None
    assert weight.grad is not None
    assert bias.grad is not None
    for domain, count in enumerate(counts):
        norm = DomNorm(width).double()
        values = (weight[domain], bias[domain], before[0][domain], before[1][domain])
        norm.load_state_dict(dict(zip(("weight", "bias", "mean", "var"), values, strict=True)))
        rows = h[domain, :count].detach().requires_grad_()
        expected = torch.relu(norm(rows)) * 1.25 * dropped.kept[domain, :count]
        (expected * above[domain, :count]).sum().backward()
        for found, wanted in (
            (out[domain, :count].detach(), expected.detach()),
            (h.grad[domain, :count], rows.grad),
            (weight.grad[domain], norm.weight.grad),
            (bias.grad[domain], norm.bias.grad),
            (mean[domain], norm.mean),
            (var[domain], norm.var),
        ):
            np.testing.assert_allclose(found, wanted, atol=1e-12)
        assert not h.grad[domain, count:].any()


def test_domain_aucs_are_each_domains_auc() -> None:
    """Law: one sort gives what a sort for each domain gives, ties, one class and empty domains included."""
    draw = np.random.default_rng(0)
    owner = np.sort(draw.integers(0, 6, 200))
    owner = owner[owner != 4]
    label = (draw.random(len(owner)) < 0.4).astype(np.float32)
    label[owner == 2] = 1.0
    score = draw.integers(0, 9, len(owner)).astype(np.float64)
    expected = [auc(label[owner == domain], score[owner == domain]) if domain != 4 else None for domain in range(6)]
    found = domain_aucs(label, score, owner.astype(np.int64), 6)
    assert found == expected
    assert found[2] is None
    assert domain_aucs(label[:0], score[:0], owner[:0].astype(np.int64), 2) == [None, None]
