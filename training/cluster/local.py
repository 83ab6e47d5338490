"""The part of the table that some domains use, as a small table of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from network.inputs import NetworkShape
from training.cluster.partitions import Partition

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class LocalView:
    """A network's shape with vocabularies cut down to what some domains hold, and the way there and back.

    Fields keep their order and the rows of a field theirs, so whatever adds up over rows adds up in the same order as
    in the whole table, bit for bit. Row 0 of each field (out of vocabulary; padding points at it) is always there.

    Args:
        shape: of the small network; only the rows of its fields differ.
        ids: (m,) int64 rows of the whole table, ascending; place p of the small table is row ids[p].
        of_field: for each field with a trained table, (V_local,) int64 its own rows, ascending.
    """

    shape: NetworkShape
    ids: Rows
    of_field: dict[str, Rows]

    @classmethod
    def of(cls, shape: NetworkShape, partitions: Sequence[Partition]) -> LocalView:
        """Cut a network's vocabularies down to these domains.

        Args:
            shape: of the whole network.
            partitions: the rows that the small network can meet.
        """
        sparse = [f.name for f in shape.fields if f.kind == "sparse"]
        of_field: dict[str, Rows] = {}
        ids: list[Rows] = []
        start = 0
        for field in shape.fields:
            if not field.trained:
                continue
            used = [
                p.lists[field.name] if field.kind == "multi_hot" else p.sparse[:, sparse.index(field.name)]
                for p in partitions
            ]
            found = np.unique(np.concatenate([np.zeros(1, np.int32), *(column.numpy().ravel() for column in used)]))
            of_field[field.name] = found[found >= 0].astype(np.int64)
            ids.append(of_field[field.name] + start)
            start += field.rows
        fields = tuple(replace(f, rows=len(of_field[f.name])) if f.trained else f for f in shape.fields)
        return cls(replace(shape, fields=fields), np.concatenate(ids), of_field)

    @property
    def padding(self) -> Rows:
        """Places of each field's row 0, one a field."""
        return np.cumsum([0, *(len(rows) for rows in self.of_field.values())], dtype=np.int64)[:-1]

    def places(self, ids: Rows) -> Rows:
        """Return the places (n,) in the small table of rows (n,) of the whole one, all of which are here."""
        return np.searchsorted(self.ids, ids)

    def localized(self, partition: Partition) -> Partition:
        """Return the same rows with vocabulary rows of the small network."""
        sparse = partition.sparse.clone()
        for column, name in enumerate(f.name for f in self.shape.fields if f.kind == "sparse"):
            if name in self.of_field:
                sparse[:, column] = self._mapped(name, partition.sparse[:, column])
        lists = {
            name: torch.where(values >= 0, self._mapped(name, values), values)
            for name, values in partition.lists.items()
        }
        return replace(partition, sparse=sparse, lists=lists)

    def _mapped(self, field: str, values: Tensor) -> Tensor:
        found = np.searchsorted(self.of_field[field], values.numpy())
        return torch.from_numpy(found.astype(np.int32))
