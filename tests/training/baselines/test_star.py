"""Laws of STAR: partitioned norm, star-shaped weights, auxiliary network."""

from __future__ import annotations

import torch
from torch import nn

from network.backbone import Backbone
from tests.training.baselines.samples import DOMAINS, randomise, rows, shape
from training.baselines.layers import Recipe
from training.baselines.star import PartitionedNorm, Star, StarLinear
from training.baselines.table import build_baseline


def star(norm_at: str) -> Star:
    """STAR in float64 whose domains are the identity and whose auxiliary network is silent; its centre is random."""
    built = build_baseline("star", shape(), DOMAINS, {"norm_at": norm_at}).double().eval()
    assert isinstance(built, Star)
    randomise(built)
    for module in built.modules():
        if isinstance(module, StarLinear):
            for own in module.own_weight:
                nn.init.ones_(own)
            for own in module.own_bias:
                nn.init.zeros_(own)
        if isinstance(module, PartitionedNorm):
            for norm in module.own:
                norm.load_state_dict(module.own[0].state_dict())
                nn.init.ones_(norm.weight)
                nn.init.zeros_(norm.bias)
    nn.init.zeros_(built.auxiliary.output.weight)
    nn.init.zeros_(built.auxiliary.output.bias)
    return built


def test_identity_domains_are_the_shared_network() -> None:
    """Law: with W_p = 1, b_p = 0, equal norms and a silent auxiliary network, STAR is the backbone with its weights."""
    built, backbone = star("hidden"), Backbone(shape()).double().eval()
    weights = {f"embedding.{name}": built.embeddings.table_of(name) for name in built.embeddings.starts}
    for level, (linear, norm) in enumerate(zip(built.linears, built.layer_norms, strict=True)):
        weights |= {f"tower.{level}.weight": linear.weight, f"tower.{level}.bias": linear.bias}
        weights |= {f"tower.{level}.norm.weight": norm.weight, f"tower.{level}.norm.bias": norm.bias}
        weights |= {f"tower.{level}.norm.{key}": getattr(norm.own[0], key) for key in ("mean", "var")}
    weights |= {"output.weight": built.output.weight, "output.bias": built.output.bias}
    backbone.load_weights({name: value.detach() for name, value in weights.items()})
    batch, domain = rows(50)
    torch.testing.assert_close(built(batch, domain), backbone(batch), rtol=1e-10, atol=1e-10)


def test_identity_domains_do_not_ask_for_the_domain() -> None:
    """Law: the same, with the norm at the input: every domain gives a row the same logit."""
    built, (batch, domain) = star("input"), rows(50)
    torch.testing.assert_close(built(batch, domain), built(batch, (domain + 1) % DOMAINS), rtol=1e-12, atol=1e-12)


def test_a_fresh_domain_is_the_identity() -> None:
    """Law: STAR starts with W_p = 1 and b_p = 0, so that every domain starts at the centre."""
    linear = StarLinear(5, 3, DOMAINS)
    x = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    for k in range(DOMAINS):
        torch.testing.assert_close(linear(k, x), x @ linear.weight.T + linear.bias)


def test_a_partitioned_norm_normalises_by_its_domain_s_rows() -> None:
    """Law: in training a domain's rows get mean 0 and variance 1 before weights, and move its running moments alone."""
    norm = PartitionedNorm(3, 2, Recipe.of(shape())).double().train()
    h = torch.randn(64, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3 + 5
    normed = norm(1, h)
    torch.testing.assert_close(normed.mean(0), torch.zeros(3, dtype=torch.float64), atol=1e-9, rtol=0)
    torch.testing.assert_close(normed.var(0, unbiased=False), torch.ones(3, dtype=torch.float64), atol=1e-4, rtol=0)
    torch.testing.assert_close(norm.own[1].mean, 0.1 * h.mean(0))
    torch.testing.assert_close(norm.own[1].var, 0.9 + 0.1 * h.var(0))
    assert torch.equal(norm.own[0].mean, torch.zeros(3, dtype=torch.float64))


def test_few_rows_of_a_domain_are_normalised_by_its_running_moments() -> None:
    """Law: fewer than 32 rows of a domain neither use nor move moments of the batch (methods.md 2)."""
    norm = PartitionedNorm(3, 2, Recipe.of(shape())).double().train()
    randomise(norm)
    before = {key: value.clone() for key, value in norm.named_buffers()}
    h = torch.randn(31, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 5
    in_training = norm(0, h)
    assert all(torch.equal(value, before[key]) for key, value in norm.named_buffers())
    torch.testing.assert_close(in_training, norm.eval()(0, h))


def test_the_auxiliary_network_adds_to_the_logit() -> None:
    """Law: the logit is s_m + s_a, and s_a knows the domain from its indicator alone."""
    built, (batch, domain) = star("input"), rows(20)
    centre = built(batch, domain).detach()
    with torch.no_grad():
        built.auxiliary.output.bias.fill_(0.75)
    torch.testing.assert_close(built(batch, domain), centre + 0.75)
    with torch.no_grad():
        built.auxiliary.output.weight.fill_(1.0)
    assert not torch.allclose(built(batch, domain), built(batch, (domain + 1) % DOMAINS))
