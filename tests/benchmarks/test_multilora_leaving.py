"""Laws of the left-out domains: what the backbone saw, and what a full fine-tune may learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from benchmarks.claims.multilora_leaving import Grounds, extended, left_out
from benchmarks.claims.multilora_scoring import overlay_speed
from training.batches import RowTensors
from training.prepared import PreparedDataset
from training.sources.synthetic import SyntheticWorld, synthetic

CONFIG: dict[str, Any] = {
    "backbone": {"width": 3, "tower": [6]},
    "adapter": {"ranks": [2]},
    "pretrain": {"epochs": 1, "batch_rows": 512},
}


@pytest.fixture(scope="module")
def grounds(tmp_path_factory: pytest.TempPathFactory) -> Grounds:
    """A backbone that never saw one theme, whose users are half of them unknown to all others."""
    world = synthetic(SyntheticWorld(rows=6_000, users=60, items=30, domains=2, segments=2))
    rows = world.interactions.filter((pl.col("domain_id") == "theme-02") | (pl.col("user_id") % 2 == 0))
    data = PreparedDataset(world.spec, rows, world.users, world.items)
    return left_out(data, pl.col("domain_id") == "theme-02", CONFIG, 0, tmp_path_factory.mktemp("left-out"))


def test_the_backbone_never_saw_the_domain(grounds: Grounds) -> None:
    """Law: the domain is none of the bundle's, all its rows are left, and ids that only it names have no row."""
    (natural,) = (one for one in grounds.bundle.manifest.divisions if one.natural)
    assert natural.domains == ("theme-01",)
    assert not set(grounds.rows.frame["user_id"]) - {str(i) for i in range(1, 61)}
    assert (grounds.encoded.sides["users"].columns.arrays["user_id"] == 0).any()
    parts = (grounds.split.train, grounds.split.stop, grounds.split.gate, grounds.split.test)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(grounds.rows)))


def test_a_full_model_starts_as_the_backbone(grounds: Grounds) -> None:
    """Law: with a row for each id that has none the network scores every row as before, bit for bit."""
    rows, network = extended(grounds.encoded, grounds.backbone)
    every = torch.arange(len(rows.label))
    plain = RowTensors(grounds.encoded.dataset)
    assert torch.equal(network(rows.batch(every)), grounds.backbone(plain.batch(every)))
    users = network.shape.fields[0].rows - grounds.backbone.shape.fields[0].rows
    assert users == int((grounds.encoded.sides["users"].columns.arrays["user_id"] == 0).sum())


def test_an_overlay_alone_leaves_the_layers_alone(grounds: Grounds, tmp_path: Path) -> None:
    """Law: every method gives an AUC of the same test rows; the artifact of both is scored with and without overlay."""
    found = {name: grounds.added(lora, ids) for name, lora, ids in _METHODS}
    assert all(0 < one.auc < 1 for one in found.values())
    assert found["overlay"].trained is None
    content = grounds.artifact()
    assert overlay_speed(grounds.bundle, content, grounds.requests()[:2]) > 0
    assert 0 < grounds.auc_of_backbone() < 1
    assert 0 < grounds.whole().auc < 1
    assert 0 < grounds.whole(falling=True).auc < 1


_METHODS: Any = (("overlay", False, "unseen"), ("both", True, "unseen"))
