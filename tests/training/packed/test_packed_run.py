"""`packed` in a run's configuration."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.training.small import small_config
from training.adapters import TrainedAdapter
from training.batches import logits_of
from training.config import TrainingConfig
from training.errors import ConfigError, StageMissing
from training.fusion import TRAINED_MODES
from training.packed.fusion import PackedFusionTrainer
from training.pipeline import train
from training.pretrain import Pretrained
from training.progress import SilentMeter
from training.stages import Run


@pytest.fixture
def config(small_world: Path) -> TrainingConfig:
    return small_config(small_world, packed={"domains": 2})


@pytest.fixture
def out(finished: Path, tmp_path: Path) -> Path:
    """A run folder with a backbone, and no more."""
    (tmp_path / "run" / "state").mkdir(parents=True)
    shutil.copy(finished / "state" / "pretrain.safetensors", tmp_path / "run" / "state")
    return tmp_path / "run"


def area(run: Run, pretrained: Pretrained, trained: TrainedAdapter) -> float | None:
    """AUC of an adapter over all test rows."""
    rows = run.positions.test
    logits = logits_of(rows, lambda part: pretrained.backbone(run.rows.batch(part), trained.adapter))
    return run.rows.auc(rows, logits)


def test_stages_are_trained_in_packs(config: TrainingConfig, out: Path, opened: Run) -> None:
    """Law: with `packed` stages 2 and 3 give what they give without, and leave a file a pack."""
    run = Run(config, out, SilentMeter())
    pretrained = run.pretrained()
    adapters = run.adapters(pretrained)
    assert sorted(path.stem for path in (out / "state" / "adapters" / "packed").iterdir()) == [
        "00001",
        "00002",
        "00003",
    ]
    ones = opened.adapters(pretrained)
    assert [trained.place for trained in adapters] == [trained.place for trained in ones]
    for mine, other in zip(adapters, ones, strict=True):
        assert area(run, pretrained, mine) == pytest.approx(area(run, pretrained, other), abs=5e-3)
    trainer, fusions = run.fusions(pretrained, adapters)
    assert isinstance(trainer, PackedFusionTrainer)
    assert tuple(fusion.mode for fusion in fusions) == TRAINED_MODES
    for mine, other in zip(fusions, opened.fusions(pretrained, ones)[1], strict=True):
        assert mine.fitted.auc == pytest.approx(other.fitted.auc, abs=5e-3)


def test_shares_together_are_the_stage(config: TrainingConfig, out: Path) -> None:
    """Law: shares trained one after another are a finished stage; one alone is not, and the missing pack is named."""
    train("adapters", config, out, share=(1, 2))
    run = Run(config, out, SilentMeter())
    with pytest.raises(StageMissing, match="adapters/packed/00002"):
        run.require("adapters")
    train("adapters", config, out, resume=True, share=(2, 2))
    run.require("adapters")


def test_shares_of_nothing_are_refused(config: TrainingConfig, small_world: Path, out: Path) -> None:
    """Law: a share is of packs, and of stage 2."""
    with pytest.raises(ConfigError, match="set `packed`"):
        train("adapters", small_config(small_world), out, share=(1, 2))
    with pytest.raises(ConfigError, match="set `packed`"):
        train("all", config, out, share=(1, 2))
