"""The backbone: its tensors' names, its training mode, its dropout."""

from __future__ import annotations

import pytest
import torch

from network.backbone import Backbone
from network.dropout import dropout
from network.errors import ShapeError
from tests.network.samples import SHAPE, backbone_of, batch_of


def test_weights_have_the_names_and_shapes_of_a_bundle() -> None:
    """Law: the weights are named as docs/architecture.md says, and loading them gives the same logits."""
    backbone, batch = backbone_of(), batch_of(60)
    weights = backbone.weights()
    norm = [f"norm.{key}" for key in ("weight", "bias", "mean", "var")]
    expected = {f"embedding.{name}" for name in ("user", "tags", "item", "genre")} | {"output.weight", "output.bias"}
    expected |= {f"tower.{level}.{key}" for level in range(2) for key in ["weight", "bias", *norm]}
    assert weights.keys() == expected
    assert weights["tower.0.weight"].shape == (20, SHAPE.input_width)
    other = Backbone(SHAPE).eval()
    other.load_weights(weights)
    assert torch.equal(other(batch), backbone(batch))


def test_weights_that_do_not_fit_are_named() -> None:
    """Law: a missing, an unknown and a misshapen tensor are each refused by name."""
    backbone = backbone_of()
    weights = backbone.weights()
    with pytest.raises(ShapeError, match=r"embedding\.genre"):
        backbone.load_weights({k: v for k, v in weights.items() if k != "embedding.genre"})
    with pytest.raises(ShapeError, match=r"output\.bias has shape \(2,\)"):
        backbone.load_weights({**weights, "output.bias": torch.zeros(2)})


def test_training_moves_every_parameter() -> None:
    """Law: pre-training reaches all parameters, the embeddings of all kinds of field included."""
    backbone = Backbone(SHAPE).train()
    backbone(batch_of(300)).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in backbone.parameters())


def test_freeze_leaves_nothing_to_train() -> None:
    """Law: a frozen backbone has no trainable parameter, and its logits are the same however often it is asked."""
    backbone, batch = backbone_of(), batch_of(100)
    assert not any(p.requires_grad for p in backbone.parameters())
    assert torch.equal(backbone(batch), backbone(batch))


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.8])
def test_dropout_keeps_the_mean(probability: float) -> None:
    """Law: the given share is zero, the rest is scaled so that the mean stays; a seed repeats the draw."""
    x = torch.ones(1001, 203)
    torch.manual_seed(7)
    found = dropout(x, probability)
    torch.manual_seed(7)
    assert torch.equal(found, dropout(x, probability))
    assert abs(float((found == 0).double().mean()) - probability) < 5e-3
    assert abs(float(found.double().mean()) - 1) < 2e-2
    assert torch.unique(found).numel() == 2
