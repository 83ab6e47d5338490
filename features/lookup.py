"""The step from encoded rows to the vectors that enter the network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.errors import MalformedTensors
from features.fields import Field
from features.first_order import PREFIX, FirstOrder
from features.overlay import Overlay
from features.rows import EncodedRows


class EmbeddingLookup:
    """Embedding tables of one backbone.

    This is the one place where rows become vectors. What a domain changes of them, its `OwnVectors`, comes after.

    Args:
        fields: the spec, in manifest order.
        tables: `embedding.<field>` float32 (V, E), for every sparse and multi-hot field, and, where the kind has
            first-order weights, `first_order.<field>` for every field.

    Raises:
        MalformedTensors: a table is missing or its shape is not the field's.
    """

    def __init__(self, fields: Iterable[Field], tables: Mapping[str, NDArray[Any]]) -> None:
        self._fields = tuple(fields)
        self._tables = {field.name: _table(field, tables) for field in self._fields if field.kind != "dense"}
        self._first_order = FirstOrder(self._fields, tables) if any(n.startswith(PREFIX) for n in tables) else None

    def vectors(self, rows: EncodedRows) -> dict[str, NDArray[np.float32]]:
        """`x.<field>` float32 (n, width) for every field: a table row, the mean of a list's rows, or the scalar.

        Beside them `first_order` (n, 1), where the backbone has such weights.
        """
        vectors = {f"x.{field.name}": self._vectors(field, rows) for field in self._fields}
        if self._first_order is not None:
            vectors["first_order"] = self._first_order.sums(rows, vectors)
        return vectors

    def own_vectors(self, deltas: Mapping[str, NDArray[Any]], overlay: Overlay | None = None) -> OwnVectors:
        """What one domain changes of the vectors that this lookup gives."""
        return OwnVectors(self._fields, deltas, overlay, self._first_order)

    def _vectors(self, field: Field, rows: EncodedRows) -> NDArray[np.float32]:
        if field.kind == "dense":
            return rows.arrays[field.name].astype(np.float32, copy=False).reshape(-1, 1)
        return _of_table(field, self._tables[field.name], rows)


class OwnVectors:
    """What one domain changes of its rows' vectors: deltas of the tables are added, an id overlay replaces.

    Deltas stay in the form in which they are stored (float16 or float32) and are added where they are looked up: the
    sum of a whole table with its delta would cost each domain a table.

    Args:
        fields: the spec, in manifest order.
        deltas: `embedding.<field>` -> (V, E), added to that table; a field that is not there keeps its own. Likewise
            `first_order.<field>`.
        overlay: None for an adapter without one.
        first_order: the backbone's, which an overlay's replaces; None where it has none.
    """

    def __init__(
        self,
        fields: Iterable[Field],
        deltas: Mapping[str, NDArray[Any]],
        overlay: Overlay | None = None,
        first_order: FirstOrder | None = None,
    ) -> None:
        fields = tuple(fields)
        named = [(field, f"embedding.{field.name}") for field in fields]
        self._deltas = [(field, deltas[name]) for field, name in named if name in deltas]
        self._overlay = overlay
        self._first_order = first_order
        self._more = FirstOrder(fields, deltas) if any(name.startswith(PREFIX) for name in deltas) else None

    def apply(self, vectors: Mapping[str, NDArray[np.float32]], rows: EncodedRows) -> None:
        """Change the vectors of these rows, as `EmbeddingLookup.vectors` gave them, in place."""
        for field, delta in self._deltas:
            vectors[f"x.{field.name}"][:] += _of_table(field, delta, rows)
        if self._more is not None:
            vectors["first_order"][:] += self._more.sums(rows, vectors)
        if self._overlay is not None and rows.overlaid is not None:
            for side, positions in rows.overlaid.items():
                found = self._overlay.sides[side]
                found.replace(vectors[f"x.{found.field}"], positions)
                if found.first_order is not None:
                    own = np.flatnonzero(positions >= 0)
                    stood = self._weights(found.field, rows.arrays[found.field][own])
                    vectors["first_order"][own, 0] += found.first_order[positions[own]] - stood

    def _weights(self, field: str, table_rows: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
        """What these rows of a field's table weigh before an overlay comes, float32 (n,)."""
        weights = np.zeros(len(table_rows), np.float32)
        for part in (self._first_order, self._more):
            if part is not None:
                weights += part.at(field, table_rows)
        return weights


def _of_table(field: Field, table: NDArray[Any], rows: EncodedRows) -> NDArray[np.float32]:
    if field.kind == "multi_hot":
        return _means(table, rows.arrays[f"{field.name}.values"], rows.arrays[f"{field.name}.offsets"])
    return np.asarray(table[rows.arrays[field.name]], np.float32)


def _means(table: NDArray[Any], values: NDArray[np.int32], offsets: NDArray[np.int64]) -> NDArray[np.float32]:
    lengths = np.diff(offsets)
    filled = lengths > 0
    means = np.zeros((len(lengths), table.shape[1]), np.float32)
    if len(values):
        # reduceat misreads an empty list as its successor's first row, so only filled lists are reduced
        sums = np.add.reduceat(table[values].astype(np.float32, copy=False), offsets[:-1][filled], axis=0)
        means[filled] = sums / lengths[filled, None].astype(np.float32)
    return means


def _table(field: Field, tables: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
    name = f"embedding.{field.name}"
    if name not in tables:
        raise MalformedTensors(f"tensor {name} is missing")
    table = tables[name]
    if table.shape != (field.vocabulary_size, field.width) or table.dtype != np.float32:
        raise MalformedTensors(
            f"{name} must be float32 ({field.vocabulary_size}, {field.width}), is {table.dtype} {table.shape}"
        )
    return table
