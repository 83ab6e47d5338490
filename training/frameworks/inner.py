"""The inner loop of every framework: steps on batches that carry weights along (methods.md 3).

It is ONE function, so that a worker of a cluster does what a single process does, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from network.inputs import Batch
from training.frameworks.optimizers import Optimizer
from training.frameworks.structure import TABLE, Structure


@dataclass(frozen=True)
class LabelledBatch:
    """Rows to learn from.

    Args:
        inputs: n encoded rows.
        domain: (n,) int64 natural domain of each.
        label: (n,) float32, 0 or 1.
    """

    inputs: Batch
    domain: Tensor
    label: Tensor

    def __len__(self) -> int:
        return len(self.inputs)


@dataclass
class Weights:
    """The weights that an inner loop changes in place, and which rows of the table it changed.

    Args:
        values: every parameter of the structure by name.
        touched: (rows of the table,) bool, rows that a step has changed.
    """

    values: dict[str, Tensor]
    touched: Tensor

    @classmethod
    def starting(cls, theta: Mapping[str, Tensor]) -> Weights:
        """Copy weights to start from; no row is touched yet."""
        values = {name: value.detach().clone() for name, value in theta.items()}
        return cls(values, torch.zeros(len(values[TABLE]), dtype=torch.bool))


class RowSource(Protocol):
    """Where rows of the table come from when the working copy does not hold them yet."""

    def fetch(self, rows: Tensor) -> None:
        """Bring these rows (u,) of the working table up to date, if they are touched for the first time."""
        ...


def inner_steps(
    structure: Structure,
    weights: Weights,
    trained: Sequence[str],
    batches: Iterable[LabelledBatch],
    optimizer: Optimizer,
    source: RowSource | None = None,
) -> float:
    """Take one step of the optimizer on each batch, changing the weights in place.

    Args:
        structure: the network; its own parameters are neither read nor changed, its running moments move.
        weights: what is carried along.
        trained: names of the parameters that learn; of `embeddings.table` the rows of each batch learn.
        batches: in order. Dropout draws from torch's global generator: call this inside a `Stream.ambient` block.
        optimizer: of the inner steps; the caller resets it where the method says so.
        source: asked for a batch's rows before they are used; None where the table is complete.

    Returns:
        The loss, summed over rows.
    """
    structure.train()
    total = torch.zeros((), dtype=torch.float64)
    for batch in batches:
        if source is not None:
            source.fetch(structure.touched(batch.inputs))
        loss, gradients = loss_and_gradients(structure, weights.values, trained, batch)
        optimizer.begin()
        apply_gradients(weights, gradients, optimizer)
        total += loss * len(batch)
    return float(total)


def loss_of(structure: Structure, values: Mapping[str, Tensor], batch: LabelledBatch) -> Tensor:
    """Return the mean loss of a batch under these weights: binary cross entropy."""
    logits = structure.under(values, batch.inputs, batch.domain)
    return functional.binary_cross_entropy_with_logits(logits, batch.label)


def loss_and_gradients(
    structure: Structure, values: Mapping[str, Tensor], trained: Sequence[str], batch: LabelledBatch
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return a batch's mean loss and its gradients by name; that of the table is sparse and coalesced."""
    leaves = {name: values[name].detach().requires_grad_() for name in trained}
    with structure.sparse_gradients():
        loss = loss_of(structure, {**values, **leaves}, batch)
        found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    gradients = {name: value for name, value in zip(leaves, found, strict=True) if value is not None}
    if TABLE in gradients and gradients[TABLE].is_sparse:
        gradients[TABLE] = used_rows(structure, gradients[TABLE].coalesce(), batch)
    return loss.detach(), gradients


def used_rows(structure: Structure, gradient: Tensor, batch: LabelledBatch) -> Tensor:
    """Return a coalesced gradient of the table without the rows that only the padding of lists looks up."""
    if not batch.inputs.multi_hot:
        return gradient
    ids = gradient.indices()[0]
    used = torch.isin(ids, structure.touched(batch.inputs), assume_unique=True)
    return torch.sparse_coo_tensor(
        ids[used].unsqueeze(0), gradient.values()[used], gradient.shape, is_coalesced=True, check_invariants=False
    )


def apply_gradients(weights: Weights, gradients: Mapping[str, Tensor], optimizer: Optimizer) -> None:
    """Let an optimizer change dense tensors, and those rows of the table that have a gradient."""
    optimizer.dense(weights.values, {name: value for name, value in gradients.items() if name != TABLE})
    table = gradients.get(TABLE)
    if table is not None:
        ids, rows = table.indices()[0], table.values()
        optimizer.rows(TABLE, weights.values[TABLE], ids, rows)
        weights.touched[ids] = True
