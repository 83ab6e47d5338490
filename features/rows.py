"""A batch of encoded rows: one array per field."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.errors import MalformedTensors
from features.fields import Field
from features.keys import Tensors, check_offsets
from features.overlay import OverlaidSide

_OFFSETS = ".offsets"
_VALUES = ".values"


@dataclass(frozen=True, slots=True)
class EncodedRows:
    """n encoded rows.

    Args:
        n: number of rows.
        arrays: `<field>` int32 (n,) for sparse and float32 (n,) for dense fields;
            `<field>.values` int32 (total,) and `<field>.offsets` int64 (n+1,) for multi-hot ones.
        overlaid: `user` and `item` -> int64 (n,), positions in the id overlay of the one adapter that scores these
            rows, -1 where it lacks the id; None for an adapter without one.
    """

    n: int
    arrays: dict[str, NDArray[Any]]
    overlaid: Mapping[OverlaidSide, NDArray[np.int64]] | None = None

    def take(self, positions: NDArray[np.integer[Any]]) -> EncodedRows:
        """The rows at `positions`, in that order; none may be negative."""
        arrays: dict[str, NDArray[Any]] = {}
        for name, array in self.arrays.items():
            if name.endswith(_OFFSETS):
                values, offsets = take_lists(self.arrays[_values_of(name)], array, positions)
                arrays[_values_of(name)], arrays[name] = values, offsets
            elif not name.endswith(_VALUES):
                arrays[name] = array[positions]
        if self.overlaid is None:
            return EncodedRows(len(positions), arrays)
        return EncodedRows(len(positions), arrays, {side: found[positions] for side, found in self.overlaid.items()})

    def repeat(self, n: int) -> EncodedRows:
        """This single row n times: one user beside n items."""
        if self.n != 1:
            raise ValueError(f"repeat needs a batch of one row, got {self.n}")
        return self.take(np.zeros(n, np.int64))

    def join(self, other: EncodedRows) -> EncodedRows:
        """The columns of both, side by side."""
        if other.n != self.n:
            raise ValueError(f"cannot join {self.n} rows with {other.n}")
        return EncodedRows(self.n, {**self.arrays, **other.arrays}, self.overlaid)

    @staticmethod
    def concatenate(parts: Sequence[EncodedRows]) -> EncodedRows:
        """The rows of all `parts`, which have the same fields, one after the other.

        What an overlay knows of them is left out: several parts may be of several adapters.
        """
        if len(parts) == 1:
            return parts[0]
        arrays: dict[str, NDArray[Any]] = {}
        for name in parts[0].arrays:
            columns = [part.arrays[name] for part in parts]
            arrays[name] = _concatenate_offsets(columns) if name.endswith(_OFFSETS) else np.concatenate(columns)
        return EncodedRows(sum(part.n for part in parts), arrays)

    def to_tensors(self, prefix: str) -> dict[str, NDArray[Any]]:
        """The arrays as tensors named `<prefix>.<name>`, such as `inputs.age`."""
        return {f"{prefix}.{name}": array for name, array in self.arrays.items()}

    @classmethod
    def from_tensors(cls, tensors: Tensors, prefix: str, fields: Iterable[Field]) -> EncodedRows:
        """Read what `to_tensors` wrote, and check it against the field spec.

        Raises:
            MalformedTensors: a tensor is missing, of a wrong type or length, or a value is out of range.
        """
        arrays: dict[str, NDArray[Any]] = {}
        lengths: dict[str, int] = {}
        for field in fields:
            found = _field_arrays(tensors, prefix, field)
            arrays |= found
            lengths[field.name] = (
                len(found[field.name + _OFFSETS]) - 1 if field.kind == "multi_hot" else len(found[field.name])
            )
        if len(set(lengths.values())) > 1:
            raise MalformedTensors(f"{prefix}.*: fields differ in their number of rows: {lengths}")
        return cls(next(iter(lengths.values()), 0), arrays)


def take_lists(
    values: NDArray[Any], offsets: NDArray[np.int64], positions: NDArray[np.integer[Any]]
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Values and offsets of the lists at `positions`; a negative position gives an empty list."""
    known = np.maximum(positions, 0)
    lengths = np.where(positions < 0, 0, offsets[np.minimum(known + 1, len(offsets) - 1)] - offsets[known])
    taken = np.zeros(len(positions) + 1, np.int64)
    np.cumsum(lengths, out=taken[1:])
    source = np.repeat(offsets[known] - taken[:-1], lengths) + np.arange(taken[-1])
    return values[source], taken


def _concatenate_offsets(parts: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    starts = np.cumsum([0, *(int(part[-1]) for part in parts[:-1])])
    shifted = [part[1:] + start for part, start in zip(parts, starts, strict=True)]
    return np.concatenate([np.zeros(1, np.int64), *shifted])


def _values_of(offsets_name: str) -> str:
    return offsets_name.removesuffix(_OFFSETS) + _VALUES


def _tensor(tensors: Mapping[str, NDArray[Any]], name: str, dtype: type[np.generic]) -> NDArray[Any]:
    if name not in tensors:
        raise MalformedTensors(f"tensor {name} is missing")
    tensor = tensors[name]
    if tensor.dtype != dtype or tensor.ndim != 1:
        raise MalformedTensors(f"{name} must be {np.dtype(dtype)} (n,), is {tensor.dtype} {tensor.shape}")
    return tensor


def _field_arrays(tensors: Tensors, prefix: str, field: Field) -> dict[str, NDArray[Any]]:
    name = f"{prefix}.{field.name}"
    if field.kind == "dense":
        dense = _tensor(tensors, name, np.float32)
        if not bool(np.all(np.isfinite(dense))):
            raise MalformedTensors(f"{name} holds a value that is not finite")
        return {field.name: dense}
    if field.kind == "sparse":
        rows = _tensor(tensors, name, np.int32)
        _check_range(name, rows, field)
        return {field.name: rows}
    values = _tensor(tensors, name + _VALUES, np.int32)
    offsets = _tensor(tensors, name + _OFFSETS, np.int64)
    _check_range(name + _VALUES, values, field)
    check_offsets(name + _OFFSETS, offsets, len(values))
    return {field.name + _VALUES: values, field.name + _OFFSETS: offsets}


def _check_range(name: str, rows: NDArray[np.int32], field: Field) -> None:
    if len(rows) and not (int(rows.min()) >= 0 and int(rows.max()) < field.vocabulary_size):
        raise MalformedTensors(
            f"{name} holds rows {rows.min()} to {rows.max()}; {field.name!r} has {field.vocabulary_size} rows"
        )
