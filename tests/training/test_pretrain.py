"""Stage 1: the backbone that everything else stands on."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.training.small import small_config
from training.batches import logits_of
from training.pretrain import count_rows
from training.progress import SilentMeter
from training.stages import Run


def test_backbone_learns(opened: Run) -> None:
    """Law: the backbone ranks rows that it never saw better than chance, and stage 1 returns it frozen."""
    pretrained = opened.pretrained()
    test = opened.positions.test
    found = opened.rows.auc(test, logits_of(test, lambda part: pretrained.backbone(opened.rows.batch(part))))
    assert found is not None
    assert found > 0.6
    assert not pretrained.backbone.training
    assert not any(parameter.requires_grad for parameter in pretrained.backbone.parameters())


def test_restored_backbone_is_the_best_epoch(opened: Run) -> None:
    """Law: the weights in place score the validation AUC that the record says they had, exactly."""
    pretrained, stop = opened.pretrained(), opened.positions.stop
    again = opened.rows.auc(stop, logits_of(stop, lambda part: pretrained.backbone(opened.rows.batch(part))))
    assert pretrained.fitted.auc == again
    assert again == max(entry["auc"] for entry in pretrained.fitted.history)


def test_unknown_row_is_the_weighted_mean(opened: Run) -> None:
    """Law: row 0 of each table is the mean of its rows, weighted by how often the training rows use them."""
    backbone = opened.pretrained().backbone
    counts = count_rows(backbone, opened.rows, opened.positions.train).double()
    for name, start in backbone.embeddings.starts.items():
        table = backbone.embeddings.table_of(name).double()
        weight = counts[start + 1 : start + len(table)]
        torch.testing.assert_close(table[0], weight @ table[1:] / weight.sum(), atol=1e-7, rtol=1e-5)


def test_row_counts_add_up(opened: Run) -> None:
    """Law: each training row counts once in each sparse field."""
    backbone, train = opened.pretrained().backbone, opened.positions.train
    counts = count_rows(backbone, opened.rows, train)
    for name in ("user_id", "domain"):
        start = backbone.embeddings.starts[name]
        assert int(counts[start : start + len(backbone.embeddings.table_of(name))].sum()) == len(train)


def test_another_seed_is_another_run(opened: Run, small_world: Path, tmp_path: Path) -> None:
    """Law: the seed draws the split and the start; the same seed draws them again."""
    same = Run(small_config(small_world), tmp_path / "same", SilentMeter())
    other = Run(small_config(small_world, seed=1), tmp_path / "other", SilentMeter())
    assert torch.equal(same.positions.test, opened.positions.test)
    assert not torch.equal(other.positions.test, opened.positions.test)
    weights = opened.pretrained().backbone.weights()
    again, drawn = same.pretrained().backbone.weights(), other.pretrained().backbone.weights()
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    assert not torch.equal(weights["tower.0.weight"], drawn["tower.0.weight"])
