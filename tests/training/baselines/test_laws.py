"""Laws that every baseline keeps."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from network.errors import ShapeError
from network.inputs import Batch
from tests.training.baselines.oracle import Oracle
from tests.training.baselines.samples import DOMAINS, SETTINGS, drawn, randomise, rows, shape
from training.baselines.baseline import Baseline
from training.baselines.table import BASELINES, build_baseline
from training.frameworks.structure import TABLE

NAMES = tuple(BASELINES)
OWN = {
    "shared_bottom": ("towers.{}.",),
    "mmoe": ("towers.{}.", "gates.weight.{}"),
    "cgc": ("towers.{}.", "top.own.{}.", "top.gates.weight.{}"),
    "ple": ("towers.{}.", "top.own.{}.", "top.gates.weight.{}", "lower.1.gates.weight.{}"),
    "star": (
        *(f"linears.{level}.own_{what}.{{}}" for level in range(2) for what in ("weight", "bias")),
        *(f"output.own_{what}.{{}}" for what in ("weight", "bias")),
        *(f"{norm}.own.{{}}." for norm in ("input_norm", "layer_norms.0", "layer_norms.1")),
        "indicator.{}",
    ),
    "hamur": ("cells.{}.",),
    "plate": ("prompts.{}",),
}
"""What belongs to one domain alone. PLE's experts below the top are read by the path that all domains share."""


