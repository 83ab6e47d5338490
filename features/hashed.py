"""Sorted key columns found by hash: for tables so large that every step of a search would miss the cache."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.errors import MalformedTensors
from features.hashing import Hashes, PerfectHash, hash_integers
from features.keys import IntegerKeys, Tensors, TextKeys
from features.question import Question
from features.texts import PackedTexts

_HASH_BITS = 64


class HashedIntegers:
    """Raw values that are all canonical decimal integers, with their perfect hash.

    Args:
        values: int64 (n,), strictly increasing.
        hashed: the rows of `values` by their hashes.
        hash_bits: how many bits of a hash count; fewer only to force collisions.
    """

    def __init__(self, values: NDArray[np.int64], hashed: PerfectHash, hash_bits: int = _HASH_BITS) -> None:
        self._values = values
        self._hashed = hashed
        self._drop = np.uint64(_HASH_BITS - hash_bits)
        self._left_over = IntegerKeys(values[hashed.left_over])

    def __len__(self) -> int:
        return len(self._values)

    def search(self, asked: Question) -> NDArray[np.int64]:
        """Positions of the ids asked for, -1 where unknown; (n,)."""
        wanted, canonical = asked.integers
        candidates = self._hashed.candidates(_kept(asked.integer_hashes, self._drop))
        found = self._values.take(candidates) == wanted
        if canonical is not None:
            found &= canonical
        return _with_left_over(np.where(found, candidates, -1), self._left_over, self._hashed, asked)

    @property
    def nbytes(self) -> int:
        """Memory of the column, bytes."""
        return self._values.nbytes + self._hashed.nbytes + self._left_over.nbytes

    def raw(self, position: int) -> str:
        """The value at `position`, as a decimal string."""
        return str(int(self._values[position]))

    def values(self) -> NDArray[np.int64]:
        """All values, in order."""
        return self._values

    def to_tensors(self, prefix: str) -> dict[str, NDArray[Any]]:
        """The tensors of this column, named after `prefix`."""
        return {f"{prefix}.values": self._values, **self._hashed.to_tensors(prefix)}

    @classmethod
    def build(cls, values: NDArray[np.int64], hash_bits: int = _HASH_BITS) -> HashedIntegers:
        """Hash sorted distinct values, of which there is one at least."""
        return cls(
            values, PerfectHash.build(_kept(hash_integers(values), np.uint64(_HASH_BITS - hash_bits))), hash_bits
        )

    @classmethod
    def from_tensors(cls, tensors: Tensors, prefix: str) -> HashedIntegers:
        """Read what `to_tensors` wrote, as views; raises MalformedTensors."""
        values = IntegerKeys.from_tensors(tensors, prefix).values()
        hashed = PerfectHash.from_tensors(tensors, prefix, len(values))
        hashed.check(hash_integers(values))
        return cls(values, hashed)


class HashedTexts:
    """Any raw values, as UTF-8, with their perfect hash; the bytes are compared where they lie, in the mapped file.

    Args:
        texts: strictly increasing by bytes.
        hashed: the rows of `texts` by their hashes.
        hash_bits: how many bits of a hash count; fewer only to force collisions.
        tags: uint16 (n,), two bytes of each text's hash: where most ids asked for are unknown, they spare comparing.
    """

    def __init__(
        self,
        texts: PackedTexts,
        hashed: PerfectHash,
        hash_bits: int = _HASH_BITS,
        tags: NDArray[np.uint16] | None = None,
    ) -> None:
        self._texts = texts
        self._hashed = hashed
        self._tags = tags
        self._drop = np.uint64(_HASH_BITS - hash_bits)
        self._left_over = TextKeys.from_texts([texts.text(row) for row in hashed.left_over.tolist()])

    def __len__(self) -> int:
        return len(self._texts)

    def search(self, asked: Question) -> NDArray[np.int64]:
        """Positions of the ids asked for, -1 where unknown; (n,)."""
        if not len(asked):
            return np.zeros(0, np.int64)
        candidates = self._hashed.candidates(_kept(asked.text_hashes, self._drop))
        if self._tags is None:
            found = np.where(self._texts.equal(candidates, asked.words), candidates, -1)
        else:
            likely = np.flatnonzero(self._tags.take(candidates) == asked.text_hashes.astype(np.uint16))
            found = np.full(len(asked), -1)
            if len(likely):
                candidates = candidates[likely]
                right = self._texts.equal(candidates, asked.words.take(likely))
                found[likely[right]] = candidates[right]
        return _with_left_over(found, self._left_over, self._hashed, asked)

    @property
    def nbytes(self) -> int:
        """Memory of the column, bytes."""
        tags = 0 if self._tags is None else self._tags.nbytes
        return self._texts.nbytes + self._hashed.nbytes + self._left_over.nbytes + tags

    def raw(self, position: int) -> str:
        """The value at `position`."""
        return self._texts.text(position)

    def values(self) -> list[str]:
        """All values, in order."""
        return self._texts.all()

    def to_tensors(self, prefix: str) -> dict[str, NDArray[Any]]:
        """The tensors of this column, named after `prefix`."""
        return {**self._texts.to_tensors(prefix), **self._hashed.to_tensors(prefix)}

    @classmethod
    def build(cls, texts: PackedTexts, hash_bits: int = _HASH_BITS, with_tags: bool = False) -> HashedTexts:
        """Hash sorted distinct texts, of which there is one at least."""
        hashes = texts.hashes()
        hashed = PerfectHash.build(_kept(hashes, np.uint64(_HASH_BITS - hash_bits)))
        return cls(texts, hashed, hash_bits, hashes.astype(np.uint16) if with_tags else None)

    @classmethod
    def from_tensors(cls, tensors: Tensors, prefix: str) -> HashedTexts:
        """Read what `to_tensors` wrote, as views; raises MalformedTensors."""
        texts = TextKeys.packed_from_tensors(tensors, prefix)
        if not texts.is_sorted():
            raise MalformedTensors(f"{prefix}.bytes must be sorted by bytes, without repetition")
        hashed = PerfectHash.from_tensors(tensors, prefix, len(texts))
        hashed.check(texts.hashes())
        return cls(texts, hashed)


def _kept(hashes: Hashes, drop: np.uint64) -> Hashes:
    return hashes >> drop << drop if drop else hashes


def _with_left_over(
    positions: NDArray[np.int64], keys: IntegerKeys | TextKeys, hashed: PerfectHash, asked: Question
) -> NDArray[np.int64]:
    """Search the rows that the hash could not place, which are hardly ever any."""
    if len(keys):
        found = keys.search(asked)
        positions = np.where(found >= 0, hashed.left_over.take(np.maximum(found, 0)), positions)
    return positions
