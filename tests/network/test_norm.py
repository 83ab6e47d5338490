"""DomNorm: batch norm of its own, whose moments can move without its function moving."""

from __future__ import annotations

import pytest
import torch

from network.norm import MIN_ROWS, DomNorm, compensating, pooled


def drawn(seed: int, width: int = 7) -> DomNorm:
    g = torch.Generator().manual_seed(seed)
    norm = DomNorm(width)
    with torch.no_grad():
        for value in (norm.weight, norm.bias, norm.mean):
            value.normal_(generator=g)
        norm.var.uniform_(0.2, 3.0, generator=g)
    return norm.eval()


def test_compensated_moments_leave_the_function_as_it_was() -> None:
    """Law: moving to a domain's own moments changes no output beyond rounding, and the moments are the domain's."""
    norm = drawn(0).double()
    h = torch.randn((1000, 7), dtype=torch.float64) * 3 + torch.arange(7)
    before = norm(h)
    with torch.no_grad(), compensating([norm]):
        for part in h.split(300):
            norm(part)
    torch.testing.assert_close(norm(h), before, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(norm.mean, h.mean(0))
    torch.testing.assert_close(norm.var, h.var(0, correction=0))


def test_gathered_moments_keep_their_digits_around_a_large_mean() -> None:
    """Law: in float32 the gathered variance is right although the mean is a thousand times the deviation."""
    norm = drawn(1, 3)
    h = torch.randn((5000, 3), generator=torch.Generator().manual_seed(1)) + 1000
    with torch.no_grad(), compensating([norm]):
        for part in h.split(64):
            norm(part)
    torch.testing.assert_close(norm.var.double(), h.double().var(0, correction=0), rtol=1e-4, atol=0)


def test_too_few_rows_compensate_nothing() -> None:
    """Law: a norm that saw fewer than 32 rows keeps the moments that it has."""
    norm = drawn(2)
    kept = norm.mean.clone()
    with torch.no_grad(), compensating([norm]):
        norm(torch.randn(MIN_ROWS - 1, 7))
    assert torch.equal(norm.mean, kept)


@pytest.mark.parametrize(("rows", "moves"), [(MIN_ROWS - 1, False), (MIN_ROWS, True)])
def test_small_batches_use_and_keep_the_running_moments(rows: int, moves: bool) -> None:
    """Law: in training mode a batch of fewer than 32 rows is normalised as in eval mode and moves nothing."""
    norm = drawn(3)
    h = torch.randn(rows, 7)
    expected, mean = norm(h), norm.mean.clone()
    found = norm.train()(h)
    assert torch.equal(found, expected) is not moves
    assert torch.equal(norm.mean, mean) is not moves


def test_frozen_moments_never_move() -> None:
    """Law: with frozen moments training mode normalises as eval mode does."""
    norm = drawn(4).copied("frozen")
    h = torch.randn(500, 7)
    expected = norm.eval()(h)
    assert torch.equal(norm.train()(h), expected)


def test_pooled_norm_is_the_average_of_the_folded_maps() -> None:
    """Law: a pair's norm starts as the average of its domains' norms, which is linear in them (methods.md 2)."""
    norms = [drawn(seed).double() for seed in (5, 6)]
    h = torch.randn((100, 7), dtype=torch.float64)
    pair = pooled(norms).eval()
    torch.testing.assert_close(pair(h), (norms[0](h) + norms[1](h)) / 2)
    mixture = torch.cat([n.mean + n.var.sqrt() * s for n in norms for s in (-1, 1)]).view(4, 7)
    torch.testing.assert_close(pair.mean, mixture.mean(0))
    torch.testing.assert_close(pair.var, mixture.var(0, correction=0))
