"""A perfect hash: from the 64-bit hash of a key to the one row that may hold it, two reads a key and no loop.

Hash, displace and compress (Belazzougui, Botelho, Dietzfelbinger, ESA 2009; the pilots are PTHash's, Pibiri and Trani,
SIGIR 2021), searched for all buckets of a size at once so that numpy does the work. What a table holds is a function of
its keys alone, so equal tables are equal bytes. A key that cannot be placed (two keys of one hash) is left over by name
and searched the ordinary way: the hash decides how fast an answer is, never what it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.errors import MalformedTensors

Hashes = NDArray[np.uint64]

_BUCKET_KEYS = 3  # keys a pilot has to place together, on average
_PILOTS = 256  # a pilot is one byte
_FILLED = (7, 10)  # slots are at most 7/10 full: fuller takes many more attempts to build, emptier more memory
_ODD = 0x9E3779B97F4A7C15
_MIX = np.uint64(0xD6E8FEB86659FD93)  # of the xmx mixer, which avalanches over all 64 bits
_HALF = np.uint64(32)
_CHUNK = 1 << 18
_WORD_ODD = np.uint64(0xC2B2AE3D27D4EB4F)


def hash_integers(values: NDArray[np.int64]) -> Hashes:
    """A 64-bit hash of each of `values`, (n,); different values have different hashes."""
    return _mixed(np.ascontiguousarray(values).view(np.uint64) * np.uint64(_ODD))


def hash_words(words: Hashes, lengths: NDArray[np.int64]) -> Hashes:
    """A 64-bit hash of each text.

    Args:
        words: little-endian words of its bytes, (k, n), zero behind its end; words of zero change nothing.
        lengths: of the texts in bytes, (n,).
    """
    hashes = lengths.view(np.uint64) * np.uint64(_ODD)
    # each word is mixed before it is added, with a factor of its place: equal words must not trade places
    mixed = words * _word_factors(len(words))
    mixed ^= mixed >> _HALF
    mixed *= _WORD_ODD
    for word in mixed:
        hashes += word
    return _mixed(hashes)


class PerfectHash:
    """From hashes to candidate rows; whether a candidate is the key asked for is the caller's to compare.

    Args:
        pilots: uint8 (b,), what steers the keys of each bucket to free slots.
        slots: int32 (m,), the row of each slot; 0 where none is.
        left_over: int32, rows whose keys could not be placed, rising.
    """

    def __init__(self, pilots: NDArray[np.uint8], slots: NDArray[np.int32], left_over: NDArray[np.int32]) -> None:
        self.pilots = pilots
        self.slots = slots
        self.left_over = left_over
        self._buckets = np.uint64(len(pilots))
        self._size = np.uint64(len(slots))
        self._factors = _factors()

    @property
    def nbytes(self) -> int:
        """Memory of its arrays, bytes."""
        return self.pilots.nbytes + self.slots.nbytes + self.left_over.nbytes

    def candidates(self, hashes: Hashes) -> NDArray[np.int64]:
        """The one row that may have each hash, int64 (n,); rows left over are never among them."""
        pilots = self.pilots.take(_ranged(hashes, self._buckets))
        return self.slots.take(self._slots_of(hashes, pilots)).astype(np.int64)

    def check(self, hashes: Hashes) -> None:
        """Hold this to the hashes of the rows, in their order.

        Raises:
            MalformedTensors: a row is not found by its own hash.
        """
        found = np.empty(len(hashes), bool)
        for start in range(0, len(hashes), _CHUNK):
            part = hashes[start : start + _CHUNK]
            found[start : start + len(part)] = self.candidates(part) == np.arange(start, start + len(part))
        found[self.left_over] = True
        if not bool(found.all()):
            raise MalformedTensors(f"row {int(np.flatnonzero(~found)[0])} is not where its hash says")

    def to_tensors(self, prefix: str) -> dict[str, NDArray[Any]]:
        """The tensors `<prefix>.pilots`, `.slots` and `.left_over`."""
        return {
            f"{prefix}.pilots": self.pilots,
            f"{prefix}.slots": self.slots,
            f"{prefix}.left_over": self.left_over,
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[Any]], prefix: str, rows: int) -> PerfectHash:
        """Read what `to_tensors` wrote, as views; every row that it can name is one of `rows`.

        Raises:
            MalformedTensors: a tensor is missing, of a wrong type or size, or names a row that is not there.
        """
        parts = {"pilots": np.uint8, "slots": np.int32, "left_over": np.int32}
        for part, dtype in parts.items():
            tensor = tensors.get(f"{prefix}.{part}")
            if tensor is None or tensor.dtype != dtype or tensor.ndim != 1:
                raise MalformedTensors(f"{prefix}.{part} is missing or not {np.dtype(dtype)} (n,)")
        pilots, slots, left_over = (tensors[f"{prefix}.{part}"] for part in parts)
        if not rows or (len(pilots), len(slots)) != _sizes(rows):
            raise MalformedTensors(f"{prefix}.pilots and {prefix}.slots are not of a table of {rows} rows")
        for name, array in (("slots", slots), ("left_over", left_over)):
            if len(array) and not (int(array.min()) >= 0 and int(array.max()) < rows):
                raise MalformedTensors(f"{prefix}.{name} must lie in [0, {rows})")
        if not bool(np.all(left_over[1:] > left_over[:-1])):
            raise MalformedTensors(f"{prefix}.left_over must be strictly increasing")
        return cls(pilots, slots, left_over)

    @classmethod
    def build(cls, hashes: Hashes) -> PerfectHash:
        """Place the rows 0 to n - 1, which have these hashes; n > 0."""
        buckets, size = _sizes(len(hashes))
        built = cls(np.zeros(buckets, np.uint8), np.zeros(size, np.int32), np.zeros(0, np.int32))
        bucket = _ranged(hashes, np.uint64(buckets))
        # sorted by bucket, then row: no two are equal, so every sort gives the same order
        order = np.sort(bucket << 32 | np.arange(len(hashes))) & 0xFFFFFFFF
        counts = np.bincount(bucket, minlength=buckets)
        starts = np.cumsum(counts) - counts
        placing = _Placing(built, hashes)
        for count in range(int(counts.max()), 0, -1):  # the larger a bucket, the emptier the slots that it needs
            own = np.flatnonzero(counts == count)
            placing.place(own, order[starts[own][:, None] + np.arange(count)])
        left = np.concatenate([np.zeros(0, np.int64), *placing.left_over])
        return cls(built.pilots, built.slots, np.sort(left).astype(np.int32))

    def _slots_of(self, hashes: Hashes, pilots: NDArray[np.uint8]) -> NDArray[np.int64]:
        return _ranged(hashes * self._factors.take(pilots), self._size)


class _Placing:
    """The search for pilots."""

    def __init__(self, built: PerfectHash, hashes: Hashes) -> None:
        self._built = built
        self._hashes = hashes
        self._taken = np.zeros(len(built.slots), bool)
        self._claims = np.zeros(len(built.slots), np.int32)
        self.left_over: list[NDArray[np.int64]] = []

    def place(self, buckets: NDArray[np.int64], rows: NDArray[np.int64]) -> None:
        """Find a pilot for each of `buckets`, whose rows are (b, count)."""
        hashes = self._hashes[rows]
        for pilot in range(_PILOTS):
            if not len(buckets):
                return
            slots = self._built._slots_of(hashes, np.full(1, pilot, np.uint8))
            fits: NDArray[np.bool_] = ~np.any(self._taken[slots], axis=1)
            asked = slots[fits]
            # where several ask for one slot, the last has it
            numbers = np.arange(asked.size, dtype=np.int32).reshape(asked.shape)
            self._claims[asked] = numbers
            fits[fits] = np.all(self._claims[asked] == numbers, axis=1)
            self._taken[slots[fits]] = True
            self._built.slots[slots[fits]] = rows[fits]
            self._built.pilots[buckets[fits]] = pilot
            buckets, rows, hashes = buckets[~fits], rows[~fits], hashes[~fits]
        self.left_over.append(rows.ravel())


def _mixed(hashes: Hashes) -> Hashes:
    hashes ^= hashes >> _HALF
    hashes *= _MIX
    hashes ^= hashes >> _HALF
    hashes *= _MIX
    return hashes


def _factors() -> Hashes:
    """An odd factor a pilot: each spreads the same hashes anew over the slots."""
    return hash_integers(np.arange(1, _PILOTS + 1)) | np.uint64(1)


@cache
def _word_factors(count: int) -> Hashes:
    return np.array([[(_ODD * (2 * place + 3)) & 0xFFFFFFFFFFFFFFFF] for place in range(count)], np.uint64)


def _ranged(hashes: Hashes, size: np.uint64) -> NDArray[np.int64]:
    """The upper halves of `hashes` scaled to [0, size): Lemire's alternative to a remainder."""
    return ((hashes >> _HALF) * size >> _HALF).view(np.int64)


def _sizes(rows: int) -> tuple[int, int]:
    return rows // _BUCKET_KEYS + 1, rows * _FILLED[1] // _FILLED[0] + 1
