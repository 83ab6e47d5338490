"""Stage 3 packed: the same fusion and norms as the loop over tuples."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from network.fusion import Mode
from network.lora import DomainAdapter
from tests.training.packed.scene import MODES, scene, schedule
from training.adapters import AdapterTrainer, places
from training.checkpoint import Memory, StateFolder
from training.config import FusionConfig, Schedule
from training.errors import ConfigError
from training.fusion import FusionTrainer, TrainedFusion
from training.packed.fusion import PackedFusionTrainer
from training.packed.tuples import Groups
from training.progress import SilentMeter
from training.ranks import fusion_ranks
from training.seeds import Stream


class _Stopped(Exception):
    """Stands for a kill."""


class _StopsAfter(SilentMeter):
    """Ends training where the epoch after so many is reported."""

    def __init__(self, epochs: int) -> None:
        self._left = epochs

    def say(self, line: str) -> None:
        self._left -= 1
        if self._left < 0:
            raise _Stopped


MISSING = ("theme-04", "segment-b")
"""Domains without an adapter: their division is masked out of the softmax."""


def adapters(trainer: AdapterTrainer) -> list[dict[int, DomainAdapter]]:
    """An adapter of random weights for each domain but the missing ones, frozen."""
    found: list[dict[int, DomainAdapter]] = [{} for _ in trainer.rows.divisions]
    for place in places(trainer.rows):
        if place.name not in MISSING:
            adapter = trainer.untrained(place)
            generator = torch.Generator().manual_seed(place.division * 100 + place.domain)
            drawn = {
                name: value + 0.3 * torch.rand(value.shape, generator=generator)
                for name, value in adapter.tensors().items()
            }
            adapter.load_tensors(drawn)
            found[place.division][place.domain] = adapter.requires_grad_(False).eval()
    return found


def fusion_trainer(trainer: AdapterTrainer, config: FusionConfig, chosen: Schedule) -> FusionTrainer:
    return FusionTrainer(
        trainer.backbone,
        trainer.rows,
        trainer.train,
        trainer.stop,
        adapters(trainer),
        config,
        fusion_ranks(trainer.backbone.shape, config, trainer.config),
        trainer.config.moments,
        chosen,
        trainer.select,
        Stream(7, ("fuse",)),
        trainer.meter,
    )


def packed(trainer: FusionTrainer) -> PackedFusionTrainer:
    return PackedFusionTrainer(**{field.name: getattr(trainer, field.name) for field in fields(trainer)})


def learned(trained: TrainedFusion) -> dict[str, Tensor]:
    tower = trained.tower
    found = {} if tower.fusion is None else tower.fusion.tensors()
    for domains, norms in tower.own_norms():
        for level, norm in enumerate(norms):
            found |= {f"{domains} {level} {key}": value for key, value in norm.state_dict().items()}
    return found


def memory(folder: Path, mode: Mode) -> Memory:
    return Memory(StateFolder(folder), mode, {})


VARIANTS: dict[str, dict[str, Any]] = {
    "mlp": {},
    "one module, frozen moments": {"adapter": {"ranks": [2, 2], "moments": "frozen", "target_modules": ["tower.0"]}},
    "dcn_v2": {"backbone": {"width": 4, "tower": [9, 7], "kind": "dcn_v2", "cross_layers": 1}},
    "no norms": {"backbone": {"width": 4, "tower": [8, 6], "norm": False}},
}
CASES: list[tuple[str, Mode]] = [
    *(("mlp", mode) for mode in MODES),
    ("one module, frozen moments", "attention"),
    ("dcn_v2", "attention"),
    ("no norms", "add"),
]


@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize(("variant", "mode"), CASES)
def test_packed_fusion_equals_the_loop_over_tuples(small_world: Path, tmp_path: Path, variant: str, mode: Mode) -> None:
    """Law: losses, AUCs, logits and every tensor of each mode are those of `FusionTrainer`, to 1e-7 in float64."""
    start = scene(small_world, tmp_path / "run", **VARIANTS[variant])
    config = FusionConfig(min_tuple_rows=15, divisor="sqrt_r")
    one_by_one = fusion_trainer(start, config, schedule(batch_rows=400, epochs=2, patience=2, lr=1e-2))
    stacked = packed(one_by_one)
    expected = one_by_one.one(mode, memory(tmp_path / "loop", mode))
    found = stacked.one(mode, memory(tmp_path / "stacked", mode))
    assert found.fitted.epoch == expected.fitted.epoch
    assert found.pair_rows == expected.pair_rows
    for mine, other in zip(found.fitted.history, expected.fitted.history, strict=True):
        assert mine["auc"] == pytest.approx(other["auc"], abs=1e-9)
        assert mine["loss"] == pytest.approx(other["loss"], abs=1e-7)
    wanted = learned(expected)
    for name, value in learned(found).items():
        np.testing.assert_allclose(value, wanted[name], atol=1e-7, rtol=0, err_msg=name)
    rows = torch.cat([start.train, start.stop])
    np.testing.assert_allclose(stacked.logits(found.tower, rows), one_by_one.logits(expected.tower, rows), atol=1e-7)
    if variant == "mlp":
        assert len(found.pair_rows) > 5
        assert min(found.pair_rows.values()) < 50, "some tuple must have too few rows in a batch for its moments"
        assert max(found.pair_rows.values()) > 200, "and some enough"


def test_fusion_that_was_killed_goes_on(small_world: Path, tmp_path: Path) -> None:
    """Law: a packed fusion that is stopped after an epoch ends with the bits of one that was not."""
    start = scene(small_world, tmp_path / "run", select="last_epoch")
    config = FusionConfig(min_tuple_rows=15)
    trainer = packed(fusion_trainer(start, config, schedule(batch_rows=400, epochs=3)))
    whole = trainer.one("attention", memory(tmp_path / "whole", "attention"))
    first = memory(tmp_path / "parts", "attention")
    with pytest.raises(_Stopped):
        replace(trainer, meter=_StopsAfter(2)).one("attention", first)
    assert first.load() is not None
    resumed = trainer.one("attention", first)
    assert len(resumed.fitted.history) == 3
    for name, value in learned(resumed).items():
        assert value.equal(learned(whole)[name]), name


def test_kind_with_maps_of_every_field_is_refused(small_world: Path, tmp_path: Path) -> None:
    """Law: autoint is refused by a message that says what to do."""
    start = scene(small_world, tmp_path / "run", backbone={"width": 4, "tower": [8, 6], "kind": "autoint"})
    trainer = packed(fusion_trainer(start, FusionConfig(), schedule()))
    with pytest.raises(ConfigError, match="autoint is not trained packed"):
        trainer.one("avg", memory(tmp_path / "stacked", "avg"))


def test_groups_hold_each_row_once() -> None:
    """Law: every row with an adapter is found among the rows of that adapter, and the others past the end."""
    owners = torch.tensor([3, -1, 0, 3, 3, 7, 0, -1, 3, 3, 7, 1])
    groups = Groups.of(owners)
    side_by_side = [
        (int(owner), int(row))
        for bucket in groups.buckets
        for owner, rows in zip(bucket.adapters, bucket.rows.view(len(bucket.adapters), -1), strict=True)
        for row in rows
    ]
    for row, owner in enumerate(owners.tolist()):
        place = int(groups.found[row])
        assert (place == len(side_by_side)) if owner < 0 else (side_by_side[place] == (owner, row))
    assert len(side_by_side) < 2 * len(owners)
