"""Rows of a batch as one array of integers that is copied to the device: tiles, codes, counts, and what these point at.

    tiles   (T, 3)  first row, number of rows, slot; rows of a tile have one slot, and rows = 0 fills up to a bucket
    codes   (F, N)  one a field and row: the table's row; a number's bits; where a list begins in the tail;
                    or, of an id that an overlay has, -1 - where its vector begins in the tail
    counts  (L, N)  lengths of lists, one row for each field of lists
    tail    (any)   rows of lists, then the bits of overlays' vectors

N is T tiles full of rows, so that each part begins at the same place for every batch of a bucket.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.fields import Field
from features.overlay import Overlay
from features.rows import EncodedRows
from service.errors import EngineFailed

TILE = 32
"""Rows of a tile."""
SPARSE, NUMBER, LISTS, PADDING = 0, 1, 2, 3
ALIGNED = 16
"""Inputs of the first layer are filled with zeros to a multiple of this, so that loads are whole."""
Ints = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the parts of a bucket's batches begin, each at a multiple of four integers.

    Args:
        tiles: T.
        fields: F.
        lists: L.
    """

    tiles: int
    fields: int
    lists: int

    @property
    def rows(self) -> int:
        """N."""
        return self.tiles * TILE

    @property
    def codes(self) -> int:
        return -(-3 * self.tiles // 4) * 4

    @property
    def counts(self) -> int:
        return self.codes + self.fields * self.rows

    @property
    def tail(self) -> int:
        return self.counts + self.lists * self.rows


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Rows that one slot scores.

    Args:
        rows: encoded.
        slot: of the pool.
        overlay: of the adapter; None for most.
    """

    rows: EncodedRows
    slot: int
    overlay: Overlay | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Rows ready to be sent; parts of one slot stand side by side.

    Args:
        n: rows.
        tiles: (t, 3).
        codes: (F, n).
        counts: (L, n).
        tail: see above.
    """

    n: int
    tiles: Ints
    codes: Ints
    counts: Ints
    tail: Ints

    def write(self, sent: Ints, layout: Layout) -> int:
        """Write it as a bucket lays it out; returns how many integers of `sent` are used."""
        sent[: layout.codes] = 0
        sent[: self.tiles.size] = self.tiles.ravel()
        sent[layout.codes : layout.counts].reshape(layout.fields, layout.rows)[:, : self.n] = self.codes
        sent[layout.counts : layout.tail].reshape(layout.lists, layout.rows)[:, : self.n] = self.counts
        used = layout.tail + len(self.tail)
        sent[layout.tail : used] = self.tail
        return used


@dataclass(frozen=True, slots=True)
class Encoder:
    """Turns parts into batches.

    Args:
        fields: of the backbone, in manifest order.
    """

    fields: Sequence[Field]
    _sizes: Ints = field(init=False)

    def __post_init__(self) -> None:
        sizes = [one.vocabulary_size if one.kind == "sparse" else 0 for one in self.fields]
        object.__setattr__(self, "_sizes", np.array(sizes, np.int32)[:, None])

    @property
    def lists(self) -> int:
        """Fields of lists."""
        return sum(one.kind == "multi_hot" for one in self.fields)

    def batch(self, parts: Sequence[Part]) -> Batch:
        """Parts as they are sent.

        Raises:
            EngineFailed: a row is not of this backbone; the field is named.
        """
        rows = EncodedRows.concatenate([part.rows for part in parts])
        codes = np.empty((len(self.fields), rows.n), np.int32)
        counts = np.empty((self.lists, rows.n), np.int32)
        tail: list[Ints] = []
        for at, one in enumerate(self.fields):
            if one.kind == "dense":
                codes[at] = rows.arrays[one.name].astype(np.float32, copy=False).view(np.int32)
            elif one.kind == "sparse":
                codes[at] = rows.arrays[one.name]
            else:
                self._add_lists(one, rows, codes[at], counts[_list_number(self.fields, at)], tail)
        self._check(codes)
        self._overlay(parts, codes, tail)
        return Batch(rows.n, _tiles(parts), codes, counts, np.concatenate(tail) if tail else np.empty(0, np.int32))

    def about(self) -> tuple[NDArray[np.int64], int]:
        """What the gather is told of each field and of the padding, (F or F + 1, 5), and the width of what it makes.

        The five: kind, where the table begins among all (in numbers), width, first column, number among the lists.
        """
        about = np.zeros((len(self.fields) + 1, 5), np.int64)
        begin = column = 0
        for at, one in enumerate(self.fields):
            kind = {"sparse": SPARSE, "dense": NUMBER, "multi_hot": LISTS}[one.kind]
            about[at] = kind, begin, one.width, column, _list_number(self.fields, at)
            begin += one.vocabulary_size * one.width
            column += one.width
        padding = -column % ALIGNED
        about[-1] = PADDING, 0, padding, column, 0
        return about[: len(about) if padding else -1], column + padding

    def _add_lists(self, one: Field, rows: EncodedRows, codes: Ints, counts: Ints, tail: list[Ints]) -> None:
        values, offsets = rows.arrays[f"{one.name}.values"], rows.arrays[f"{one.name}.offsets"]
        counts[:] = np.diff(offsets)
        if (counts < 0).any() or (len(offsets) and (offsets[0] < 0 or offsets[-1] > len(values))):
            raise EngineFailed(f"field {one.name!r} has offsets that leave its values")
        if len(values) and not (values.min() >= 0 and values.max() < one.vocabulary_size):
            raise EngineFailed(f"field {one.name!r} holds a row outside its table of {one.vocabulary_size}")
        codes[:] = offsets[:-1] + sum(map(len, tail))
        tail.append(values)

    def _check(self, codes: Ints) -> None:
        """Hold every table row to be inside its table: on the device nobody would notice."""
        outside = ((codes < 0) | (codes >= self._sizes)) & (self._sizes > 0)
        if outside.any():
            one = self.fields[int(outside.any(1).argmax())]
            raise EngineFailed(f"field {one.name!r} holds a row outside its table of {one.vocabulary_size}")

    def _overlay(self, parts: Sequence[Part], codes: Ints, tail: list[Ints]) -> None:
        """Let rows of ids that an overlay has point at their vectors, which are sent with them, each once."""
        stop = 0
        for part in parts:
            start, stop = stop, stop + part.rows.n
            if part.overlay is None or part.rows.overlaid is None:
                continue
            for side, positions in part.rows.overlaid.items():
                own = part.overlay.sides[side]
                known = np.flatnonzero(positions >= 0)
                if not len(known):
                    continue
                distinct, which = np.unique(positions[known], return_inverse=True)
                vectors = np.ascontiguousarray(own.rows[distinct], np.float32)
                begin, at = sum(map(len, tail)), [one.name for one in self.fields].index(own.field)
                codes[at, start + known] = -1 - (begin + which * vectors.shape[1])
                tail.append(vectors.view(np.int32).ravel())


def lengths(parts: Sequence[Part]) -> Mapping[int, int]:
    """Rows of each slot."""
    found: dict[int, int] = {}
    for part in parts:
        found[part.slot] = found.get(part.slot, 0) + part.rows.n
    return found


def _tiles(parts: Sequence[Part]) -> Ints:
    """Tiles of each slot's rows; they never hold rows of two slots."""
    made, start = [], 0
    for slot, n in lengths(parts).items():
        made += [(start + at, min(TILE, n - at), slot) for at in range(0, n, TILE)]
        start += n
    return np.array(made, np.int32).reshape(-1, 3)


def _list_number(fields: Sequence[Any], at: int) -> int:
    return sum(one.kind == "multi_hot" for one in fields[:at])
