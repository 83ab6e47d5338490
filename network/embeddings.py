"""The embedding tables: all of them one parameter, so that a batch is one gather."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby

import torch
from torch import Tensor, nn
from torch.nn import functional

from network.errors import ShapeError
from network.inputs import Batch, NetworkShape


@dataclass(frozen=True)
class LookedUp:
    """What encoded rows have become: all that the rest of the network reads.

    Args:
        x: (n, k) the fields' vectors side by side, in field order.
        vectors: the same apart, (n, width) for each field.
        first_order: (n, 1) sum of the first-order weights; None for kinds without.
    """

    x: Tensor
    vectors: Sequence[Tensor]
    first_order: Tensor | None = None

    def take(self, rows: Tensor) -> LookedUp:
        """The rows at these positions (m,) int64."""
        weights = None if self.first_order is None else self.first_order[rows]
        return LookedUp(self.x[rows], [vector[rows] for vector in self.vectors], weights)


class FieldEmbeddings(nn.Module):
    """Turns encoded rows into the network's inputs.

    The tables of all sparse and multi-hot fields are concatenated; field f owns the rows from `starts[f]` on. A sparse
    field gives its row, a multi-hot field the mean of its non-padding rows (none: the zero vector), a dense field
    itself, a field of given vectors the given one. First-order weights, where the kind has them, are the last column of
    the same parameter (a row of the table is all that one value has); `slope` weighs dense and given values.
    Source: methods.md 1.

    Args:
        shape: fields, embedding width and the standard deviation of the start.
        given: field to its vectors (V, width), row 0 out of vocabulary; what is not there comes by `take_given` or with
            a bundle's weights, and a lookup without is refused.

    `sparse_gradient` makes the table's gradient a sparse tensor of a batch's rows, for row-lazy optimizers.

    Raises:
        ShapeError: as `take_given`.
    """

    sparse_starts: Tensor
    sparse_gradient: bool = False

    def __init__(self, shape: NetworkShape, given: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        self.shape = shape
        tables = [f for f in shape.fields if f.trained]
        ends = list(accumulate((f.rows for f in tables), initial=0))
        self.starts = {f.name: start for f, start in zip(tables, ends, strict=False)}
        self.rows = {f.name: f.rows for f in tables}
        self.table = nn.Parameter(torch.empty(ends[-1], shape.width + int(shape.first_order)))
        nn.init.normal_(self.table, std=shape.embedding_std)
        sparse = [f for f in shape.fields if f.kind == "sparse"]
        trained = [self.starts[f.name] for f in sparse if f.trained]
        self.register_buffer("sparse_starts", torch.tensor(trained, dtype=torch.int64), persistent=False)
        self._columns = {f.name: i for i, f in enumerate(sparse)}
        self._trained = [i for i, f in enumerate(sparse) if f.trained]
        self._buffers_of = {f.name: f"given_{i}" for i, f in enumerate(sparse) if not f.trained}
        for f in sparse:
            if not f.trained:
                empty = torch.zeros(f.rows, f.given_width)
                self.register_buffer(self._buffers_of[f.name], empty, persistent=False)
        self._absent = set(self._buffers_of)
        self.take_given(given or {})
        if shape.first_order:
            self.slope = nn.Parameter(torch.zeros(sum(shape.width_of(f) for f in shape.untrained)))

    @torch.no_grad()
    def take_given(self, given: Mapping[str, Tensor]) -> None:
        """Take the vectors (V, width) of fields that bring their own.

        Raises:
            ShapeError: no such field, or vectors that are not of the shape that their field says.
        """
        for name, vectors in given.items():
            if name not in self._buffers_of:
                raise ShapeError(f"no field {name!r} brings its own vectors")
            own = self.given(name)
            if vectors.shape != own.shape:
                shape = tuple(vectors.shape)
                raise ShapeError(f"the given vectors of {name!r} have shape {shape}; its field says {tuple(own.shape)}")
            own.copy_(vectors)
            self._absent.discard(name)

    def forward(self, batch: Batch) -> Tensor:
        """Return x (n, k): the fields' vectors side by side, in field order."""
        return self.look_up(batch).x

    def look_up(self, batch: Batch) -> LookedUp:
        """Return everything that the network reads of these rows.

        Raises:
            ShapeError: a field that brings its own vectors has not brought them yet.
        """
        if self._absent:
            raise ShapeError(f"the vectors of {', '.join(sorted(self._absent))} were never given")
        flat, lists = self._positions(batch)
        rows = functional.embedding(flat, self.table, sparse=self.sparse_gradient)
        means = {name: _mean_of_present(rows[:, at], batch.multi_hot[name]) for name, at in lists.items()}
        width = self.shape.width
        pieces: list[Tensor] = []
        taken = {"sparse": 0, "dense": 0}
        for (kind, trained), run in groupby(self.shape.fields, key=lambda f: (f.kind, f.trained)):
            names = [f.name for f in run]
            if kind == "multi_hot":
                pieces += [means[name][:, :width] for name in names]
            elif not trained and kind == "sparse":
                pieces += [self.given(name)[batch.sparse[:, self._columns[name]]] for name in names]
            else:
                start, stop = taken[kind], taken[kind] + len(names)
                taken[kind] = stop
                columns = rows[:, start:stop, :width].flatten(1) if kind == "sparse" else batch.dense[:, start:stop]
                pieces.append(columns.to(self.table.dtype))
        x = torch.cat(pieces, dim=1)
        vectors = torch.split(x, list(self.shape.widths), dim=1)
        if not self.shape.first_order:
            return LookedUp(x, vectors)
        sums = rows[:, : len(self._trained), width].sum(1, keepdim=True)
        for mean in means.values():
            sums = sums + mean[:, width:]
        untrained = [v for f, v in zip(self.shape.fields, vectors, strict=True) if not f.trained]
        if untrained:
            sums = sums + torch.cat(untrained, dim=1) @ self.slope.unsqueeze(1)
        return LookedUp(x, vectors, sums)

    def table_of(self, field: str) -> Tensor:
        """Return one field's table (V, E), a view of the parameter."""
        start = self.starts[field]
        return self.table[start : start + self.rows[field], : self.shape.width]

    def given(self, field: str) -> Tensor:
        """Return the given vectors (V, width) of a field that has them."""
        return self.get_buffer(self._buffers_of[field])

    def given_names(self) -> tuple[str, ...]:
        """The fields that bring their own vectors."""
        return tuple(self._buffers_of)

    def live(self) -> dict[str, Tensor]:
        """Return the tensors themselves, as views, under their names in a bundle."""
        named = {f"embedding.{name}": self.table_of(name) for name in self.starts}
        named |= {f"embedding.{name}": self.given(name) for name in self._buffers_of}
        if self.shape.first_order:
            for name, start in self.starts.items():
                named[f"first_order.{name}"] = self.table[start : start + self.rows[name], self.shape.width]
            named |= {f"first_order.{name}": self.slope[at] for name, at in self.shape.untrained_slices.items()}
        return {name: value.detach() for name, value in named.items()}

    def touched(self, batch: Batch) -> Tensor:
        """Return the rows of the concatenated table that a batch uses, sorted and unique (u,) int64."""
        flat, present = self._present(batch)
        rows: Tensor = torch.unique(flat[present])
        return rows

    def occurrences(self, batch: Batch) -> Tensor:
        """Count how often each row of the concatenated table (rows,) int64 occurs in a batch."""
        flat, present = self._present(batch)
        return torch.bincount(flat[present], minlength=self.table.shape[0])

    @torch.no_grad()
    def fill_unknown(self, counts: Tensor) -> None:
        """Set row 0 of every table to the count-weighted mean of its trained rows (methods.md 1).

        Args:
            counts: (rows,) occurrences of each row of the concatenated table in the training rows.
        """
        for name, start in self.starts.items():
            table = self.table[start + 1 : start + self.rows[name]].double()
            weight = counts[start + 1 : start + self.rows[name]].double()
            total = weight.sum().clamp(min=1.0)
            self.table[start] = ((weight @ table) / total).to(self.table.dtype)

    def _present(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Rows of the concatenated table, and which of them are not padding; both (n, Fs + list lengths)."""
        flat, lists = self._positions(batch)
        present = torch.ones_like(flat, dtype=torch.bool)
        for name, columns in lists.items():
            present[:, columns] = batch.multi_hot[name] >= 0
        return flat, present

    def _positions(self, batch: Batch) -> tuple[Tensor, dict[str, slice]]:
        """Rows of the concatenated table (n, Fs + list lengths), and the columns of each multi-hot field."""
        sparse = batch.sparse[:, self._trained] if self._buffers_of else batch.sparse
        parts = [sparse + self.sparse_starts]
        lists: dict[str, slice] = {}
        width = int(sparse.shape[1])
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
