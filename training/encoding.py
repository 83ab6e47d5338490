"""From one raw column to one encoded column, whole columns at a time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from features.errors import InvalidValue
from features.fields import Division, Field, Normalization
from features.index import RawIndex
from features.rows import EncodedRows
from features.tables import FeatureTable
from training.divisions import entity_domains
from training.errors import PreparedError
from training.prepared import FieldSpec

_PADDING = -1


@dataclass(frozen=True)
class Scaling:
    """What a dense column was scaled with.

    Args:
        normalization: the fitted constants; None leaves values as they are.
        missing: the encoded mean over training rows.
    """

    normalization: Normalization | None = None
    missing: float = 0.0


@dataclass(frozen=True)
class Side:
    """Users, items, or the rows themselves, as entities whose columns are encoded once each.

    Args:
        frame: one line per entity.
        index: their raw ids in the frame's order; None where the rows are the entities.
        entity: entity of each of the n rows, int32 (n,).
        rows: rows of each entity, int64 (entities,).
        train_rows: training rows of each entity, int64 (entities,).
    """

    frame: pl.DataFrame
    index: RawIndex | None
    entity: NDArray[np.int32]
    rows: NDArray[np.int64]
    train_rows: NDArray[np.int64]

    @classmethod
    def of_entities(cls, key: str, frame: pl.DataFrame, interactions: pl.DataFrame, train: NDArray[np.int64]) -> Side:
        """The users or items of `frame`, put into the order of their index.

        Args:
            key: user_id or item_id.
            frame: one line per user or item.
            interactions: n rows.
            train: positions of the training rows.
        """
        index = _index(frame[key])
        ordered = frame[np.argsort(positions_of(index, frame[key]))]
        entity = positions_of(index, interactions[key]).astype(np.int32)
        counts = (np.bincount(rows, minlength=len(index)).astype(np.int64) for rows in (entity, entity[train]))
        return cls(ordered, index, entity, *counts)

    @classmethod
    def of_rows(cls, interactions: pl.DataFrame, train: NDArray[np.int64]) -> Side:
        """The rows themselves: for fields of context and domain."""
        n = len(interactions)
        train_rows = np.zeros(n, np.int64)
        train_rows[train] = 1
        return cls(interactions, None, np.arange(n, dtype=np.int32), np.ones(n, np.int64), train_rows)

    def domains(self, division: Division) -> NDArray[np.int32]:
        """Position of each entity's domain in `division`, int32 (entities,); -1 is none."""
        return entity_domains(division, self.frame, self.train_rows)

    def table(
        self,
        fields: Iterable[Field],
        encoded: Mapping[str, NDArray[Any]],
        divisions: Mapping[str, NDArray[np.int32]],
    ) -> FeatureTable:
        """The feature table of this side.

        Args:
            fields: of this side.
            encoded: field name -> encoded column.
            divisions: of this side; name -> domain of each entity.
        """
        fields = tuple(fields)
        arrays: dict[str, NDArray[Any]] = {}
        for field in fields:
            column = encoded[field.name]
            arrays |= unpadded(field.name, column) if field.kind == "multi_hot" else {field.name: column}
        assert self.index is not None  # only users and items have tables
        return FeatureTable(self.index, fields, EncodedRows(len(self.index), arrays), divisions)


def value_index(spec: FieldSpec, side: Side) -> RawIndex:
    """Index the values of a sparse or multi-hot column that occur in some row; by buckets, where the spec says so.

    Raises:
        PreparedError: the column holds neither strings nor integers, or a value that no index can hold.
    """
    column = side.frame[spec.column].filter(pl.Series(side.rows > 0))
    values = _elements(column, spec)[0] if spec.kind == "multi_hot" else column
    if spec.buckets is not None:
        _check_type(values, spec.name)
        return RawIndex.of_buckets(spec.buckets)
    return _index(values, spec)


def encode_sparse(spec: FieldSpec, side: Side, index: RawIndex) -> NDArray[np.int32]:
    """Vocabulary rows of a sparse column, int32 (entities,); 0 where empty or unknown."""
    return (positions_of(index, side.frame[spec.column]) + 1).astype(np.int32)


