"""Small tables of the rows that a round, or a step, reads: for targets side by side, and to differentiate through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from network.inputs import Batch
from training.frameworks.inner import LabelledBatch
from training.frameworks.optimizers import Optimizer
from training.frameworks.setting import Setting
from training.frameworks.state import Specific
from training.frameworks.structure import TABLE, Structure


def localizable(structure: Structure) -> bool:
    """Whether rows can be numbered anew: a list's entries cannot, for the row of its padding is fixed."""
    return all(field.kind != "multi_hot" for field in structure.embeddings.shape.fields)


class LocalRows:
    """theta_S + theta_i of the rows that each target's round reads.

    Args:
        setting: network and rows.
        shared: theta_S's table (rows, E).
        specifics: theta_i of the t targets.
        queues: for each target the positions of its batches.
    """

    def __init__(
        self, setting: Setting, shared: Tensor, specifics: Sequence[Specific], queues: Sequence[Sequence[Tensor]]
    ) -> None:
        structure = setting.structure
        self._specifics = specifics
        self._ids = [structure.touched(setting.rows.batch(torch.cat(list(queue)))) for queue in queues]
        self.start = torch.zeros(len(queues), max(map(len, self._ids)), shared.shape[1])
        for place, (own, ids) in enumerate(zip(specifics, self._ids, strict=True)):
            self.start[place, : len(ids)] = shared[ids] + _rows_at(own, ids)
        self.end = self.start.clone()
        sparse = [field.name for field in structure.embeddings.shape.fields if field.kind == "sparse"]
        self._columns = [column for column, name in enumerate(sparse) if name in structure.embeddings.starts]
        self._starts = structure.embeddings.sparse_starts

    def renumbered(self, sparse: Tensor) -> tuple[Tensor, Tensor]:
        """Number vocabulary rows anew, so that the network finds them in the small tables.

        Args:
            sparse: (b, n, Fs) encoded sparse fields of the first b targets.

        Returns:
            The same with the new numbers, int64; and the rows that each batch reads, as positions in all small tables
            one after another (u,).
        """
        renumbered, read = sparse.to(torch.int64), []
        for place in range(len(sparse)):
            local = torch.searchsorted(self._ids[place], renumbered[place][:, self._columns] + self._starts)
            read.append(torch.unique(local) + place * self.start.shape[1])
            renumbered[place, :, self._columns] = local - self._starts
        return renumbered, torch.cat(read)

    def step(self, optimizer: Optimizer, gradient: Tensor, read: Tensor) -> None:
        """Let the rows that were read take a step.

        Args:
            optimizer: the targets' own, its step begun.
            gradient: (b, m, E) of the first b small tables.
            read: as `renumbered` gave it.
        """
        optimizer.rows(TABLE, self.end.view(-1, self.end.shape[2]), read, gradient.flatten(0, 1)[read])

    def absorb(self, gamma: float) -> None:
        """Move every theta_i's rows: += gamma (end - start)."""
        change = gamma * (self.end - self.start)
        for place, (own, ids) in enumerate(zip(self._specifics, self._ids, strict=True)):
            union = torch.unique(torch.cat([own.ids, ids]))
            rows = torch.zeros(len(union), change.shape[2])
            rows[torch.searchsorted(union, own.ids)] = own.rows
            rows[torch.searchsorted(union, ids)] += change[place, : len(ids)]
            own.ids, own.rows = union, rows


def _rows_at(own: Specific, ids: Tensor) -> Tensor:
    """What theta_i adds to these rows (u, E)."""
    rows = torch.zeros(len(ids), own.rows.shape[1])
    found = torch.isin(ids, own.ids)
    rows[found] = own.rows[torch.searchsorted(own.ids, ids[found])]
    return rows


@dataclass(frozen=True)
class BatchRows:
    """The rows of the table that some batches read, as a small table of their own.

    Args:
        ids: (u,) int64 rows of the whole table, ascending.
        batches: the batches, their vocabulary rows numbered for the small table.
    """

    ids: Tensor
    batches: list[LabelledBatch]

    @classmethod
    def of(cls, structure: Structure, batches: Sequence[LabelledBatch]) -> BatchRows:
        """Number the rows anew; the structure must be `localizable`."""
        fields = structure.embeddings.shape.fields
        sparse = [field.name for field in fields if field.kind == "sparse"]
        columns = [column for column, name in enumerate(sparse) if name in structure.embeddings.starts]
        starts = structure.embeddings.sparse_starts
        ids = torch.unique(torch.cat([structure.touched(batch.inputs) for batch in batches]))
        renumbered = []
        for batch in batches:
            local = batch.inputs.sparse.to(torch.int64, copy=True)
            local[:, columns] = torch.searchsorted(ids, local[:, columns] + starts) - starts
            inputs = Batch(local, batch.inputs.dense, batch.inputs.multi_hot)
            renumbered.append(LabelledBatch(inputs, batch.domain, batch.label))
        return cls(ids, renumbered)

    def widened(self, gradient: Tensor, table: torch.Size) -> Tensor:
        """Return a coalesced gradient of the small table as one of the whole table."""
        ids = self.ids[gradient.indices()[0]]
        return torch.sparse_coo_tensor(
            ids.unsqueeze(0), gradient.values(), table, is_coalesced=True, check_invariants=False
        )
