"""Id overlays: the embeddings that one domain has of raw ids, whether or not the backbone's vocabulary knows them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from features.errors import InvalidValue, MalformedTensors
from features.index import RawIndex
from features.keys import check_offsets
from features.question import Ids, Question

OverlaidSide = Literal["user", "item"]
OVERLAID_SIDES: tuple[OverlaidSide, ...] = ("user", "item")
Positions = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class IdOverlay:
    """The embeddings of one side's ids.

    Args:
        field: the id field whose vectors they replace.
        index: the raw ids; position i has row i.
        rows: (n, E) float16 or float32, as stored.
        first_order: (n,) likewise, where the backbone has first-order weights.
    """

    field: str
    index: RawIndex
    rows: NDArray[Any]
    first_order: NDArray[Any] | None = None

    @property
    def nbytes(self) -> int:
        """Memory of rows, weights and index, bytes."""
        weights = 0 if self.first_order is None else self.first_order.nbytes
        return self.rows.nbytes + weights + self.index.nbytes

    def replace(self, vectors: NDArray[np.float32], positions: Positions) -> None:
        """Write the rows at `positions` over the id field's `vectors` (n, E), in place; -1 leaves a vector as it is."""
        known = np.flatnonzero(positions >= 0)
        if len(known):
            vectors[known] = self.rows[positions[known]]


@dataclass(frozen=True, slots=True, eq=False)
class Overlay:
    """The id overlay of one adapter.

    Args:
        sides: side to its ids and their embeddings; a side without any is not there.
    """

    sides: Mapping[OverlaidSide, IdOverlay]

    @property
    def nbytes(self) -> int:
        """Memory of all sides, bytes."""
        return sum(side.nbytes for side in self.sides.values())

    def find(self, side: OverlaidSide, ids: Ids | Question) -> Positions | None:
        """Positions of raw `ids` in a side's rows, -1 where it does not have them; None where there is no such side."""
        overlaid = self.sides.get(side)
        return None if overlaid is None else overlaid.index.find(ids)


def read_ids(ids: NDArray[Any], offsets: NDArray[Any] | None, name: str) -> RawIndex:
    """Index the ids of an overlay: int64 (n,), or UTF-8 bytes uint8 with `offsets` int64 (n+1,).

    The arrays are copied: the index outlives the file that they are views of.

    Args:
        ids: sorted, each once.
        offsets: of texts; None for integers.
        name: of the tensor, for messages.

    Raises:
        MalformedTensors: they are of another type, not sorted, or hold a value that no index can.
    """
    if offsets is None:
        if ids.dtype != np.int64 or ids.ndim != 1:
            raise MalformedTensors(f"{name} must be int64 (n,), or uint8 beside offsets, is {ids.dtype} {ids.shape}")
        if not bool(np.all(ids[1:] > ids[:-1])):
            raise MalformedTensors(f"{name} must be strictly increasing")
        return RawIndex.from_values(ids.copy()).hashed()
    if ids.dtype != np.uint8 or ids.ndim != 1:
        raise MalformedTensors(f"{name} must be uint8 (bytes,) where there are offsets, is {ids.dtype} {ids.shape}")
    check_offsets(name.replace(".ids", ".offsets"), offsets, len(ids))
    try:
        return RawIndex.from_sorted_texts(ids.copy(), offsets.copy())
    except InvalidValue as error:
        raise MalformedTensors(f"{name}: {error}") from None


def id_tensors(index: RawIndex, prefix: str) -> dict[str, NDArray[Any]]:
    """The tensors that `read_ids` reads: `<prefix>.ids`, and `<prefix>.offsets` of texts."""
    tensors = index.to_tensors("")
    if ".values" in tensors:
        return {f"{prefix}.ids": tensors[".values"]}
    return {f"{prefix}.ids": tensors[".bytes"], f"{prefix}.offsets": tensors[".offsets"]}
