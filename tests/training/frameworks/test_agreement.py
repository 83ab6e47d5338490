"""Laws of the agreement of gradients (MAMDR, Eq. 21)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.training.frameworks.settings import SmallData
from training.frameworks.agreement import Agreement, agreement
from training.frameworks.negotiation import Negotiation


def test_inner_products_are_those_of_the_domains_full_gradients(small_data: SmallData) -> None:
    """Law: each entry is the product of two gradients of mean losses, taken in float64 of all parameters at once."""
    setting = small_data.setting()
    state = setting.start()
    found = agreement(setting, state, setting.domains.train)
    plain = small_data.structure().double().eval()
    flat = []
    for positions in setting.domains.train:
        batch = setting.labelled(positions)
        plain.zero_grad()
        logits = plain(batch.inputs, batch.domain)
        torch.nn.functional.binary_cross_entropy_with_logits(logits, batch.label.double()).backward()
        flat.append(torch.cat([p.grad.flatten() for p in plain.parameters() if p.grad is not None]))
    rows = torch.stack(flat).numpy()
    np.testing.assert_allclose(found.inner, rows @ rows.T, rtol=1e-4, atol=1e-9)


def test_the_cut_into_batches_does_not_matter(small_data: SmallData) -> None:
    """Law: a domain's gradient is that of all its rows, however many are read at a time."""
    setting = small_data.setting()
    state = setting.start()
    whole = agreement(setting, state, setting.domains.train)
    cut = agreement(setting, state, setting.domains.train, batch_rows=7)
    np.testing.assert_allclose(cut.inner, whole.inner, rtol=1e-4, atol=1e-9)


def test_means_are_over_pairs_of_different_domains() -> None:
    """Law: a domain's product with itself does not count, and the cosine does not know lengths."""
    opposed = Agreement((0, 1), np.array([[4.0, -6.0], [-6.0, 9.0]]))
    assert opposed.mean_inner == -6.0
    assert opposed.mean_cosine == pytest.approx(-1.0)
    assert np.isnan(Agreement((0,), np.array([[4.0]])).mean_inner)


def test_measuring_changes_nothing(small_data: SmallData) -> None:
    """Law: weights, moments and the network are as they were, and domains without rows are left out."""
    setting = small_data.setting(small_data.structure(norm=True))
    state = setting.start()
    Negotiation(setting).epoch(state, 1)
    before = {name: value.clone() for name, value in state.tensors().items()}
    none = torch.empty(0, dtype=torch.int64)
    found = agreement(setting, state, (setting.domains.train[0], none, setting.domains.train[2]))
    assert found.domains == (0, 2)
    assert found.inner.shape == (2, 2)
    assert all(torch.equal(value, before[name]) for name, value in state.tensors().items())
    assert all(torch.equal(value, state.moments[name]) for name, value in setting.structure.moments().items())


def test_the_loss_is_the_mean_of_the_domains_own(small_data: SmallData) -> None:
    """Law: domains count alike, whatever their rows, and the cut into batches does not matter."""
    setting = small_data.setting()
    state = setting.start()
    plain = small_data.structure().double().eval()
    each = []
    for positions in setting.domains.train:
        batch = setting.labelled(positions)
        logits = plain(batch.inputs, batch.domain)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, batch.label.double())
        each.append(float(loss.detach()))
    assert len({len(rows) for rows in setting.domains.train}) == 3
    found = agreement(setting, state, setting.domains.train, batch_rows=40)
    assert found.loss == pytest.approx(np.mean(each), rel=1e-5)


def test_pairs_are_those_with_a_domain_and_those_without_it() -> None:
    """Law: a domain is named by its position, whichever were left out, and both parts make up the whole."""
    inner = np.array([[9.0, 1.0, 2.0], [1.0, 9.0, 6.0], [2.0, 6.0, 9.0]])
    found = Agreement((0, 3, 4), inner)
    assert (found.mean_inner_with(3), found.mean_inner_without(3)) == (3.5, 2.0)
    assert (2 * found.mean_inner_with(3) + found.mean_inner_without(3)) / 3 == found.mean_inner
    pair = Agreement((0, 1), inner[:2, :2])
    assert pair.mean_inner_with(1) == 1.0
    assert np.isnan(pair.mean_inner_without(1))
