"""Laws of the agreement of gradients (MAMDR, Eq. 21)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.training.frameworks.settings import SmallData
from training.frameworks.agreement import Agreement, Gradient, agreement, agreement_apart, gradients
from training.frameworks.negotiation import Negotiation
from training.frameworks.structure import TABLE


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


def test_draws_are_told_apart_from_what_they_have_in_common(small_data: SmallData) -> None:
    """Law: one part is the mean of each draw's products, the other that of all products between two different draws."""
    setting = small_data.setting()
    state = setting.start()
    draws, flat, each = [], [], []
    for number in (1, 2, 3):
        Negotiation(setting).epoch(state, number)
        found = gradients(setting, state, setting.domains.train)
        draws.append(found)
        each.append(agreement(setting, state, setting.domains.train))
        flat.append([_flat(one, state.shared[TABLE].shape) for one in found.values()])
    whole, apart = agreement_apart(draws, state.shared[TABLE].shape)
    np.testing.assert_allclose(whole.inner, np.mean([one.inner for one in each], axis=0), rtol=1e-9)
    assert whole.loss == pytest.approx(np.mean([one.loss for one in each]))
    rows = np.array(flat)
    pairs = [rows[k] @ rows[m].T for k in range(3) for m in range(3) if k != m]
    np.testing.assert_allclose(apart.inner, np.mean(pairs, axis=0), rtol=1e-6, atol=1e-12)
    assert apart.domains == whole.domains == tuple(range(len(setting.domains.train)))


def test_what_only_the_draw_brought_is_not_in_common() -> None:
    """Law: domains whose gradients agree only in undoing what moved them all have nothing in common over the draws."""
    rng = np.random.default_rng(0)
    none = torch.empty(0, dtype=torch.int64)
    draws = []
    for moved in rng.normal(size=(400, 8)):
        own = [torch.from_numpy(moved + 0.1 * rng.normal(size=8)) for _ in range(2)]
        rows = torch.zeros(0, 2, dtype=torch.float64)
        draws.append({domain: Gradient({"w": value}, none, rows, 0.5) for domain, value in enumerate(own)})
    whole, apart = agreement_apart(draws, torch.Size((3, 2)))
    assert whole.mean_inner == pytest.approx(8.0, rel=0.1)
    assert abs(apart.mean_inner) < 0.1


def test_one_draw_cannot_be_told_apart(small_data: SmallData) -> None:
    """Law: with a single draw there is nothing to tell it from, and the error says so."""
    setting = small_data.setting()
    found = gradients(setting, setting.start(), setting.domains.train)
    with pytest.raises(ValueError, match="1 given, and it takes two or more"):
        agreement_apart([found], torch.Size((3, 2)))


def _flat(gradient: Gradient, table: torch.Size) -> np.ndarray:
    parts = [gradient.dense[name].flatten() for name in sorted(gradient.dense)]
    return torch.cat([*parts, gradient.spread(table).flatten()]).numpy()
