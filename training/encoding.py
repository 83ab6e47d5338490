"""From one raw column to one encoded column: of users and items whole, of rows part by part."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from features.errors import InvalidValue
from features.fields import Division, Field, Normalization
from features.index import RawIndex
from features.rows import EncodedRows
from features.tables import FeatureTable
from training.arrays import Arrays, InMemory
from training.divisions import column_of, entity_domains, row_domains
from training.errors import PreparedError
from training.interactions import PART_ROWS, Interactions
from training.prepared import FieldSpec

Floats = NDArray[np.float64]
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


class Columns(Protocol):
    """Entities with columns: users, items, or the rows themselves."""

    @property
    def train_rows(self) -> NDArray[Any]:
        """Training rows of each entity, (entities,)."""
        ...

    def parts(self, column: str) -> Iterator[tuple[int, pl.Series]]:
        """A column part by part, with the position of each part's first entity."""
        ...

    def used(self, column: str) -> Iterator[pl.Series]:
        """Its values of those entities that some row names."""
        ...


@dataclass(frozen=True)
class Side:
    """Users, items, or rows in memory, as entities whose columns are encoded once each.

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
    def of_entities(
        cls,
        key: str,
        frame: pl.DataFrame,
        interactions: Interactions,
        train: NDArray[np.int64],
        arrays: Arrays | None = None,
    ) -> Side:
        """The users or items of `frame`, put into the order of their index.

        Args:
            key: user_id or item_id.
            frame: one line per user or item.
            interactions: n rows.
            train: positions of the training rows.
            arrays: where `entity` lies; in memory by default.
        """
        index = _index(frame[key])
        ordered = frame[np.argsort(positions_of(index, frame[key]))]
        entity = (arrays or InMemory()).new((len(interactions),), np.int32)
        rows, train_rows = np.zeros(len(index), np.int64), np.zeros(len(index), np.int64)
        for start, part in interactions.parts(key):
            found = positions_of(index, part[key])
            entity[start : start + len(part)] = found
            rows += np.bincount(found, minlength=len(index))
        for start in range(0, len(train), PART_ROWS):
            train_rows += np.bincount(entity[train[start : start + PART_ROWS]], minlength=len(index))
        return cls(ordered, index, entity, rows, train_rows)

    @classmethod
    def of_rows(cls, interactions: pl.DataFrame, train: NDArray[np.int64]) -> Side:
        """The rows themselves: for fields of context and domain."""
        n = len(interactions)
        train_rows = np.zeros(n, np.int64)
        train_rows[train] = 1
        return cls(interactions, None, np.arange(n, dtype=np.int32), np.ones(n, np.int64), train_rows)

    def parts(self, column: str) -> Iterator[tuple[int, pl.Series]]:
        """The column as one part; see `Columns`."""
        yield 0, self.frame[column]

    def used(self, column: str) -> Iterator[pl.Series]:
        """Its values of those entities that some row names."""
        yield self.frame[column].filter(pl.Series(self.rows > 0))

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


@dataclass(frozen=True)
class RowColumns:
    """The rows themselves, wherever they are: for fields of context and domain.

    Args:
        interactions: n rows.
        train_rows: 1 for a training row, else 0; int8 (n,).
    """

    interactions: Interactions
    train_rows: NDArray[np.int8]

    @classmethod
    def of(cls, interactions: Interactions, train: NDArray[np.int64], arrays: Arrays) -> RowColumns:
        """Mark the training rows.

        Args:
            interactions: n rows.
            train: positions of the training rows.
            arrays: where the marks lie.
        """
        marked = arrays.new((len(interactions),), np.int8)
        marked[:] = 0
        marked[train] = 1
        return cls(interactions, marked)

    def parts(self, column: str) -> Iterator[tuple[int, pl.Series]]:
        """See `Columns`."""
        for start, part in self.interactions.parts(column):
            yield start, part[column]

    def used(self, column: str) -> Iterator[pl.Series]:
        """All values: every row names itself."""
        for _, part in self.parts(column):
            yield part

    def domains(self, division: Division, arrays: Arrays) -> NDArray[np.int32]:
        """Position of each row's domain in a division of domain or context, int32 (n,); -1 is none."""
        found = arrays.new((len(self.interactions),), np.int32)
        wanted = column_of(division)
        if wanted not in self.interactions.columns:
            return row_domains(division, pl.DataFrame())  # which says so
        for start, part in self.interactions.parts(wanted):
            found[start : start + len(part)] = row_domains(division, part)
        return found


