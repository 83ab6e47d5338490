"""The step from encoded rows to the vectors that enter the network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.errors import MalformedTensors
from features.fields import Field
from features.rows import EncodedRows


class EmbeddingLookup:
    """Embedding tables of one backbone.

    This is the one place where rows become vectors, and so the one where id overlays will act.

    Args:
        fields: the spec, in manifest order.
        tables: `embedding.<field>` float32 (V, E), for every sparse and multi-hot field.

    Raises:
        MalformedTensors: a table is missing or its shape is not the field's.
    """

    def __init__(self, fields: Iterable[Field], tables: Mapping[str, NDArray[Any]]) -> None:
        self._fields = tuple(fields)
        self._tables = {field.name: _table(field, tables) for field in self._fields if field.kind != "dense"}

    def vectors(self, rows: EncodedRows) -> dict[str, NDArray[np.float32]]:
        """`x.<field>` float32 (n, width) for every field: a table row, the mean of a list's rows, or the scalar."""
        return {f"x.{field.name}": self._vectors(field, rows) for field in self._fields}

    def _vectors(self, field: Field, rows: EncodedRows) -> NDArray[np.float32]:
        if field.kind == "dense":
            return rows.arrays[field.name].astype(np.float32, copy=False).reshape(-1, 1)
        table = self._tables[field.name]
        if field.kind == "multi_hot":
            return _means(table, rows.arrays[f"{field.name}.values"], rows.arrays[f"{field.name}.offsets"])
        return np.asarray(table[rows.arrays[field.name]], np.float32)


def _means(table: NDArray[np.float32], values: NDArray[np.int32], offsets: NDArray[np.int64]) -> NDArray[np.float32]:
    lengths = np.diff(offsets)
    filled = lengths > 0
    means = np.zeros((len(lengths), table.shape[1]), np.float32)
    if len(values):
        # reduceat misreads an empty list as its successor's first row, so only filled lists are reduced
        sums = np.add.reduceat(table[values], offsets[:-1][filled], axis=0)
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
