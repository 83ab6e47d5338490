"""Laws of experts and gates: MMoE, CGC, PLE."""

from __future__ import annotations

import pytest
import torch

from network.grouping import group
from network.inputs import Batch
from tests.training.baselines.samples import DOMAINS, drawn, randomise, rows, shape
from training.baselines.layers import Experts, Gates, Recipe, mixed
from training.baselines.ple import deal
from training.baselines.table import build_baseline

AGE = 4  # column of x that the dense field fills
TOWERS = tuple(f"towers.{k}" for k in range(DOMAINS))


def test_a_gate_s_weights_sum_to_one() -> None:
    """Law: every row's weights are positive and sum to one, whatever the gate; zero weights are the plain average."""
    gates = Gates(DOMAINS, 5, 4).double()
    randomise(gates)
    x = torch.randn(30, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 10
    for k in range(DOMAINS):
        weights = gates(k, x)
        assert (weights > 0).all()
        torch.testing.assert_close(weights.sum(1), torch.ones(30, dtype=torch.float64), rtol=1e-12, atol=0)
    torch.nn.init.zeros_(gates.weight[0])
    outputs = torch.randn(30, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(mixed(gates(0, x), outputs), outputs.mean(1))


def test_experts_differ_from_the_start() -> None:
    """Law: fresh experts give different outputs, so that a gate has something to choose."""
    experts = Experts(5, (4,), 3, Recipe.of(shape(norm=False)))
    found = experts(torch.randn(20, 5, generator=torch.Generator().manual_seed(0)))
    assert found.shape == (20, 3, 4)
    assert not any(torch.allclose(found[:, i], found[:, j]) for i in range(3) for j in range(i))


def test_one_expert_is_a_shared_bottom() -> None:
    """Law: MMoE with one expert is Shared-Bottom, whatever its gates."""
    batch, domain = rows(40)
    bottom = drawn("shared_bottom")
    single = build_baseline("mmoe", shape(), DOMAINS, {"experts": 1}).double().eval()
    randomise(single, seed=5)
    names = {key: key.replace("bottom.", "experts.each.0.") for key in bottom.state_dict()}
    single.load_state_dict({names[key]: value for key, value in bottom.state_dict().items()}, strict=False)
    torch.testing.assert_close(single(batch, domain), bottom(batch, domain), rtol=1e-12, atol=1e-12)


def test_ple_of_one_level_is_cgc() -> None:
    """Law: with one level PLE has CGC's tensors and gives its logits."""
    batch, domain = rows(40)
    cgc = drawn("cgc")
    ple = build_baseline("ple", shape(), DOMAINS, {"own_experts": 2, "shared_experts": 1, "levels": 1})
    ple = ple.double().eval()
    ple.load_state_dict(cgc.state_dict())
    assert torch.equal(ple(batch, domain), cgc(batch, domain))


def test_a_gate_that_takes_shared_experts_alone_makes_cgc_mmoe() -> None:
    """Law: where no weight falls on own experts, CGC is MMoE over its shared ones."""
    batch, domain = rows(40)
    cgc = build_baseline("cgc", shape(), DOMAINS, {"own_experts": 1, "shared_experts": 2}).double().eval()
    mmoe = build_baseline("mmoe", shape(), DOMAINS, {"experts": 2}).double().eval()
    randomise(mmoe)
    with torch.no_grad():  # a field that is always 1 makes a gate's bias of its column
        for k in range(DOMAINS):
            cgc.state_dict()[f"top.gates.weight.{k}"].copy_(
                torch.cat([torch.zeros(1, 13), mmoe.state_dict()[f"gates.weight.{k}"]])
            )
            cgc.state_dict()[f"top.gates.weight.{k}"][0, AGE] = -1e4
    ones = Batch(batch.sparse, torch.ones(40, 1), batch.multi_hot)
    kept = {key: value for key, value in mmoe.state_dict().items() if not key.startswith("gates.")}
    cgc.load_state_dict({key.replace("experts.", "top.shared."): value for key, value in kept.items()}, strict=False)
    torch.testing.assert_close(cgc(ones, domain), mmoe(ones, domain), rtol=1e-10, atol=1e-10)


def test_layers_are_dealt_out_in_order() -> None:
    """Law: the levels' layers, joined, are the experts' layers, the last width repeated where they are too few."""
    assert deal((5, 4, 3), 1) == [(5, 4, 3)]
    assert deal((5, 4, 3), 2) == [(5,), (4, 3)]
    assert deal((5, 4, 3), 3) == [(5,), (4,), (3,)]
    assert deal((5,), 3) == [(5,), (5,), (5,)]


@pytest.mark.parametrize("name", ["shared_bottom", "mmoe", "cgc", "ple"])
def test_a_tower_is_given_its_domain_s_rows_alone(name: str) -> None:
    """Law: each domain's tower is called once, with as many rows as the batch has of that domain."""
    batch, domain = rows(50)
    baseline = drawn(name)
    seen: dict[str, list[int]] = {}
    for key, module in baseline.named_modules():
        if key in TOWERS:
            module.register_forward_hook(lambda _, given, __, key=key: seen.setdefault(key, []).append(len(given[0])))
    baseline(batch, domain)
    assert seen == {f"towers.{k}": [int((domain == k).sum())] for k in range(DOMAINS)}


def test_rows_are_put_back_where_they_came_from() -> None:
    """Law: rows sorted by domain and restored are the rows as they were."""
    domain = torch.tensor([2, 0, 2, 1, 0])
    grouping = group(domain.unsqueeze(1), lambda found: found)
    values = torch.arange(5.0)
    assert torch.equal(grouping.restore(values[grouping.order]), values)
    assert domain[grouping.order].tolist() == [0, 0, 1, 2, 2]
