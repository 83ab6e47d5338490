"""The encoded data set: all rows as arrays, beside the vocabulary and tables that the bundle carries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as default
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from features.fields import Division, Field
from features.index import RawIndex
from features.rows import EncodedRows
from features.tables import FeatureTable
from features.vocabulary import Vocabulary
from training.arrays import Arrays, InMemory
from training.encoding import RowColumns, Side, encode_dense, encode_lists, encode_sparse, unpadded, value_index
from training.given import given_vectors
from training.interactions import PART_ROWS
from training.prepared import PARTS, SPLIT, FieldSpec, Prepared

_SPLIT_STREAM, _HALVES_STREAM = 8_1_1, 5_5
"""Second word of the seeds of the split and of the halves, so that no other consumer of the seed has their streams."""


@dataclass(frozen=True)
class Split:
    """Row positions by what they serve; disjoint, together all rows.

    Args:
        train: what weights are fitted on.
        stop: early stopping, search, strength and calibration.
        gate: the publish gate alone.
        test: what is reported.
    """

    train: NDArray[np.int64]
    stop: NDArray[np.int64]
    gate: NDArray[np.int64]
    test: NDArray[np.int64]


def split_rows(n: int, seed: int) -> Split:
    """Split n rows at random 8:1:1 and halve the validation tenth (methods.md 5).

    Args:
        n: number of rows.
        seed: the run's; it alone decides the split, so all methods of a run share it.

    Returns:
        Sorted positions of each part.
    """
    order = np.random.default_rng([seed, _SPLIT_STREAM]).permutation(n)
    tenth = n // 10
    test, validation, train = np.split(order, [tenth, 2 * tenth])
    stop, gate = np.array_split(validation, 2)
    return Split(*(np.sort(part).astype(np.int64) for part in (train, stop, gate, test)))


def split_of(prepared: Prepared, seed: int) -> Split:
    """The split that the data comes with, its validation rows halved; else 8:1:1 at random.

    The halves are drawn so that in every domain and for both labels they differ by one row at most.

    Args:
        prepared: n rows.
        seed: the run's; where the data gives the split it decides the halves alone.

    Returns:
        Sorted positions of each part.
    """
    rows = prepared.rows
    if SPLIT not in rows.columns:
        return split_rows(len(rows), seed)
    found: dict[str, list[NDArray[np.int64]]] = {name: [np.empty(0, np.int64)] for name in PARTS}
    judged = []
    for start, frame in rows.parts(SPLIT, "domain_id", "label"):
        part = frame[SPLIT].cast(pl.String)
        for name, positions in found.items():
            positions.append(start + np.flatnonzero((part == name).to_numpy()))
        judged.append(frame.filter(part == "validation").drop(SPLIT))
    train, validation, test = (np.concatenate(positions) for positions in found.values())
    stop, gate = _halves(pl.concat(judged), validation, seed)
    return Split(train, np.sort(stop), np.sort(gate), test)


def _halves(rows: pl.DataFrame, positions: NDArray[np.int64], seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Deal shuffled rows out in turn, one domain and label after the other."""
    shuffled = np.random.default_rng([seed, _HALVES_STREAM]).permutation(len(positions))
    group = rows.select(pl.struct(pl.col("domain_id"), pl.col("label")).rank("dense")).to_series().to_numpy()
    order = shuffled[np.argsort(group[shuffled], kind="stable")]
    return positions[order[::2]], positions[order[1::2]]


@dataclass(frozen=True)
class EncodedDataset:
    """n encoded rows, with Fs sparse and Fd dense fields.

    Args:
        fields: in spec order.
        divisions: in spec order.
        vocabulary: of all sparse and multi-hot fields.
        users, items: the feature tables of the bundle.
        sparse: int32 (n, Fs), in the order of the sparse fields.
        dense: float32 (n, Fd), in the order of the dense fields.
        multi_hot: field -> lists int32 (entities, L), padded with -1, and the entity of each row, int32 (n,).
        label: float32 (n,), 0 or 1.
        division: name -> position in its domains, int32 (n,); -1 is none.
        user: position in `users`, int32 (n,); what GAUC groups by.
        probability: true probability of label 1, float64 (n,), where the data is synthetic.
        given: frozen field to its vectors (V, width), row 0 for what is unknown.
    """

    fields: tuple[Field, ...]
    divisions: tuple[Division, ...]
    vocabulary: Vocabulary
    users: FeatureTable
    items: FeatureTable
    sparse: NDArray[np.int32]
    dense: NDArray[np.float32]
    multi_hot: Mapping[str, tuple[NDArray[np.int32], NDArray[np.int32]]]
    label: NDArray[np.float32]
    division: Mapping[str, NDArray[np.int32]]
    user: NDArray[np.int32]
    probability: NDArray[np.float64] | None
    given: Mapping[str, NDArray[np.float32]] = default(default_factory=dict)

    def rows(self, positions: NDArray[np.int64]) -> EncodedRows:
        """The rows at `positions`, as the service would encode them."""
        arrays: dict[str, NDArray[Any]] = {}
        columns = {"sparse": iter(self.sparse.T), "dense": iter(self.dense.T)}
        for field in self.fields:
            if field.kind == "multi_hot":
                padded, entity = self.multi_hot[field.name]
                arrays |= unpadded(field.name, padded[entity[positions]])
            else:
                arrays[field.name] = next(columns[field.kind])[positions]
        return EncodedRows(len(positions), arrays)


