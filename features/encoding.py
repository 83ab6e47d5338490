"""From raw columns to encoded ones, as training does it: by the backbone's vocabulary and its fitted constants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.errors import InvalidValue
from features.fields import Division, Field
from features.index import RawIndex
from features.question import Ids
from features.rows import EncodedRows


@dataclass(frozen=True, slots=True, eq=False)
class RawColumn:
    """Raw values of n rows, or of all elements of n lists, each distinct one once.

    Args:
        values: what occurs.
        places: which of `values` each is, int64 (n,); -1 is missing.
    """

    values: Ids
    places: NDArray[np.int64]


def encode_sparse(index: RawIndex, column: RawColumn) -> tuple[NDArray[np.int32], int]:
    """Encode raw values by a vocabulary.

    Args:
        index: of the field.
        column: n values.

    Returns:
        Table rows, int32 (n,), 0 where missing or unknown; and how many are unknown.
    """
    found = np.concatenate([index.find(column.values) + 1, np.zeros(1, np.int64)]).astype(np.int32)
    rows = found[column.places]  # -1 reads the zero behind the last
    return rows, int(np.count_nonzero((rows == 0) & (column.places >= 0)))


def encode_dense(field: Field, raw: NDArray[np.float64]) -> NDArray[np.float32]:
    """Scale raw numbers, float32 (n,); NaN is missing.

    Raises:
        InvalidValue: a value is infinite, or does not fit 32 bits once scaled.
    """
    scaled = raw
    if field.normalization is not None:
        scaled = (raw - field.normalization.shift) / field.normalization.scale
    too_large = np.flatnonzero(np.abs(scaled) > np.finfo(np.float32).max)
    if len(too_large):
        raise InvalidValue(f"dense field {field.name!r} holds {raw[too_large[0]]}, which is not finite in 32 bits")
    return np.where(np.isnan(raw), field.missing, scaled).astype(np.float32)


def encode_domains(division: Division, column: RawColumn) -> NDArray[np.int32]:
    """Positions of domain ids in a division, int32 (n,); -1 where missing.

    Raises:
        InvalidValue: a value is no domain of the division.
    """
    places = {domain: place for place, domain in enumerate(division.domains)}
    values = [str(value) for value in column.values]
    stranger = next((value for value in values if value not in places), None)
    if stranger is not None:
        raise InvalidValue(
            f"division.{division.name} holds {stranger!r}, which is none of its domains: {', '.join(division.domains)}"
        )
    return np.array([*(places[value] for value in values), -1], np.int32)[column.places]


def domains_by_value(division: Division, column: RawColumn) -> NDArray[np.int32]:
    """Domains of a division whose rule is "value", `<division>-<value>`; int32 (n,), -1 = none.

    Args:
        division: its rule is "value".
        column: of the field that it reads.
    """
    places = {domain: place for place, domain in enumerate(division.domains)}
    found = [places.get(f"{division.name}-{value}", -1) for value in column.values]
    return np.array([*found, -1], np.int32)[column.places]


class SideEncoder:
    """Encodes one side batch by batch, and counts what the vocabulary does not have.

    Args:
        fields: of the side.
        indices: field name -> its vocabulary, of sparse and multi-hot fields.
    """

    def __init__(self, fields: tuple[Field, ...], indices: dict[str, RawIndex]) -> None:
        self._fields = fields
        self._indices = {name: index.hashed() for name, index in indices.items()}
        self._batches: list[EncodedRows] = []
        self.unknown = {field.name: 0 for field in fields if field.kind != "dense"}

    def add(
        self,
        n: int,
        columns: dict[str, RawColumn],
        offsets: dict[str, NDArray[np.int64]],
        dense: dict[str, NDArray[np.float64]],
    ) -> None:
        """Encode n rows more.

        Args:
            n: how many.
            columns: of each sparse field the values, of each multi-hot one the elements of its lists.
            offsets: of each multi-hot field where its lists begin and the last one ends, int64 (n+1,).
            dense: of each dense field the raw numbers, float64 (n,), NaN where missing.

        Raises:
            InvalidValue: a dense value is not finite.
        """
        arrays: dict[str, NDArray[Any]] = {}
        for field in self._fields:
            if field.kind == "dense":
                arrays[field.name] = encode_dense(field, dense[field.name])
                continue
            rows, unknown = encode_sparse(self._indices[field.name], columns[field.name])
            self.unknown[field.name] += unknown
            if field.kind == "sparse":
                arrays[field.name] = rows
            else:
                arrays |= {f"{field.name}.values": rows, f"{field.name}.offsets": offsets[field.name]}
        self._batches.append(EncodedRows(n, arrays))

    def encoded(self) -> EncodedRows:
        """All rows so far."""
        empty = {
            name: np.zeros(0, np.float32 if field.kind == "dense" else np.int32)
            for field in self._fields
            for name in [f"{field.name}.values" if field.kind == "multi_hot" else field.name]
        } | {f"{field.name}.offsets": np.zeros(1, np.int64) for field in self._fields if field.kind == "multi_hot"}
        return EncodedRows.concatenate([EncodedRows(0, empty), *self._batches])
