"""Feature tables by id: what is known of every user, or of every item."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.errors import MalformedTensors
from features.fields import Division, Field
from features.index import RawIndex
from features.keys import Tensors
from features.question import Ids, Question
from features.rows import EncodedRows, take_lists


class FeatureTable:
    """Encoded features and division domains of one side, found by raw id.

    Args:
        index: the raw ids; position i is row i of every column.
        fields: the fields of this side.
        columns: one encoded row per id.
        divisions: division name -> int32 (n,), position in the division's domains, -1 = none.
    """

    def __init__(
        self,
        index: RawIndex,
        fields: Iterable[Field],
        columns: EncodedRows,
        divisions: Mapping[str, NDArray[np.int32]],
    ) -> None:
        self.index = index
        self._fields = tuple(fields)
        self._columns = columns
        self._divisions = dict(divisions)
        self._empty = len(index) == 0

    def __len__(self) -> int:
        return len(self.index)

    @property
    def columns(self) -> EncodedRows:
        """One encoded row per id, in the order of the index."""
        return self._columns

    @property
    def divisions(self) -> Mapping[str, NDArray[np.int32]]:
        """Division name -> position of each row's domain, -1 = none."""
        return self._divisions

    def find(self, ids: Ids | Question) -> NDArray[np.int64]:
        """Positions of raw `ids`, -1 where unknown; int64 (n,)."""
        return self.index.find(ids)

    def gather(self, positions: NDArray[np.int64]) -> EncodedRows:
        """The encoded rows at `positions`; -1 gives row 0, the field's `missing`, or an empty list."""
        unknown = positions < 0
        arrays: dict[str, NDArray[Any]] = {}
        for field in self._fields:
            if field.kind == "multi_hot":
                values, offsets = f"{field.name}.values", f"{field.name}.offsets"
                arrays[values], arrays[offsets] = take_lists(
                    self._columns.arrays[values], self._columns.arrays[offsets], positions
                )
            else:
                fallback = field.missing if field.kind == "dense" else 0
                arrays[field.name] = self._pick(self._columns.arrays[field.name], positions, unknown, fallback)
        return EncodedRows(len(positions), arrays)

    def division(self, name: str, positions: NDArray[np.int64]) -> NDArray[np.int32]:
        """Position of each row's domain in the division's domains; int32 (n,), -1 = none."""
        return self._pick(self._divisions[name], positions, positions < 0, -1)

    def _pick(
        self, column: NDArray[Any], positions: NDArray[np.int64], unknown: NDArray[np.bool_], fallback: float
    ) -> NDArray[Any]:
        if self._empty:
            return np.full(len(positions), fallback, column.dtype)
        # -1 reads the last row, which is then overwritten: cheaper than masking the positions
        picked = column.take(positions)
        if bool(unknown.any()):
            picked[unknown] = fallback
        return picked

    def tensors(self) -> dict[str, NDArray[Any]]:
        """The tensors of `users.safetensors` or `items.safetensors`."""
        divisions = {f"division.{name}": domains for name, domains in self._divisions.items()}
        return self.index.hashed().to_tensors("index") | self._columns.to_tensors("column") | divisions

    @classmethod
    def from_tensors(cls, tensors: Tensors, fields: Iterable[Field], divisions: Iterable[Division]) -> FeatureTable:
        """Read a table; columns stay views of the file.

        Args:
            tensors: all tensors of the file.
            fields: the fields of this side only.
            divisions: the divisions of this side only.

        Raises:
            MalformedTensors: a column is missing, of a wrong type or length, or a value is out of range.
        """
        fields = tuple(fields)
        index = RawIndex.from_tensors(tensors, "index")
        columns = EncodedRows.from_tensors(tensors, "column", fields)
        if fields and columns.n != len(index):
            raise MalformedTensors(f"columns have {columns.n} rows, the index has {len(index)}")
        named = {division.name: division_column(tensors, division, len(index)) for division in divisions}
        return cls(index, fields, columns, named)


def division_column(tensors: Tensors, division: Division, n: int) -> NDArray[np.int32]:
    """Read `division.<name>`, int32 (n,), as a view; raises MalformedTensors."""
    name = f"division.{division.name}"
    if name not in tensors:
        raise MalformedTensors(f"tensor {name} is missing")
    column = tensors[name]
    if column.dtype != np.int32 or column.shape != (n,):
        raise MalformedTensors(f"{name} must be int32 ({n},), is {column.dtype} {column.shape}")
    if n and not (int(column.min()) >= -1 and int(column.max()) < len(division.domains)):
        raise MalformedTensors(f"{name} must lie in [-1, {len(division.domains)})")
    return column
