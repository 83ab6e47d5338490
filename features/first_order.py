"""First-order sums: one weight for each feature value, of the kinds of backbone that have them (methods.md 1)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.errors import MalformedTensors
from features.fields import Field
from features.rows import EncodedRows

PREFIX = "first_order."
Floats = NDArray[np.float32]


class FirstOrder:
    """The first-order weights of a backbone, or what a domain adds to them.

    A trained field has one weight for each row of its table (the mean over a list's rows); a dense field, or one of
    given vectors, has one for each element of its vector.

    Args:
        fields: the spec; a field without weights adds nothing.
        weights: `first_order.<field>` float32 or float16, (V,) or (width,); other tensors are left alone.

    Raises:
        MalformedTensors: weights are not of their field's shape.
    """

    def __init__(self, fields: Iterable[Field], weights: Mapping[str, NDArray[Any]]) -> None:
        self._fields = tuple(field for field in fields if PREFIX + field.name in weights)
        self._weights = {field.name: _checked(field, weights[PREFIX + field.name]) for field in self._fields}

    def sums(self, rows: EncodedRows, vectors: Mapping[str, Floats]) -> Floats:
        """Sum the weights of each row's values, float32 (n, 1).

        Args:
            rows: n encoded rows.
            vectors: `x.<field>` of the same rows.
        """
        total = np.zeros((rows.n, 1), np.float32)
        for field in self._fields:
            total[:, 0] += self.of_field(field, rows, vectors)
        return total

    def at(self, field: str, table_rows: NDArray[np.integer[Any]]) -> Floats:
        """Weights of these rows of a trained field's table, float32 (n,); zero for a field without weights."""
        weights = self._weights.get(field)
        return np.zeros(len(table_rows), np.float32) if weights is None else np.asarray(weights[table_rows], np.float32)

    def of_field(self, field: Field, rows: EncodedRows, vectors: Mapping[str, Floats]) -> Floats:
        """What one of the fields adds to each row, float32 (n,)."""
        weights = self._weights[field.name]
        if not trained(field):
            return np.asarray(vectors[f"x.{field.name}"] @ weights.astype(np.float32, copy=False), np.float32)
        if field.kind == "sparse":
            return np.asarray(weights[rows.arrays[field.name]], np.float32)
        values, offsets = rows.arrays[f"{field.name}.values"], rows.arrays[f"{field.name}.offsets"]
        sums = np.concatenate([np.zeros(1), np.cumsum(weights[values], dtype=np.float64)])
        lengths = np.diff(offsets)
        return np.asarray((sums[offsets[1:]] - sums[offsets[:-1]]) / np.maximum(lengths, 1), np.float32)


def trained(field: Field) -> bool:
    """Whether a field has a table that training changes."""
    return field.kind != "dense" and not field.frozen


def _checked(field: Field, weights: NDArray[Any]) -> NDArray[Any]:
    shape = (field.vocabulary_size if trained(field) else field.width,)
    if weights.shape != shape or weights.dtype.kind != "f":
        raise MalformedTensors(f"{PREFIX}{field.name} must be float {shape}, is {weights.dtype} {weights.shape}")
    return weights
