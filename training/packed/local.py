"""Rows whose embeddings are a domain's own: numbered anew, so that a domain's table holds the values that it has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from network.backbone import Backbone
from network.inputs import Batch
from training.batches import RowTensors
from training.packed.rows import READ_ROWS


@dataclass(frozen=True)
class Block:
    """Where one field's vector comes from.

    Args:
        kind: `row` of the domain's table, `mean` of several, or `constant`.
        columns: of the table positions, or of the constants.
    """

    kind: str
    columns: slice


@dataclass(frozen=True)
class LocalRows:
    """Some rows of a pack.

    Args:
        local: (n, C) rows of the domain's own table; any where `present` is not set.
        present: (n, C) whether there is a value.
        constant: (n, K) dense values and given vectors, side by side.
    """

    local: Tensor
    present: Tensor
    constant: Tensor


class LocalInputs:
    """The rows of a pack's domains, one domain after another.

    Args:
        start: the network that every domain starts from: its fields, and where their tables stand.
        rows: the data set.
        parts: positions of each domain's rows.
        ids: for each domain the rows of the whole table that it has, sorted.
    """

    def __init__(self, start: Backbone, rows: RowTensors, parts: Sequence[Tensor], ids: Sequence[Tensor]) -> None:
        self.counts = [len(part) for part in parts]
        at = torch.cat([*parts, torch.empty(0, dtype=torch.int64)])
        dtype = start.output.weight.dtype
        self.label = rows.label[at].to(dtype)
        read = [_read(start, rows.batch(part)) for part in torch.split(at, READ_ROWS)]
        self._present = torch.cat([present for _, present, _ in read])
        self._constant = torch.cat([constant for _, _, constant in read]).to(dtype)
        whole = torch.split(torch.cat([flat for flat, _, _ in read]), self.counts)
        self._local = torch.cat(
            [
                torch.searchsorted(own, flat).clamp(max=max(len(own) - 1, 0))
                for own, flat in zip(ids, whole, strict=True)
            ]
        )

    def take(self, at: Tensor) -> LocalRows:
        """Return the rows at these positions (n,)."""
        return LocalRows(*(part.index_select(0, at) for part in (self._local, self._present, self._constant)))


def own_rows(start: Backbone, rows: RowTensors, parts: Sequence[Tensor]) -> Tensor:
    """Return the rows of the whole table that some rows of the data set read, sorted and unique (u,)."""
    found = [start.embeddings.touched(rows.batch(some)) for part in parts for some in torch.split(part, READ_ROWS)]
    unique: Tensor = torch.unique(torch.cat(found)) if found else torch.empty(0, dtype=torch.int64)
    return unique


def blocks(start: Backbone, batch: Batch) -> list[Block]:
    """Say for each field, in order, where its vector comes from.

    Args:
        start: the network.
        batch: any rows: they show how long lists are.
    """
    found, column, constant = [], 0, 0
    for field in start.shape.fields:
        if not field.trained:
            width = start.shape.width_of(field)
            found.append(Block("constant", slice(constant, constant + width)))
            constant += width
            continue
        width = 1 if field.kind == "sparse" else int(batch.multi_hot[field.name].shape[1])
        found.append(Block("row" if field.kind == "sparse" else "mean", slice(column, column + width)))
        column += width
    return found


def _read(start: Backbone, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of the whole table (n, C), whether there is a value (n, C), and the constants (n, K)."""
    flat, present, constant = [], [], []
    sparse, dense = iter(batch.sparse.unbind(1)), iter(torch.split(batch.dense, 1, dim=1))
    for field in start.shape.fields:
        if field.kind == "dense":
            constant.append(next(dense))
        elif field.kind == "multi_hot":
            values = batch.multi_hot[field.name]
            flat.append(values.clamp(min=0).long() + start.embeddings.starts[field.name])
            present.append(values >= 0)
        elif field.trained:
            flat.append(next(sparse).long().unsqueeze(1) + start.embeddings.starts[field.name])
            present.append(torch.ones_like(flat[-1], dtype=torch.bool))
        else:
            constant.append(start.embeddings.given(field.name)[next(sparse)])
    rows = len(batch)
    nothing = torch.empty(rows, 0)
    whole = torch.cat([*flat, nothing.long()], dim=1)
    return whole, torch.cat([*present, nothing.bool()], dim=1), torch.cat([*constant, nothing], dim=1)
