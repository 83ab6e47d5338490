"""Alternate training, Domain Negotiation and Reptile are the loops that their papers print."""

from __future__ import annotations

import pytest
import torch

from tests.training.frameworks.oracle import module_with, plain_loop
from tests.training.frameworks.settings import SmallData, differing
from training.frameworks.alternate import Alternate, Mix
from training.frameworks.negotiation import Negotiation, Reptile
from training.frameworks.setting import Setting
from training.frameworks.structure import TABLE

CLOSE = 2e-6
SGD = {"optimizer": "sgd", "lr": 0.5}


def visits_of(setting: Setting, number: int) -> list[tuple[int, list[torch.Tensor]]]:
    """The batches of an epoch, domain by domain, in the order that the framework draws."""
    stream = setting.stream.of("visits", number)
    order = setting.shuffled(setting.domains.trained, stream.of("domains"))
    return [(domain, setting.visit(domain, stream.of(setting.domains.names[domain]))) for domain in order]


def test_a_visit_passes_every_row_once(small_data: SmallData) -> None:
    """Law: `inner.steps: epoch` visits each training row of a domain once; a number takes that many batches."""
    setting = small_data.setting()
    for domain, visits in visits_of(setting, 1):
        assert sorted(torch.cat(visits).tolist()) == setting.domains.train[domain].tolist()
    few = small_data.setting(inner={"steps": 2})
    many = small_data.setting(inner={"steps": 9})
    assert {len(visits) for _, visits in visits_of(few, 1)} == {2}
    assert {len(visits) for _, visits in visits_of(many, 1)} == {9}


def test_every_epoch_has_an_order_of_its_own(small_data: SmallData) -> None:
    """Law: the order of domains and rows is drawn anew each epoch, and is the same whenever it is drawn."""
    setting = small_data.setting()
    orders = [[rows.tolist() for _, visits in visits_of(setting, number) for rows in visits] for number in (1, 2, 1)]
    assert orders[0] != orders[1]
    assert orders[0] == orders[2]


@pytest.mark.parametrize("inner", [SGD, {"optimizer": "adagrad", "lr": 0.05}])
def test_alternate_is_a_plain_loop_over_domains(small_data: SmallData, inner: dict[str, object]) -> None:
    """Law: an epoch of alternate training is one pass of torch's own optimizer over the domains' batches."""
    setting = small_data.setting(inner=inner)
    framework = Alternate(setting)
    state = framework.start()
    batches = [rows for _, visits in visits_of(setting, 1) for rows in visits]
    oracle = torch.optim.SGD if inner["optimizer"] == "sgd" else torch.optim.Adagrad
    expected = plain_loop(
        module_with(setting.structure, state.shared), setting, batches, lambda p: oracle(p, float(str(inner["lr"])))
    )
    framework.epoch(state, 1)
    assert not differing(state.shared, expected, CLOSE)
    assert differing(state.shared, setting.structure.theta(), 1e-3)


def test_adam_steps_rows_that_a_batch_touches_and_no_others(small_data: SmallData) -> None:
    """Law: after a batch the table differs in the batch's own rows alone, whatever Adam remembers of the others."""
    setting = small_data.setting(inner={"steps": 1}, rows=80)
    framework = Alternate(setting)
    state = framework.start()
    before = state.shared[TABLE].clone()
    touched = {
        row
        for _, visits in visits_of(setting, 1)
        for rows in visits
        for row in setting.structure.touched(setting.rows.batch(rows)).tolist()
    }
    framework.epoch(state, 1)
    changed = (state.shared[TABLE] != before).any(1).nonzero().squeeze(1).tolist()
    assert set(changed) <= touched
    assert len(changed) > 0.9 * len(touched)
    assert len(touched) < len(before)


def test_negotiation_with_beta_one_is_alternate_training(small_data: SmallData) -> None:
    """Law: with beta = 1 Domain Negotiation ends where alternate training ends (methods.md 3)."""
    outer = {"optimizer": "sgd", "lr": 1.0}
    alternate, negotiation = Alternate(small_data.setting()), Negotiation(small_data.setting(outer=outer))
    states = alternate.start(), negotiation.start()
    for number in (1, 2):
        alternate.epoch(states[0], number)
        negotiation.epoch(states[1], number)
    assert not differing(states[0].shared, states[1].shared, 1e-5)


