"""The embedding tables: all of them one parameter, so that a batch is one gather."""

from __future__ import annotations

from itertools import accumulate, groupby

import torch
from torch import Tensor, nn
from torch.nn import functional

from network.inputs import Batch, NetworkShape


class FieldEmbeddings(nn.Module):
    """Turns encoded rows into the tower's input x.

    The tables of all sparse and multi-hot fields are concatenated; field f owns the rows from `starts[f]` on. A sparse
    field gives its row, a multi-hot field the mean of its non-padding rows (none: the zero vector), a dense field
    itself. Source: methods.md 1.

    Args:
        shape: fields, embedding width and the standard deviation of the start.
    """

    sparse_starts: Tensor

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__()
        self.shape = shape
        tables = [f for f in shape.fields if f.kind != "dense"]
        ends = list(accumulate((f.rows for f in tables), initial=0))
        self.starts = {f.name: start for f, start in zip(tables, ends, strict=False)}
        self.rows = {f.name: f.rows for f in tables}
        self.table = nn.Parameter(torch.empty(ends[-1], shape.width))
        nn.init.normal_(self.table, std=shape.embedding_std)
        sparse = [self.starts[f.name] for f in shape.fields if f.kind == "sparse"]
        self.register_buffer("sparse_starts", torch.tensor(sparse, dtype=torch.int64), persistent=False)

    def forward(self, batch: Batch) -> Tensor:
        """Return x (n, k): the fields' vectors side by side, in field order."""
        flat, lists = self._positions(batch)
        vectors = functional.embedding(flat, self.table)
        pieces: list[Tensor] = []
        taken = {"sparse": 0, "dense": 0}
        for kind, run in groupby(self.shape.fields, key=lambda f: f.kind):
            names = [f.name for f in run]
            if kind == "multi_hot":
                pieces += [_mean_of_present(vectors[:, lists[name]], batch.multi_hot[name]) for name in names]
                continue
            start, stop = taken[kind], taken[kind] + len(names)
            taken[kind] = stop
            columns = vectors[:, start:stop].flatten(1) if kind == "sparse" else batch.dense[:, start:stop]
            pieces.append(columns.to(self.table.dtype))
        return torch.cat(pieces, dim=1)

    def table_of(self, field: str) -> Tensor:
        """Return one field's table (V, E), a view of the parameter."""
        start = self.starts[field]
        return self.table[start : start + self.rows[field]]

    def occurrences(self, batch: Batch) -> Tensor:
        """Count how often each row of the concatenated table (rows,) int64 occurs in a batch."""
        flat, lists = self._positions(batch)
        present = torch.ones_like(flat, dtype=torch.bool)
        for name, columns in lists.items():
            present[:, columns] = batch.multi_hot[name] >= 0
        return torch.bincount(flat[present], minlength=self.table.shape[0])

    @torch.no_grad()
    def fill_unknown(self, counts: Tensor) -> None:
        """Set row 0 of every table to the count-weighted mean of its trained rows (methods.md 1).

        Args:
            counts: (rows,) occurrences of each row of the concatenated table in the training rows.
        """
        for name, start in self.starts.items():
            table = self.table_of(name)[1:].double()
            weight = counts[start + 1 : start + self.rows[name]].double()
            total = weight.sum().clamp(min=1.0)
            self.table[start] = ((weight @ table) / total).to(self.table.dtype)

    def _positions(self, batch: Batch) -> tuple[Tensor, dict[str, slice]]:
        """Rows of the concatenated table (n, Fs + list lengths), and the columns of each multi-hot field."""
        parts = [batch.sparse + self.sparse_starts]
        lists: dict[str, slice] = {}
        width = int(batch.sparse.shape[1])
        for f in self.shape.fields:
            if f.kind == "multi_hot":
                values = batch.multi_hot[f.name]
                parts.append(values.clamp(min=0) + self.starts[f.name])
                lists[f.name] = slice(width, width + int(values.shape[1]))
                width += int(values.shape[1])
        return torch.cat(parts, dim=1), lists


def _mean_of_present(vectors: Tensor, values: Tensor) -> Tensor:
    """Mean over a list (n, L, E) of the entries that are not padding; zero where there is none."""
    present = (values >= 0).unsqueeze(-1).to(vectors.dtype)
    return (vectors * present).sum(dim=1) / present.sum(dim=1).clamp(min=1.0)