def encode(prepared: Prepared, train: NDArray[np.int64], width: int, arrays: Arrays | None = None) -> EncodedDataset:
    """Encode every row of a prepared data set.

    The vocabulary holds every value that some row has. What is fitted (normalization, missing values, rules that
    count) is fitted on the training rows alone.

    Args:
        prepared: n rows.
        train: positions of the training rows.
        width: embedding width E of sparse and multi-hot fields.
        arrays: where the encoded rows are laid out; in memory by default. It changes none of them.

    Returns:
        The encoded rows.

    Raises:
        PreparedError: a column has a type that its field cannot take, a division's rule cannot be applied, or there is
            no room for the rows.
    """
    return _Encoder(prepared, train, arrays or InMemory()).encoded(width)


class _Encoder:
    """Encodes each column once per user, item or row, then spreads the columns over the rows, part by part."""

    def __init__(self, prepared: Prepared, train: NDArray[np.int64], arrays: Arrays) -> None:
        self._spec = prepared.spec
        self._interactions = prepared.rows
        self._arrays = arrays
        self._sides = {
            "user": Side.of_entities("user_id", prepared.users, prepared.rows, train, arrays),
            "item": Side.of_entities("item_id", prepared.items, prepared.rows, train, arrays),
        }
        self._rows = RowColumns.of(prepared.rows, train, arrays)
        self._columns: dict[str, NDArray[Any]] = {}
        self._indices: dict[str, RawIndex] = {}
        self._given: dict[str, NDArray[np.float32]] = {}

    def encoded(self, width: int) -> EncodedDataset:
        fields = tuple(self._field(spec, width) for spec in self._spec.fields)
        has_probability = "probability" in self._interactions.columns
        return EncodedDataset(
            fields=fields,
            divisions=self._spec.divisions,
            vocabulary=Vocabulary(self._indices),
            users=self._table("user", fields),
            items=self._table("item", fields),
            sparse=self._stacked([field for field in fields if field.kind == "sparse"], np.int32),
            dense=self._stacked([field for field in fields if field.kind == "dense"], np.float32),
            multi_hot={
                field.name: (self._columns[field.name], self._entity(field.of))
                for field in fields
                if field.kind == "multi_hot"
            },
            label=self._copied("label", np.float32),
            division={division.name: self._domains(division) for division in self._spec.divisions},
            user=self._sides["user"].entity,
            probability=self._copied("probability", np.float64) if has_probability else None,
            given=self._given,
        )

    def _field(self, spec: FieldSpec, width: int) -> Field:
        """Encode one column and describe it."""
        side: Side | RowColumns = self._sides.get(spec.of, self._rows)
        # of users and items there is one column each; what has as many entries as rows lies with the rows
        arrays = self._arrays if side is self._rows else InMemory()
        common: dict[str, Any] = {"name": spec.name, "kind": spec.kind, "of": spec.of, "id": spec.id}
        if spec.kind == "dense":
            self._columns[spec.name], scaling = encode_dense(spec, side, arrays)
            return Field(**common, normalization=scaling.normalization, missing=scaling.missing)
        index = self._indices[spec.name] = value_index(spec, side)
        encode_rows = encode_lists if spec.kind == "multi_hot" else encode_sparse
        self._columns[spec.name] = encode_rows(spec, side, index, arrays)
        if spec.vectors is None:
            return Field(**common, vocabulary_size=len(index) + 1, width=width)
        assert isinstance(side, Side)  # the spec says so
        given = self._given[spec.name] = given_vectors(spec, side, self._columns[spec.name], len(index) + 1)
        return Field(**common, vocabulary_size=len(index) + 1, width=given.shape[1], frozen=True)

    def _table(self, of: str, fields: tuple[Field, ...]) -> FeatureTable:
        side = self._sides[of]
        divisions = {division.name: side.domains(division) for division in self._spec.divisions if division.of == of}
        return side.table((field for field in fields if field.of == of), self._columns, divisions)

    def _entity(self, of: str) -> NDArray[np.int32]:
        """The entity of each row, int32 (n,)."""
        return self._sides[of].entity if of in self._sides else self._own_entity

    @cached_property
    def _own_entity(self) -> NDArray[np.int32]:
        """Each row's own place, int32 (n,)."""
        found = self._arrays.new((len(self._interactions),), np.int32)
        for part in self._slices():
            found[part] = np.arange(part.start, part.stop, dtype=np.int32)
        return found

    def _domains(self, division: Division) -> NDArray[np.int32]:
        side = self._sides.get(division.of)
        if side is None:
            return self._rows.domains(division, self._arrays)
        found, domains = self._arrays.new((len(self._interactions),), np.int32), side.domains(division)
        for part in self._slices():
            found[part] = domains[side.entity[part]]
        return found

    def _copied(self, column: str, dtype: type[Any]) -> NDArray[Any]:
        """A column of numbers as it is."""
        found = self._arrays.new((len(self._interactions),), dtype)
        for start, part in self._interactions.parts(column):
            found[start : start + len(part)] = part[column].to_numpy()
        return found

    def _stacked(self, fields: Sequence[Field], dtype: type[Any]) -> NDArray[Any]:
        stacked = self._arrays.new((len(self._interactions), len(fields)), dtype)
        for part in self._slices():
            for place, field in enumerate(fields):
                column, side = self._columns[field.name], self._sides.get(field.of)
                stacked[part, place] = column[part] if side is None else column[side.entity[part]]
        return stacked

    def _slices(self) -> Iterator[slice]:
        n = len(self._interactions)
        return (slice(start, min(start + PART_ROWS, n)) for start in range(0, n, PART_ROWS))