def test_negotiation_moves_theta_by_beta_towards_the_end(small_data: SmallData) -> None:
    """Law: theta_S + beta (end - theta_S), with the end of a plain loop (MAMDR, Eq. 3)."""
    setting = small_data.setting(inner=SGD, outer={"lr": 0.25})
    framework = Negotiation(setting)
    state = framework.start()
    start = {name: value.clone() for name, value in state.shared.items()}
    batches = [rows for _, visits in visits_of(setting, 1) for rows in visits]
    end = plain_loop(module_with(setting.structure, start), setting, batches, lambda p: torch.optim.SGD(p, 0.5))
    framework.epoch(state, 1)
    expected = {name: value + 0.25 * (end[name] - value) for name, value in start.items()}
    assert not differing(state.shared, expected, CLOSE)


def test_reptile_takes_an_outer_step_after_each_domain(small_data: SmallData) -> None:
    """Law: for each domain in turn theta + beta (end - theta), from the theta that the last one left."""
    setting = small_data.setting(inner=SGD, outer={"lr": 0.25})
    framework = Reptile(setting)
    state = framework.start()
    theta = {name: value.clone() for name, value in state.shared.items()}
    for _, visits in visits_of(setting, 1):
        end = plain_loop(module_with(setting.structure, theta), setting, visits, lambda p: torch.optim.SGD(p, 0.5))
        theta = {name: value + 0.25 * (end[name] - value) for name, value in theta.items()}
    framework.epoch(state, 1)
    assert not differing(state.shared, theta, CLOSE)


def test_an_outer_optimizer_gets_the_pseudo_gradient(small_data: SmallData) -> None:
    """Law: the outer step is torch's Adagrad on theta - end; rows that no batch touched stay as they are."""
    setting = small_data.setting(inner=SGD, outer={"optimizer": "adagrad", "lr": 0.05})
    framework = Negotiation(setting)
    state = framework.start()
    start = {name: value.clone() for name, value in state.shared.items()}
    batches = [rows for _, visits in visits_of(setting, 1) for rows in visits]
    end = plain_loop(module_with(setting.structure, start), setting, batches, lambda p: torch.optim.SGD(p, 0.5))
    leaves = {name: value.clone().requires_grad_() for name, value in start.items()}
    oracle = torch.optim.Adagrad(list(leaves.values()), 0.05)
    for name, leaf in leaves.items():
        leaf.grad = start[name] - end[name]
    oracle.step()
    framework.epoch(state, 1)
    moved = (start[TABLE] - end[TABLE]).abs().amax(1) > 1e-4  # Adagrad's first step is a sign: keep clear of zero
    assert torch.allclose(state.shared[TABLE][moved], leaves[TABLE].detach()[moved], atol=2e-3)
    dense = {name: value for name, value in state.shared.items() if name != TABLE}
    clear = {name: (start[name] - end[name]).abs() > 1e-4 for name in dense}
    for name, value in dense.items():
        torch.testing.assert_close(value[clear[name]], leaves[name].detach()[clear[name]], atol=2e-3, rtol=0)
    assert len(moved) > int(moved.sum()) > 10


def test_an_optimizer_that_is_never_reset_remembers(small_data: SmallData) -> None:
    """Law: `inner.reset: never` carries Adam's state over epochs, so the second epoch ends elsewhere."""
    ends = []
    for reset in ("loop", "never"):
        framework = Alternate(small_data.setting(inner={"reset": reset}))
        state = framework.start()
        framework.epoch(state, 1)
        first = {name: value.clone() for name, value in state.shared.items()}
        framework.epoch(state, 2)
        ends.append((first, state.shared))
    assert not differing(ends[0][0], ends[1][0])
    assert differing(ends[0][1], ends[1][1], 1e-5)


def test_mix_draws_every_batch_from_all_domains(small_data: SmallData) -> None:
    """Law: an epoch of mixed training passes every row once, and its loss falls."""
    seen: list[int] = []
    setting = small_data.setting()
    told = Setting(setting.structure, setting.rows, setting.domains, setting.config, setting.stream, seen.append)
    framework = Mix(told)
    state = framework.start()
    losses = [framework.epoch(state, number) for number in (1, 2, 3)]
    assert sum(seen) == 3 * sum(map(len, setting.domains.train))
    assert losses[2] < losses[0]


def test_frozen_embeddings_stay(small_data: SmallData) -> None:
    """Law: with `embeddings: frozen` no framework changes the table, and all else learns."""
    setting = small_data.setting(embeddings="frozen")
    framework = Negotiation(setting)
    state = framework.start()
    framework.epoch(state, 1)
    changed = differing(state.shared, setting.structure.theta())
    assert TABLE not in changed
    assert len(changed) == len(state.shared) - 1
