"""Given vectors: what a frozen field brings along instead of a trained table, such as embeddings of pictures."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from training.encoding import Side
from training.errors import PreparedError
from training.prepared import FieldSpec


def given_vectors(spec: FieldSpec, side: Side, rows: NDArray[np.int32], size: int) -> NDArray[np.float32]:
    """Lay a column of vectors out by vocabulary row.

    Args:
        spec: of a field whose `vectors` names the column.
        side: users or items.
        rows: int32 (entities,), each entity's vocabulary row of the field.
        size: V, rows of the table, row 0 included.

    Returns:
        (V, width); row 0, for what is unknown, is the mean over the training rows (methods.md 1).

    Raises:
        PreparedError: the column holds no lists of numbers of one length, or two vectors of one value.
    """
    vectors = _matrix(spec, side.frame[spec.vectors or ""])
    known = rows > 0
    table = np.zeros((size, vectors.shape[1]), np.float32)
    table[rows[known]] = vectors[known]
    if not np.array_equal(table[rows[known]], vectors[known]):
        raise PreparedError(f"field {spec.name!r}: column {spec.vectors!r} holds different vectors of one value")
    seen = known & (side.train_rows > 0)
    if seen.any():
        table[0] = np.average(vectors[seen].astype(np.float64), axis=0, weights=side.train_rows[seen])
    return table


def _matrix(spec: FieldSpec, column: pl.Series) -> NDArray[np.float32]:
    """A column of lists as one array (entities, width)."""
    if not isinstance(column.dtype, pl.List | pl.Array) or column.null_count():
        raise PreparedError(
            f"field {spec.name!r}: column {spec.vectors!r} holds {column.dtype} with {column.null_count()} empty; "
            "given vectors are a list of numbers in every line"
        )
    lists = column.cast(pl.List(pl.Float32))
    widths = lists.list.len().unique()
    if len(widths) != 1 or not widths[0]:
        raise PreparedError(
            f"field {spec.name!r}: vectors of column {spec.vectors!r} differ in length: {widths.to_list()}"
        )
    matrix = lists.explode().to_numpy().reshape(len(column), int(widths[0])).astype(np.float32)
    if not np.isfinite(matrix).all():
        raise PreparedError(f"field {spec.name!r}: column {spec.vectors!r} holds a value that is not finite")
    return matrix
