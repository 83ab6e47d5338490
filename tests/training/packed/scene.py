"""What trains adapters alone, over domains of very different sizes, on a backbone that nobody trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from network.backbone import Backbone
from network.fusion import Mode
from tests.training.small import small_config
from training.adapters import AdapterTrainer, TrainedAdapter, places
from training.batches import RowTensors
from training.checkpoint import Memory, StateFolder
from training.config import Schedule
from training.dataset import EncodedDataset
from training.packed.packer import MemoryOf
from training.progress import SilentMeter
from training.seeds import Stream
from training.stages import Run

TRAIN = (500, 131, 128, 130, 64, 20, 0, 1, 33, 90, 75, 260)
"""Training rows of each theme: many batches and one, fewer than a norm's 32 rows, and none."""
STOP = (30, 20, 15, 0, 12, 20, 10, 5, 1, 25, 30, 40)
"""Validation rows of each theme; none of one, one class only of another."""
MODES: tuple[Mode, ...] = ("attention", "avg", "add")


def schedule(**changes: Any) -> Schedule:
    """Few epochs of small batches, fast enough that domains stop at different ones.

    No weight decay: a `shift` before a batch's own moments has no gradient but rounding, and with the decay what Adam
    makes of it grows until it is seen.
    """
    usual = {"lr": 2e-2, "weight_decay": 0.0, "batch_rows": 64, "epochs": 4, "patience": 1, "dropout": 0.3}
    return Schedule.model_validate(usual | changes)


def scene(data: Path, out: Path, *, select: str = "best", **changes: Any) -> AdapterTrainer:
    """What trains each domain alone, on a backbone of random weights in torch's default floats.

    Args:
        data: a prepared data set; its rows are dealt out to twelve themes.
        out: an empty folder.
        select: as in the configuration.
        changes: `backbone`, `adapter`, `adapters`: sections of the configuration.
    """
    sections: dict[str, Any] = {"adapters": schedule().model_dump(), "select": select} | changes
    run = Run(small_config(data, **sections), out, SilentMeter())
    rows = RowTensors(dealt(run.dataset))
    rows.label = rows.label.to(torch.get_default_dtype())
    torch.manual_seed(5)
    backbone = Backbone(run.shape, rows.given)
    with torch.no_grad():
        for value in backbone.state_dict().values():
            value.copy_(torch.rand_like(value) + 0.5 if value.dim() == 1 else torch.randn_like(value) * 0.3)
    where = run.positions
    return AdapterTrainer(
        backbone.freeze(),
        rows,
        cut(rows, where.train, TRAIN),
        cut(rows, torch.cat([where.stop, where.gate, where.test]), STOP),
        run.config.adapter,
        run.config.adapters,
        run.config.select,
        Stream(7, ("adapters",)),
        SilentMeter(),
    )


def dealt(dataset: EncodedDataset) -> EncodedDataset:
    """Deal the rows out to twelve themes at random; other divisions stay."""
    names = tuple(f"theme-{i:02}" for i in range(1, len(TRAIN) + 1))
    divisions = tuple(d.model_copy(update={"domains": names}) if d.natural else d for d in dataset.divisions)
    natural = next(d.name for d in divisions if d.natural)
    column = np.random.default_rng(0).integers(0, len(names), len(dataset.label)).astype(np.int32)
    return replace(dataset, divisions=divisions, division={**dataset.division, natural: column})


def cut(rows: RowTensors, chosen: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Keep so many rows of each theme."""
    parts = [rows.of_domain(chosen, 0, theme)[:size] for theme, size in enumerate(sizes)]
    return torch.cat(parts).sort().values


def memories(folder: Path) -> MemoryOf:
    """Checkpoints in one folder."""
    return lambda name, content: Memory(StateFolder(folder), name, content)


def alone(trainer: AdapterTrainer, folder: Path) -> list[TrainedAdapter]:
    """Train every domain by itself."""
    return [trainer.one(place, Memory(StateFolder(folder), place.name, {})) for place in places(trainer.rows)]
