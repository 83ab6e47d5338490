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
FEWEST_BITS, MOST_BITS = 4, 8
"""Of a coded coordinate; a file of fewer could ask for many times its own bytes."""
_INTEGERS = (np.int8, np.int16, np.int32)
_LEAST = 2.0**-24  # what float16 holds
_DIGITS = 11
_CODED_ROWS = 65_536


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


@dataclass(frozen=True, slots=True, eq=False)
class CodedRows:
    """Embeddings as an artifact holds them in a few bits a coordinate: row = start + step * code.

    The step is a power of two and the start a multiple of it, none finer than float16 is there: so a row which stands
    on the grid already is coded without a loss, also beside other rows, unless those ask for a wider step.

    Args:
        codes: (n, bits, ceil(E / 8)) uint8: for each bit, the lowest first, that of all E coordinates, packed.
        start: (E,) float32.
        step: (E,) float32.
    """

    codes: NDArray[np.uint8]
    start: NDArray[np.float32]
    step: NDArray[np.float32]

    @classmethod
    def of(cls, rows: NDArray[np.float32], bits: int) -> CodedRows:
        """Round rows (n, E) to the finest grid of `bits` bits that spans them, a grid for each coordinate.

        Raises:
            InvalidValue: a value is not finite.
        """
        low, high = rows.min(0).astype(np.float64), rows.max(0).astype(np.float64)
        if not np.isfinite(high - low).all():
            raise InvalidValue("a row has a value that is not finite")
        most = 2**bits - 1
        far = np.maximum(np.maximum(np.abs(low), np.abs(high)), _LEAST)
        # no finer than float16 is there, which all of the grid shall be
        power = np.maximum(np.floor(np.log2(np.maximum((high - low) / most, _LEAST))), np.ceil(np.log2(far)) - _DIGITS)
        while (wide := np.rint(high / 2.0**power) - np.rint(low / 2.0**power) > most).any():
            power += wide  # by one or two: the grid's own points can lie wider than the span
        step = 2.0**power
        first = np.rint(low / step)
        codes = (np.rint(rows / step) - first).astype(np.uint8)
        planes = [np.packbits(codes >> bit & 1, axis=1) for bit in range(bits)]
        return cls(np.stack(planes, axis=1), (first * step).astype(np.float32), step.astype(np.float32))

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Its arrays by the last part of their names in an artifact."""
        return {"codes": self.codes, "start": self.start, "step": self.step}

    def rows(self) -> NDArray[np.float16]:
        """The embeddings (n, E); one outside of float16 is infinite."""
        n, bits, _ = self.codes.shape
        width = len(self.start)
        found = np.empty((n, width), np.float16)
        with np.errstate(over="ignore"):
            for first in range(0, n, _CODED_ROWS):  # eight bytes a code while it is unpacked
                part = slice(first, first + _CODED_ROWS)
                code = np.zeros((len(found[part]), width), np.uint8)
                for bit in range(bits):
                    code |= np.unpackbits(self.codes[part, bit], axis=1, count=width) << bit
                found[part] = self.start + self.step * code.astype(np.float32)
        return found


def read_ids(ids: NDArray[Any], offsets: NDArray[Any] | None, name: str) -> RawIndex:
    """Index the ids of an overlay: integers (n,), or UTF-8 bytes uint8 with `offsets` int64 (n+1,).

    The arrays are copied: the index outlives the file that they are views of.

    Args:
        ids: sorted, each once; integers of any signed type.
        offsets: of texts; None for integers.
        name: of the tensor, for messages.

    Raises:
        MalformedTensors: they are of another type, not sorted, or hold a value that no index can.
    """
    if offsets is None:
        if ids.dtype.kind != "i" or ids.ndim != 1:
            raise MalformedTensors(f"{name} must be integers (n,), or uint8 beside offsets, is {ids.dtype} {ids.shape}")
        if not bool(np.all(ids[1:] > ids[:-1])):
            raise MalformedTensors(f"{name} must be strictly increasing")
        return RawIndex.from_values(ids.astype(np.int64)).hashed()  # a copy
    if ids.dtype != np.uint8 or ids.ndim != 1:
        raise MalformedTensors(f"{name} must be uint8 (bytes,) where there are offsets, is {ids.dtype} {ids.shape}")
    check_offsets(name.replace(".ids", ".offsets"), offsets, len(ids))
    try:
        return RawIndex.from_sorted_texts(ids.copy(), offsets.copy())
    except InvalidValue as error:
        raise MalformedTensors(f"{name}: {error}") from None


def id_tensors(index: RawIndex, prefix: str) -> dict[str, NDArray[Any]]:
    """The tensors that `read_ids` reads: `<prefix>.ids`, in the narrowest type, and `<prefix>.offsets` of texts."""
    tensors = index.to_tensors("")
    if ".values" in tensors:
        values = tensors[".values"]  # sorted
        fitting = (one for one in _INTEGERS if len(values) and _holds(one, values[0]) and _holds(one, values[-1]))
        return {f"{prefix}.ids": values.astype(next(fitting, np.int64))}
    return {f"{prefix}.ids": tensors[".bytes"], f"{prefix}.offsets": tensors[".offsets"]}


def _holds(integer: type[np.signedinteger[Any]], value: np.int64) -> bool:
    limits = np.iinfo(integer)
    return bool(limits.min <= value <= limits.max)
