"""A task that trains in a second, and what two trainings of it must share."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from network.backbone import Backbone
from network.inputs import FieldShape, NetworkShape
from training.batches import RowTensors
from training.checkpoint import Memory, StateFolder
from training.cluster.config import ClusterConfig
from training.cluster.engine import DirectEngine, Engine
from training.cluster.fit import ClusterFitted, Task, fit_on_cluster
from training.dataset import EncodedDataset, Split, encode, split_rows
from training.frameworks.config import MamdrConfig
from training.frameworks.domains import DomainRows
from training.frameworks.fit import Fitted, fit
from training.frameworks.setting import Setting
from training.frameworks.state import State
from training.frameworks.structure import PlainStructure, Structure
from training.frameworks.table import FRAMEWORKS
from training.prepared import PreparedDataset
from training.progress import SilentMeter
from training.seeds import Stream

SETTINGS: dict[str, Any] = {
    "framework": "mamdr",
    "network": {"width": 4, "tower": [16, 8], "dropout": 0.1},
    "batch_rows": 512,
    "epochs": 2,
    "outer": {"lr": 0.5},
    "regularization": {"others": 1},
}


def plain(shape: NetworkShape) -> Structure:
    """The network of a shape, as workers make it."""
    return PlainStructure(Backbone(shape))


def encoded(folder: Path) -> tuple[EncodedDataset, Split]:
    """A prepared folder, split and encoded."""
    prepared = PreparedDataset.load(folder)
    split = split_rows(len(prepared.interactions), 0)
    return encode(prepared, split.train, 4), split


def task_of(dataset: EncodedDataset, split: Split, **changes: Any) -> Task:
    """The small settings, with some keys replaced."""
    config = MamdrConfig.model_validate({**SETTINGS, **changes})
    rows = RowTensors(dataset)
    shape = NetworkShape(
        tuple(FieldShape(field.name, field.kind, field.vocabulary_size) for field in dataset.fields),
        width=config.network.width,
        tower=config.network.tower,
        dropout=config.network.dropout,
        norm=config.network.norm,
    )
    stream = Stream(config.seed, ("mamdr",))
    with stream.of("start").ambient():
        structure = plain(shape)
    setting = Setting(structure, rows, DomainRows.of(rows, split), config, stream)
    return Task(setting, dataset, plain, {"settings": config.model_dump(mode="json")})


def in_one_process(task: Task, out: Path) -> Fitted:
    """What `training.frameworks` makes of it."""
    memory = Memory(StateFolder(out / "state"), "alone", {})
    setting = replace(task.setting, structure=deepcopy(task.setting.structure))  # what follows starts from the same
    return fit(setting, FRAMEWORKS[task.setting.config.framework], memory, SilentMeter())


def on_cluster(task: Task, out: Path, engine: Engine | None = None, **cluster: Any) -> ClusterFitted:
    """What shards and workers make of it, by default in this process."""
    return fit_on_cluster(task, ClusterConfig(**cluster), engine or DirectEngine(), out, SilentMeter())


def different(one: State, other: State) -> list[str]:
    """Names of the learned tensors that are not the same bits."""
    a, b = one.learned(), other.learned()
    assert a.keys() == b.keys()
    return [name for name in a if not torch.equal(a[name], b[name])]


def figures(history: tuple[Mapping[str, Any], ...]) -> list[tuple[Any, ...]]:
    """What each epoch came to, without how long it took."""
    return [(entry["epoch"], entry["loss"], entry["auc"], entry["aucs"]) for entry in history]


def expected_entries(task: Task, epochs: int) -> list[tuple[int, str, str]]:
    """Every (epoch, phase, domain) that so many epochs consist of, sorted."""
    names = task.setting.domains.names
    phases = ("dn", "dr") if task.setting.config.framework == "mamdr" else ("dn",)
    return sorted(
        (e, phase, names[i]) for e in range(1, epochs + 1) for phase in phases for i in task.setting.domains.trained
    )


def normal(seed: int, *shape: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Seeded float32 numbers."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)
