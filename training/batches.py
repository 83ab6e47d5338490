"""The encoded data set as torch tensors: a batch is one `index_select` a tensor, never a loop over rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from features.fields import Field
from network.inputs import Batch, FieldShape, NetworkShape
from training.arrays import Arrays, InMemory
from training.config import BackboneConfig, TrainingConfig
from training.dataset import EncodedDataset
from training.metrics import auc

EVAL_ROWS = 4096
"""Rows of a batch where nothing is learned: its activations fit the cache. Sums over batches differ in last bits."""


class RowTensors:
    """Every row of a data set.

    Args:
        dataset: encoded with the run's own training rows.
        arrays: where each row's domains are laid out; in memory by default.
    """

    def __init__(self, dataset: EncodedDataset, arrays: Arrays | None = None) -> None:
        self._sparse = torch.from_numpy(dataset.sparse)
        self._dense = torch.from_numpy(dataset.dense)
        self._lists = {
            name: (torch.from_numpy(lists), torch.from_numpy(entity))
            for name, (lists, entity) in dataset.multi_hot.items()
        }
        self.label = torch.from_numpy(dataset.label)
        self.given = {name: torch.from_numpy(vectors) for name, vectors in dataset.given.items()}
        """Frozen field to its vectors (V, width)."""
        ordered = sorted(dataset.divisions, key=lambda division: not division.natural)  # stable: natural first
        self.divisions = tuple(ordered)
        domains = (arrays or InMemory()).new((len(dataset.label), len(ordered)), np.int64)
        for place, division in enumerate(ordered):
            domains[:, place] = dataset.division[division.name]
        self.domains = torch.from_numpy(domains)
        """(n, divisions) each row's domain positions, the natural division first; -1 is none."""

    def batch(self, rows: Tensor) -> Batch:
        """Return the encoded rows at these positions (n,) int64."""
        lists = {
            name: values.index_select(0, entity.index_select(0, rows)) for name, (values, entity) in self._lists.items()
        }
        return Batch(self._sparse.index_select(0, rows), self._dense.index_select(0, rows), lists)

    @property
    def memory_bytes(self) -> int:
        """What all rows take, wherever they lie."""
        lists = [tensor for pair in self._lists.values() for tensor in pair]
        columns = (self._sparse, self._dense, *lists, self.label, *self.given.values(), self.domains)
        return sum(tensor.nbytes for tensor in columns)

    def of_domain(self, rows: Tensor, division: int, domain: int) -> Tensor:
        """Return those of the rows that lie in one domain, in their order."""
        return rows[self.domains[rows, division] == domain]

    def auc(self, rows: Tensor, logits: NDArray[np.float64]) -> float | None:
        """Return the AUC of these rows; None where they have one class only."""
        return auc(self.label[rows].numpy(), logits)


def network_shape(dataset: EncodedDataset, config: TrainingConfig) -> NetworkShape:
    """Return the shape of the backbone that this data set and configuration ask for."""
    return shape_of(dataset.fields, config.backbone, config.pretrain.dropout)


def shape_of(fields: Iterable[Field], settings: BackboneConfig, dropout: float) -> NetworkShape:
    """Return the shape of a backbone.

    Args:
        fields: of the encoded data set.
        settings: kind and widths.
        dropout: probability after each hidden layer in training.
    """
    return NetworkShape(
        fields=tuple(
            FieldShape(field.name, field.kind, field.vocabulary_size, field.width if field.frozen else 0)
            for field in fields
        ),
        width=settings.width,
        tower=settings.tower,
        dropout=dropout,
        norm_eps=settings.norm_eps,
        norm_momentum=settings.norm_momentum,
        embedding_std=settings.embedding_std,
        kind=settings.kind,
        norm=settings.norm,
        cross_layers=settings.cross_layers,
        attention_layers=settings.attention_layers,
        heads=settings.heads,
        head_width=settings.head_width,
    )


def batch_count(rows: int, batch_rows: int, min_batches: int) -> int:
    """How many batches `split_batches` cuts so many rows into."""
    return max(math.ceil(rows / batch_rows), min(min_batches, rows // 32), 1)


def split_batches(rows: Tensor, batch_rows: int, min_batches: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Shuffle rows and cut them into batches of nearly equal size, so that none is a small rest.

    Args:
        rows: (n,) positions.
        batch_rows: rows of a batch, at most.
        min_batches: batches, at least, while one keeps 32 rows.
        generator: of the order.
    """
    count = batch_count(len(rows), batch_rows, min_batches)
    order = torch.randperm(len(rows), generator=generator)
    return torch.tensor_split(rows.index_select(0, order), count)


@torch.no_grad()
def logits_of(rows: Tensor, score: Callable[[Tensor], Tensor]) -> NDArray[np.float64]:
    """Score many rows, a bounded number at a time.

    Args:
        rows: (n,) positions.
        score: gives the logits of some positions; its network must be in eval mode.

    Returns:
        Logits (n,).
    """
    parts = [score(part) for part in torch.split(rows, EVAL_ROWS)]
    return torch.cat(parts).double().numpy() if parts else np.empty(0)
