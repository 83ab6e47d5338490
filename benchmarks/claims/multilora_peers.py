"""How others train the same network: a DataLoader over a Dataset of single rows, and PEFT's LoRA on top of it."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from network.backbone import Backbone
from network.inputs import Batch
from training.adapters import AdapterTrainer, Place
from training.batches import RowTensors
from training.config import Schedule

_DENSE = "dense"
Row = tuple[dict[str, Any], Any]


class ColumnDataset(Dataset[Row]):
    """Rows out of columns, one at a time, a dictionary each: the form of torch-rechub's generators.

    Args:
        columns: a mapping or a data frame, whose items are names and what gives a row's value for its number.
        label: what gives the label for it.
    """

    def __init__(self, columns: Any, label: Any) -> None:
        self._columns = columns
        self._label = label

    def __len__(self) -> int:
        return len(self._label)

    def __getitem__(self, row: int) -> Row:
        return {name: column[row] for name, column in self._columns.items()}, self._label[row]


@dataclass(frozen=True)
class Rows:
    """Some rows of a data set, in the forms that peers read.

    Args:
        fields: names of the sparse fields.
        sparse: (n, Fs).
        dense: (n, Fd).
        label: (n,) of 0 and 1.
    """

    fields: tuple[str, ...]
    sparse: np.ndarray[Any, np.dtype[np.int32]]
    dense: np.ndarray[Any, np.dtype[np.float32]]
    label: np.ndarray[Any, np.dtype[np.float32]]

    @classmethod
    def of(cls, rows: RowTensors, positions: Tensor) -> Rows:
        """Take rows out of a data set."""
        batch = rows.batch(positions)
        names = tuple(f"sparse-{i}" for i in range(batch.sparse.shape[1]))
        return cls(names, batch.sparse.numpy(), batch.dense.numpy(), rows.label[positions].numpy())

    def by_numpy(self) -> ColumnDataset:
        """Columns that are numpy arrays."""
        return ColumnDataset(self._columns(), self.label)

    def by_frame(self) -> ColumnDataset:
        """A data frame of pandas, handed over as it is: its columns are asked for at each row."""
        return ColumnDataset(pd.DataFrame(self._columns()), pd.Series(self.label))

    def _columns(self) -> dict[str, Any]:
        dense = {f"{_DENSE}-{i}": self.dense[:, i] for i in range(self.dense.shape[1])}
        return {name: self.sparse[:, i] for i, name in enumerate(self.fields)} | dense


def batch_of(columns: Mapping[str, Tensor]) -> Batch:
    """Put a loader's batch into the network's form."""
    dense = [column for name, column in columns.items() if name.startswith(_DENSE)]
    sparse = [column for name, column in columns.items() if not name.startswith(_DENSE)]
    values = torch.stack(dense, 1).float() if dense else torch.empty(len(sparse[0]), 0)
    return Batch(torch.stack(sparse, 1).int(), values, {})


def train(network: nn.Module, rows: ColumnDataset, schedule: Schedule) -> None:
    """The usual loop: Adam over what requires a gradient, batches from a shuffling DataLoader."""
    loader: DataLoader[Row] = DataLoader(rows, batch_size=schedule.batch_rows, shuffle=True)
    learned = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(learned, schedule.lr, weight_decay=schedule.weight_decay)
    network.train()
    for _ in range(schedule.epochs):
        for columns, label in loader:
            optimizer.zero_grad()
            loss = functional.binary_cross_entropy_with_logits(network(batch_of(columns)), label.float())
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            optimizer.step()
    network.eval()


@torch.no_grad()
def scored(network: nn.Module, rows: RowTensors, positions: Tensor) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Logits (n,) of a trained network."""
    logits: Tensor = network(rows.batch(positions))
    return logits.double().numpy()


@dataclass(frozen=True)
class PeftTrained:
    """What training some domains by PEFT came to.

    Args:
        seconds: of processor time, for all of them.
        aucs: of each domain's validation rows.
    """

    seconds: float
    aucs: tuple[float | None, ...]


def by_peft(trainer: AdapterTrainer, domains: Sequence[Place], form: Callable[[Rows], ColumnDataset]) -> PeftTrained:
    """Train domains one after the other as PEFT's documentation shows it.

    A fresh wrapping of the backbone for each, LoRA on every hidden layer, the norms among the modules to save, dropout
    as ours. It is spared the early stop; its LoRA has neither scale nor shift of its own.

    Args:
        trainer: ours, whose backbone, schedule and rows it takes.
        domains: to train.
        form: in which it reads them.
    """
    backbone = Backbone(replace(trainer.backbone.shape, dropout=trainer.schedule.dropout))
    backbone.load_state_dict(trainer.backbone.state_dict())
    levels = range(len(trainer.backbone.shape.tower))
    config = LoraConfig(
        r=trainer.config.ranks[0],
        lora_alpha=trainer.config.ranks[0],
        target_modules=[f"linears.{level}" for level in levels],
        modules_to_save=[f"plain.norms.{level}" for level in levels],
    )
    seconds, aucs = 0.0, []
    for place in domains:
        own, judged = (
            trainer.rows.of_domain(part, place.division, place.domain) for part in (trainer.train, trainer.stop)
        )
        began = time.process_time()
        network = get_peft_model(copy.deepcopy(backbone), config)
        train(network, form(Rows.of(trainer.rows, own)), trainer.schedule)
        aucs.append(trainer.rows.auc(judged, scored(network, trainer.rows, judged)))
        seconds += time.process_time() - began
    return PeftTrained(seconds, tuple(aucs))


def backbone_seconds(network: Backbone, rows: ColumnDataset, schedule: Schedule) -> float:
    """Processor time of training a backbone from a loader."""
    began = time.process_time()
    train(network, rows, schedule)
    return time.process_time() - began