def value_index(spec: FieldSpec, side: Columns) -> RawIndex:
    """Index the values of a sparse or multi-hot column that occur in some row; by buckets, where the spec says so.

    Raises:
        PreparedError: the column holds neither strings nor integers, or a value that no index can hold.
    """
    if spec.buckets is not None:
        for values in _values(spec, side):
            _check_type(values, spec.name)
        return RawIndex.of_buckets(spec.buckets)
    return _index(pl.concat([values.unique() for values in _values(spec, side)]), spec)


def encode_sparse(spec: FieldSpec, side: Columns, index: RawIndex, arrays: Arrays) -> NDArray[np.int32]:
    """Vocabulary rows of a sparse column, int32 (entities,); 0 where empty or unknown."""
    found = arrays.new((len(side.train_rows),), np.int32)
    for start, part in side.parts(spec.column):
        found[start : start + len(part)] = positions_of(index, part) + 1
    return found


def encode_lists(spec: FieldSpec, side: Columns, index: RawIndex, arrays: Arrays) -> NDArray[np.int32]:
    """Vocabulary rows of a multi-hot column, int32 (entities, L), padded with -1."""
    longest = max((int(_elements(part, spec)[1].max(initial=0)) for _, part in side.parts(spec.column)), default=0)
    padded = arrays.new((len(side.train_rows), max(1, longest)), np.int32)
    padded[:] = _PADDING
    for start, part in side.parts(spec.column):
        elements, lengths = _elements(part, spec)
        starts = np.cumsum(lengths) - lengths
        column = np.arange(len(elements)) - np.repeat(starts, lengths)
        padded[np.repeat(np.arange(start, start + len(lengths)), lengths), column] = positions_of(index, elements) + 1
    return padded


def encode_dense(spec: FieldSpec, side: Columns, arrays: Arrays) -> tuple[NDArray[np.float32], Scaling]:
    """A dense column, float32 (entities,), and what it was scaled with, fitted on training rows.

    Raises:
        PreparedError: the column holds no numbers, or an infinite one.
    """
    normalization = _fit(spec, side)

    def scaled(raw: Floats) -> Floats:
        return (raw - normalization.shift) / normalization.scale if normalization else raw

    total, weight = 0.0, 0.0
    for values, rows in _fitted(spec, side):
        total += float((scaled(values) * rows).sum())
        weight += float(rows.sum())
    missing = float(np.float32(total / weight)) if weight else 0.0
    found = arrays.new((len(side.train_rows),), np.float32)
    for start, raw in _numbers(spec, side):
        found[start : start + len(raw)] = np.where(np.isnan(raw), missing, scaled(raw))
    return found, Scaling(normalization, missing)


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


def _values(spec: FieldSpec, side: Columns) -> Iterator[pl.Series]:
    """What a sparse or multi-hot column holds in some row, part by part."""
    for column in side.used(spec.column):
        yield _elements(column, spec)[0] if spec.kind == "multi_hot" else column


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


def _numbers(spec: FieldSpec, side: Columns) -> Iterator[tuple[int, Floats]]:
    """A dense column part by part, NaN where it is empty."""
    for start, column in side.parts(spec.column):
        if not column.dtype.is_numeric():
            raise PreparedError(
                f"dense field {spec.name!r} reads {spec.column!r}, which holds {column.dtype}, not numbers"
            )
        raw = column.cast(pl.Float64).fill_null(float("nan")).to_numpy()
        if np.isinf(raw).any():
            raise PreparedError(
                f"dense field {spec.name!r}: {spec.column!r} holds an infinite value; make it empty instead"
            )
        yield start, raw


def _fitted(spec: FieldSpec, side: Columns) -> Iterator[tuple[Floats, Floats]]:
    """What constants are fitted on: known values of training entities, and how many training rows each has."""
    for start, raw in _numbers(spec, side):
        rows = side.train_rows[start : start + len(raw)]
        chosen = ~np.isnan(raw) & (rows > 0)
        yield raw[chosen], rows[chosen].astype(np.float64)


def _fit(spec: FieldSpec, side: Columns) -> Normalization | None:
    if spec.normalization is None:
        return None
    low, high, total, weight = math.inf, -math.inf, 0.0, 0.0
    for values, rows in _fitted(spec, side):
        low, high = float(values.min(initial=low)), float(values.max(initial=high))
        total += float((values * rows).sum())
        weight += float(rows.sum())
    if not weight:
        return Normalization(method=spec.normalization, shift=0.0, scale=1.0)
    if spec.normalization == "min_max":
        shift, scale = low, high - low
    else:
        shift = total / weight
        squares = sum(float(((values - shift) ** 2 * rows).sum()) for values, rows in _fitted(spec, side))
        scale = math.sqrt(squares / weight)
    # a constant column carries nothing; it must not divide by zero
    return Normalization(method=spec.normalization, shift=shift, scale=scale if scale > 0 else 1.0)
