"""Every kind of backbone as a structure: MAMDR trains it, and knows which rows of its table a batch can change."""

from __future__ import annotations

import pytest
import torch

from network.inputs import Kind
from network.kinds.table import KINDS
from tests.training.frameworks.settings import SmallData
from training.frameworks.config import FrameworkName
from training.frameworks.structure import TABLE
from training.frameworks.table import FRAMEWORKS

SIZES = {"cross_layers": 1, "attention_layers": 1, "heads": 2, "head_width": 2}


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_mamdr_trains_every_kind(small_data: SmallData, kind: Kind) -> None:
    """Law: one epoch of MAMDR moves every dense parameter of theta_S and of each theta_i, and all stays finite."""
    name: FrameworkName = "mamdr"
    structure = small_data.structure(kind=kind, **SIZES)
    setting = small_data.setting(structure, rows=200, framework=name)
    framework = FRAMEWORKS[name](setting)
    state = framework.start()
    before = {key: value.clone() for key, value in state.shared.items()}
    framework.epoch(state, 1)
    assert state.shared.keys() == dict(structure.named_parameters()).keys()
    for key, value in state.shared.items():
        assert torch.isfinite(value).all(), key
        assert not torch.equal(value, before[key]), key
    assert len(state.specifics) == 3
    for domain in state.specifics:
        weights = state.weights_of(domain)
        assert all(torch.isfinite(value).all() for value in weights.values())
        assert any(not torch.equal(weights[key], state.shared[key]) for key in weights if key != TABLE)


@pytest.mark.parametrize("kind", ["deepfm", "neurfm", "wide_deep"])
def test_first_order_weights_are_touched_with_their_rows(small_data: SmallData, kind: Kind) -> None:
    """Law: a gradient reaches the rows of the table that its batch touches, first-order weights too, and no other."""
    structure = small_data.structure(kind=kind)
    rows = torch.arange(0, 400, 9)
    batch = small_data.rows.batch(rows)
    structure(batch, small_data.rows.domains[rows, 0]).square().sum().backward()
    gradient = structure.embeddings.table.grad
    assert gradient is not None
    assert gradient.abs().sum(1).nonzero().flatten().tolist() == structure.touched(batch).tolist()
    assert gradient[:, -1].nonzero().flatten().tolist() == structure.touched(batch).tolist()
    assert structure.embeddings.touched(batch).tolist() == structure.touched(batch).tolist()
    assert [p for p in structure.dense_parameters() if p is structure.embeddings.table] == []
