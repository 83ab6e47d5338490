"""A domain's adapter: it starts as the backbone, and computes the papers' equations."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from network.errors import ShapeError
from network.lora import DomainAdapter, domain_generator
from network.norm import compensating
from tests.network.samples import RANKS, SHAPE, adapter_of, backbone_of, batch_of


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**31), n=st.integers(1, 300))
def test_untouched_adapter_is_the_backbone_bit_for_bit(seed: int, n: int) -> None:
    """Law: before training an adapter's logits in eval mode are the backbone's, every bit of them."""
    backbone, batch = backbone_of(seed % 7), batch_of(n, seed % 11)
    adapter = DomainAdapter.untrained(backbone, RANKS, domain_generator(seed, "age", "18")).eval()
    assert torch.equal(backbone(batch, adapter), backbone(batch))


def test_compensated_untouched_adapter_is_still_the_backbone() -> None:
    """Law: once the moments are the domain's, the untrained adapter's logits are the backbone's but for rounding."""
    backbone, batch = backbone_of(), batch_of(800)
    adapter = DomainAdapter.untrained(backbone, RANKS, domain_generator(0, "age", "18")).eval()
    with torch.no_grad(), compensating(adapter.dom_norms()):
        backbone(batch, adapter)
    assert not torch.allclose(adapter.tensors()["tower.0.norm.mean"], backbone.weights()["tower.0.norm.mean"])
    torch.testing.assert_close(backbone(batch, adapter), backbone(batch), rtol=1e-5, atol=1e-5)


def test_adapter_computes_equations_7_to_9() -> None:
    """Law: h' = DomNorm((W0 x + b0) + s * (U (D x)) + b) at each layer, written out here."""
    backbone = backbone_of().double()
    adapter = adapter_of(backbone, "age", "18").double()
    t, w = adapter.tensors(), backbone.weights()
    x = backbone.embeddings(batch_of(40))
    for level in range(2):
        at = f"tower.{level}."
        h = x @ w[at + "weight"].T + w[at + "bias"]
        h = h + t[at + "scale"] * (x @ t[at + "down"].T @ t[at + "up"].T) + t[at + "shift"]
        h = (h - t[at + "norm.mean"]) / (t[at + "norm.var"] + SHAPE.norm_eps).sqrt()
        x = (h * t[at + "norm.weight"] + t[at + "norm.bias"]).clamp(min=0)
    expected = x @ w["output.weight"][0] + w["output.bias"]
    torch.testing.assert_close(backbone(batch_of(40), adapter), expected)


def test_start_depends_on_seed_division_and_domain_alone() -> None:
    """Law: a domain's start is the same whichever others are made before it, and differs from theirs."""
    backbone = backbone_of()
    starts = {
        key: DomainAdapter.untrained(backbone, RANKS, domain_generator(*key)).tensors()["tower.0.down"]
        for key in [(0, "age", "18"), (0, "age", "25"), (0, "gender", "18"), (1, "age", "18")]
    }
    torch.rand(3)
    again = DomainAdapter.untrained(backbone, RANKS, domain_generator(0, "age", "18")).tensors()
    assert torch.equal(again["tower.0.down"], starts[0, "age", "18"])
    assert len({tuple(start.flatten().tolist()) for start in starts.values()}) == 4


def test_tensors_make_the_round_trip() -> None:
    """Law: an adapter loaded from another's tensors gives its logits; a missing or misshapen tensor is named."""
    backbone, batch = backbone_of(), batch_of(60)
    adapter = adapter_of(backbone, "age", "18")
    tensors = adapter.tensors()
    other = DomainAdapter(SHAPE, RANKS).eval()
    other.load_tensors(tensors)
    assert torch.equal(backbone(batch, other), backbone(batch, adapter))
    with pytest.raises(ShapeError, match=r"tower\.1\.up is of shape \(2, 2\)"):
        other.load_tensors({**tensors, "tower.1.up": torch.zeros(2, 2)})
    with pytest.raises(ShapeError, match=r"tower\.0\.scale is missing"):
        other.load_tensors({k: v for k, v in tensors.items() if k != "tower.0.scale"})


def test_ranks_must_be_one_a_layer() -> None:
    """Law: a list of ranks of another length than the tower is refused."""
    with pytest.raises(ShapeError, match=r"3 ranks for 2 adaptable modules \(tower.0, tower.1\)"):
        DomainAdapter(SHAPE, (1, 2, 3))