def encode_lists(spec: FieldSpec, side: Side, index: RawIndex) -> NDArray[np.int32]:
    """Vocabulary rows of a multi-hot column, int32 (entities, L), padded with -1."""
    elements, lengths = _elements(side.frame[spec.column], spec)
    padded = np.full((len(lengths), max(1, int(lengths.max(initial=0)))), _PADDING, np.int32)
    starts = np.cumsum(lengths) - lengths
    column = np.arange(len(elements)) - np.repeat(starts, lengths)
    padded[np.repeat(np.arange(len(lengths)), lengths), column] = positions_of(index, elements) + 1
    return padded


def encode_dense(spec: FieldSpec, side: Side) -> tuple[NDArray[np.float32], Scaling]:
    """A dense column, float32 (entities,), and what it was scaled with, fitted on training rows.

    Raises:
        PreparedError: the column holds no numbers, or an infinite one.
    """
    column = side.frame[spec.column]
    if not column.dtype.is_numeric():
        raise PreparedError(f"dense field {spec.name!r} reads {spec.column!r}, which holds {column.dtype}, not numbers")
    raw = column.cast(pl.Float64).fill_null(float("nan")).to_numpy()
    if np.isinf(raw).any():
        raise PreparedError(
            f"dense field {spec.name!r}: {spec.column!r} holds an infinite value; make it empty instead"
        )
    known = ~np.isnan(raw)
    fitted = known & (side.train_rows > 0)
    normalization = _fit(spec, raw[fitted], side.train_rows[fitted])
    scaled = (raw - normalization.shift) / normalization.scale if normalization else raw
    mean = np.average(scaled[fitted], weights=side.train_rows[fitted]) if fitted.any() else 0.0
    missing = float(np.float32(mean))
    return np.where(known, scaled, missing).astype(np.float32), Scaling(normalization, missing)


def unpadded(name: str, padded: NDArray[np.int32]) -> dict[str, NDArray[Any]]:
    """Lists (n, L) padded with -1, as `<name>.values` and `<name>.offsets`."""
    filled = padded != _PADDING
    offsets = np.concatenate([[0], np.cumsum(filled.sum(axis=1))]).astype(np.int64)
    return {f"{name}.values": padded[filled], f"{name}.offsets": offsets}


def positions_of(index: RawIndex, column: pl.Series) -> NDArray[np.int64]:
    """Position of each value of a column in `index`, int64 (n,); -1 where empty or unknown."""
    # every distinct value is looked up once, and the rows follow by rank
    distinct = column.drop_nulls().unique().sort()
    found: NDArray[np.int64] = np.concatenate([[_PADDING], index.find(_raw(distinct))])
    ranks = column.rank("dense").fill_null(0).to_numpy().astype(np.int64)
    return found.take(ranks)


def _elements(column: pl.Series, spec: FieldSpec) -> tuple[pl.Series, NDArray[np.int64]]:
    """All elements of a list column, one after the other, and the length of each list."""
    if not isinstance(column.dtype, pl.List):
        raise PreparedError(
            f"multi-hot field {spec.name!r} reads {spec.column!r}, which holds {column.dtype}, not lists"
        )
    lists = column.list.drop_nulls()
    lengths = lists.list.len().fill_null(0)
    return lists.filter(lengths > 0).explode(), lengths.to_numpy().astype(np.int64)


def _index(column: pl.Series, spec: FieldSpec | None = None) -> RawIndex:
    name = column.name if spec is None else spec.name
    _check_type(column, name)
    try:
        return RawIndex.from_values(_raw(column.drop_nulls().unique()))
    except InvalidValue as error:
        raise PreparedError(f"{name!r}: {error}") from None


def _check_type(column: pl.Series, name: str) -> None:
    if not (column.dtype.is_integer() or column.dtype == pl.String):
        raise PreparedError(f"{name!r} holds {column.dtype}; ids and sparse values must be strings or integers")


def _raw(values: pl.Series) -> NDArray[Any] | list[str]:
    return values.to_numpy() if values.dtype.is_integer() else values.to_list()


def _fit(spec: FieldSpec, raw: NDArray[np.float64], weights: NDArray[np.int64]) -> Normalization | None:
    if spec.normalization is None:
        return None
    if len(raw) == 0:
        return Normalization(method=spec.normalization, shift=0.0, scale=1.0)
    if spec.normalization == "min_max":
        shift, scale = float(raw.min()), float(raw.max() - raw.min())
    else:
        shift = float(np.average(raw, weights=weights))
        scale = float(np.sqrt(np.average((raw - shift) ** 2, weights=weights)))
    # a constant column carries nothing; it must not divide by zero
    return Normalization(method=spec.normalization, shift=shift, scale=scale if scale > 0 else 1.0)