def reached(baseline: Baseline, batch: Batch, domain: torch.Tensor) -> set[str]:
    """Names of the parameters that get a gradient other than zero."""
    baseline.requires_grad_(True)
    baseline.zero_grad()
    logits = baseline(batch, domain)
    (logits * torch.linspace(0, 1, len(logits), dtype=logits.dtype)).sum().backward()
    return {n for n, p in baseline.named_parameters() if p.grad is not None and float(p.grad.abs().sum()) > 0}


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_the_logits_are_those_of_the_formulas(name: str, norm: bool) -> None:
    """Law: on random weights and moments each logit equals the float64 oracle's, which takes one row at a time."""
    baseline, (batch, domain) = drawn(name, norm=norm), rows(40)
    expected = Oracle(baseline.state_dict(), baseline.shape, SETTINGS[name]).logits(name, batch, domain)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(baseline(batch, domain).detach().numpy(), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_evaluation_does_not_depend_on_the_batch(name: str) -> None:
    """Law: a row alone, in its domain's batch or in a mixed one has one logit, and no moment moves."""
    baseline, (batch, domain) = drawn(name), rows(60)
    before = {key: value.clone() for key, value in baseline.state_dict().items()}
    mixed = baseline(batch, domain).detach()
    for row in range(0, 60, 7):
        alone = baseline(batch.take(torch.tensor([row])), domain[row : row + 1])
        torch.testing.assert_close(alone[0], mixed[row], rtol=1e-10, atol=1e-10)
    for k in range(DOMAINS):
        own = torch.nonzero(domain == k).squeeze(1).flip(0)
        torch.testing.assert_close(baseline(batch.take(own), domain[own]), mixed[own], rtol=1e-10, atol=1e-10)
    assert all(torch.equal(value, before[key]) for key, value in baseline.state_dict().items())


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_gets_a_gradient_in_some_phase(name: str) -> None:
    """Law: rows of all domains reach every parameter in one of the phases that the baseline is trained in."""
    baseline, (batch, domain) = drawn(name), rows(80)
    found: set[str] = set()
    for phase in baseline.phases:
        baseline.enter(phase)
        trained = {*baseline.shared_names(), TABLE}
        found |= reached(baseline, batch, domain) & trained
    assert found == {parameter for parameter, _ in baseline.named_parameters()}


@pytest.mark.parametrize("name", NAMES)
def test_a_domain_s_own_parameters_see_its_rows_alone(name: str) -> None:
    """Law: what one domain's rows reach and another's do not is exactly what is named after that domain."""
    baseline, (batch, _) = drawn(name), rows(80)
    for phase in baseline.phases:
        baseline.enter(phase)
        of = [reached(baseline, batch, torch.full((80,), k)) for k in range(DOMAINS)]
        names = [parameter for parameter, _ in baseline.named_parameters()]
        for k in range(DOMAINS):
            prefixes = tuple(prefix.format(k) for prefix in OWN[name])
            assert of[k] - of[(k + 1) % DOMAINS] == {parameter for parameter in names if parameter.startswith(prefixes)}


@pytest.mark.parametrize("name", NAMES)
def test_training_on_one_domain_moves_no_other_domain_s_moments(name: str) -> None:
    """Law: in training mode the moments inside what a domain owns follow that domain's rows alone."""
    baseline, (batch, _) = drawn(name), rows(64)
    before = {key: value.clone() for key, value in baseline.named_buffers()}
    baseline.train()
    baseline(batch, torch.full((64,), 1))
    moved = {key for key, value in baseline.named_buffers() if not torch.equal(value, before[key])}
    others = tuple(prefix.format(k) for prefix in OWN[name] for k in (0, 2))
    own = {key for key in before if key.startswith(tuple(prefix.format(1) for prefix in OWN[name]))}
    assert not {key for key in moved if key.startswith(others)}
    assert own <= moved


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_rows_does_not_matter_in_training(name: str) -> None:
    """Law: with batch moments too, a permutation of the batch permutes the logits."""
    baseline, (batch, domain) = drawn(name), rows(128)
    baseline.train()
    order = torch.randperm(128, generator=torch.Generator().manual_seed(1))
    straight = baseline(batch, domain).detach()
    permuted = baseline(batch.take(order), domain[order]).detach()
    torch.testing.assert_close(permuted, straight[order], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", NAMES)
def test_dropout_acts_in_training_alone(name: str) -> None:
    """Law: two passes differ in training mode with dropout, and are equal in eval mode."""
    baseline, (batch, domain) = drawn(name, dropout=0.5), rows(40)
    assert torch.equal(baseline(batch, domain), baseline(batch, domain))
    baseline.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        assert not torch.allclose(baseline(batch, domain), baseline(batch, domain))


@pytest.mark.parametrize("name", NAMES)
def test_no_rows_give_no_logits(name: str) -> None:
    """Law: an empty batch is scored like any other."""
    batch, domain = rows(3)
    none = torch.empty(0, dtype=torch.int64)
    assert drawn(name)(batch.take(none), domain[none]).shape == (0,)


@pytest.mark.parametrize("name", NAMES)
def test_the_names_of_a_structure_are_its_parameters(name: str) -> None:
    """Law: over all phases the shared names and the table are every parameter, and the first phase trains the table."""
    baseline = build_baseline(name, shape(), DOMAINS)
    names: set[str] = set()
    for phase in baseline.phases:
        baseline.enter(phase)
        names |= set(baseline.shared_names())
    assert names | {TABLE} == {parameter for parameter, _ in baseline.named_parameters()}
    assert TABLE not in names


@pytest.mark.parametrize("name", ["shared_bottom", "mmoe", "cgc", "star", "hamur"])
def test_a_baseline_learns_domains_that_contradict_each_other(name: str) -> None:
    """Law: where two domains want opposite logits for the same rows, the network gives both what they want."""
    torch.manual_seed(0)
    baseline = build_baseline(name, shape(tower=(16, 8)), DOMAINS)
    randomise(baseline.embeddings)
    batch, domain = rows(400, seed=2)
    domain = domain % 2
    label = ((batch.dense[:, 0] > 0) == (domain == 0)).float()
    optimizer = torch.optim.Adam(baseline.parameters(), 0.02)
    baseline.train()
    for _ in range(120):
        optimizer.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(baseline(batch, domain), label)
        loss.backward()
        optimizer.step()
    right = (baseline.eval()(batch, domain) > 0) == (label > 0)
    assert all(float(right[domain == k].float().mean()) > 0.9 for k in (0, 1))


def test_rows_that_do_not_fit_are_refused() -> None:
    """Law: an unknown domain, a missing domain, no domain at all and another kind of network are named."""
    batch, domain = rows(5)
    baseline = drawn("shared_bottom")
    for wrong in (-1, DOMAINS):
        with pytest.raises(ShapeError, match="the network has 0 to 2"):
            baseline(batch, torch.full((5,), wrong))
    with pytest.raises(ShapeError, match="one domain for each row"):
        baseline(batch, domain[:4])
    with pytest.raises(ShapeError, match="at least one domain"):
        build_baseline("mmoe", shape(), 0)
    with pytest.raises(ShapeError, match="kind mlp"):
        build_baseline("mmoe", dataclasses.replace(shape(), kind="dcn"), 2)
