"""Laws of HAMUR: cells around which the input passes by, and one hyper-network for all of them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from network.backbone import Backbone
from tests.training.baselines.samples import DOMAINS, drawn, randomise, rows, shape
from training.baselines.hamur import AdapterCell, Hamur
from training.baselines.layers import HiddenLayers
from training.baselines.table import build_baseline
from training.errors import ConfigError


def backbone_of(hidden: HiddenLayers, output: nn.Linear, table: torch.Tensor) -> Backbone:
    """The backbone with the weights of a baseline's own tower."""
    backbone = Backbone(shape()).double().eval()
    weights = backbone.weights()
    for level, layer in enumerate(hidden.layers):
        for key in ("weight", "bias"):
            weights[f"tower.{level}.{key}"] = getattr(layer.linear, key).detach()
        weights |= {f"tower.{level}.norm.{key}": value for key, value in layer.norm.state_dict().items()}
    weights |= {f"output.{key}": value for key, value in output.state_dict().items()}
    backbone.load_weights(weights)
    with torch.no_grad():
        backbone.embeddings.table.copy_(table)
    return backbone


def test_silent_cells_leave_the_backbone() -> None:
    """Law: where the cells' norms give zero, HAMUR is the backbone with the weights of its tower."""
    baseline, (batch, domain) = drawn("hamur"), rows(50)
    assert isinstance(baseline, Hamur)
    for cell in baseline.modules():
        if isinstance(cell, AdapterCell):
            nn.init.zeros_(cell.norm.weight)
            nn.init.zeros_(cell.norm.bias)
    backbone = backbone_of(baseline.hidden, baseline.output, baseline.embeddings.table)
    torch.testing.assert_close(baseline(batch, domain), backbone(batch), rtol=1e-10, atol=1e-10)


def test_a_fresh_cell_starts_near_the_identity() -> None:
    """Law: in training a fresh cell moves its input by start_gain, root mean square, and no more."""
    baseline = build_baseline("hamur", shape(), DOMAINS, {"rank": 3, "start_gain": 0.05}).double().train()
    assert isinstance(baseline, Hamur)
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(200, 6, dtype=torch.float64, generator=draw)
    moved = baseline.cells[0][0](x, torch.randn(200, 3, 3, dtype=torch.float64, generator=draw)) - x
    torch.testing.assert_close(moved.square().mean().sqrt().item(), 0.05, rtol=0.05, atol=0)


def test_the_generated_matrix_is_a_row_s_own_and_no_domain_s() -> None:
    """Law: domains with equal cells give equal logits: the hyper-network does not know the domain."""
    baseline, (batch, domain) = drawn("hamur"), rows(40)
    assert isinstance(baseline, Hamur)
    for k in range(1, DOMAINS):
        baseline.cells[k].load_state_dict(baseline.cells[0].state_dict())
    torch.testing.assert_close(baseline(batch, domain), baseline(batch, (domain + 1) % DOMAINS))
    before = baseline(batch, domain).detach()
    randomise(baseline.hyper, seed=9)
    assert not torch.allclose(baseline(batch, domain), before)


@pytest.mark.parametrize("cells", [[2], [-3], [0, -2], [1, 1]])
def test_a_cell_after_no_layer_or_twice_after_one_is_refused(cells: list[int]) -> None:
    """Law: the error says which positions there are."""
    with pytest.raises(ConfigError, match="name each at most once, from -2 to 1"):
        build_baseline("hamur", shape(), DOMAINS, {"cells": cells})
