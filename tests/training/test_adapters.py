"""Stage 2: each domain's adapter, on its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from network.lora import DomainAdapter
from tests.training.small import SETTINGS, small_config
from training.adapters import places
from training.batches import logits_of
from training.checkpoint import Memory, StateFolder
from training.progress import SilentMeter
from training.stages import Run


def tensors(adapter: DomainAdapter) -> dict[str, torch.Tensor]:
    return adapter.tensors()


def with_adapters(**changes: Any) -> dict[str, Any]:
    return {**SETTINGS["adapters"], **changes}


def test_every_domain_of_every_division_is_trained(opened: Run) -> None:
    """Law: there is one adapter for each domain, the natural division's first."""
    names = [(place.division_name, place.name) for place in places(opened.rows)]
    assert names[:3] == [("theme", f"theme-0{i}") for i in (1, 2, 3)]
    assert names[3:] == [("segment", "segment-a"), ("segment", "segment-b")]
    assert [a.place.name for a in opened.adapters(opened.pretrained())] == [name for _, name in names]


def test_adapter_does_not_depend_on_the_others(opened: Run, small_world: Path, tmp_path: Path) -> None:
    """Law: a domain trained alone, and last instead of first, is the same adapter bit for bit."""
    run = Run(small_config(small_world), tmp_path / "run", SilentMeter())
    pretrained = run.pretrained()
    trainer = run.adapter_trainer(pretrained)
    memories = {place.name: (place, run.memory("adapters", f"adapters/{place.name}")) for place in places(run.rows)}
    alone = trainer.one(*memories["theme-03"])
    together = next(a for a in opened.adapters(opened.pretrained()) if a.place.name == "theme-03")
    assert alone.fitted.epoch == together.fitted.epoch
    for name, value in tensors(together.adapter).items():
        assert torch.equal(value, tensors(alone.adapter)[name]), name


def test_training_leaves_the_backbone_alone(small_world: Path, tmp_path: Path) -> None:
    """Law: stages 2 and 3 change no bit of the backbone."""
    run = Run(small_config(small_world), tmp_path / "run", SilentMeter())
    pretrained = run.pretrained()
    before = pretrained.backbone.weights()
    run.fusions(pretrained, run.adapters(pretrained))
    after = pretrained.backbone.weights()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_selected_adapter_is_no_worse_on_validation(opened: Run) -> None:
    """Law: the untrained adapter is a candidate, so what is kept never validates below it."""
    for trained in opened.adapters(opened.pretrained()):
        start = trained.fitted.history[0]
        assert start["epoch"] == 0
        assert trained.fitted.auc is not None
        assert trained.fitted.auc >= start["auc"]


@pytest.mark.parametrize("moments", ["compensated", "frozen"])
def test_useless_training_leaves_the_backbone(small_world: Path, tmp_path: Path, moments: str) -> None:
    """Law: when no epoch is better, the adapter kept gives the backbone's logits on its domain's rows."""
    hopeless = with_adapters(lr=1e-12, weight_decay=0.0, epochs=1)
    adapter = {"ranks": [2, 2], "moments": moments}
    config = small_config(small_world, adapters=hopeless, adapter=adapter)
    run = Run(config, tmp_path / "run", SilentMeter())
    backbone = run.pretrained().backbone
    trainer = run.adapter_trainer(run.pretrained())
    looked_at = 0
    for i, place in enumerate(places(run.rows)):
        trained = trainer.one(place, run.memory("adapters", f"adapters/useless-{i}"))
        if trained.fitted.epoch != 0:  # the moments that its rows moved validated better, by luck
            continue
        looked_at += 1
        rows = run.rows.of_domain(run.positions.test, place.division, place.domain)
        expected = logits_of(rows, lambda part: backbone(run.rows.batch(part)))
        found = logits_of(rows, lambda part, adapter=trained.adapter: backbone(run.rows.batch(part), adapter))
        assert found == pytest.approx(expected, abs=1e-3)
    assert looked_at


def test_compensation_alone_changes_no_logit(small_world: Path, tmp_path: Path) -> None:
    """Law: moving the norms to the domain's moments before the first step leaves the function as it was."""
    run = Run(small_config(small_world), tmp_path / "run", SilentMeter())
    backbone = run.pretrained().backbone
    trainer = run.adapter_trainer(run.pretrained())
    place = next(places(run.rows))
    adapter = trainer.untrained(place)
    train = run.rows.of_domain(run.positions.train, place.division, place.domain)
    trainer.compensate(adapter, train)
    assert any(
        not torch.equal(own.mean, norm.mean) for own, norm in zip(backbone.plain.norms, adapter.norms, strict=True)
    )
    expected = logits_of(train, lambda part: backbone(run.rows.batch(part)))
    found = logits_of(train, lambda part: backbone(run.rows.batch(part), adapter))
    assert found == pytest.approx(expected, abs=1e-5)


def test_domain_without_rows_keeps_the_backbone(opened: Run, tmp_path: Path) -> None:
    """Law: a domain without training rows gets the untrained adapter, and no error."""
    nobody = torch.empty(0, dtype=torch.int64)
    trainer = replace(opened.adapter_trainer(opened.pretrained()), train=nobody, stop=nobody)
    place = next(places(opened.rows))
    trained = trainer.one(place, Memory(StateFolder(tmp_path), "theme-01", {}))
    assert (trained.rows, trained.fitted.epoch, trained.fitted.auc) == (0, 0, None)
    assert not tensors(trained.adapter)["tower.0.up"].any()
