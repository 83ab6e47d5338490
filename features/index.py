"""From a raw id or value to its position in a sorted list, and back."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.buckets import BucketKeys
from features.decimals import as_integers
from features.errors import InvalidValue, MalformedTensors
from features.hashed import HashedIntegers, HashedTexts
from features.keys import IntegerKeys, Keys, Tensors, TextKeys, distinct
from features.question import Ids, Question, integer_array
from features.texts import PackedTexts

HASHED_FROM = 65_536
_FIRST = 1000


class RawIndex:
    """A sorted list of distinct raw values, searched without per-value Python where they are integers.

    An integer equals its canonical decimal string: 7 and "7" are one value, "007" is another.

    Args:
        keys: the sorted column; use `from_values` or `from_tensors` to get one.
    """

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    @classmethod
    def from_values(cls, values: Iterable[str | int] | NDArray[Any]) -> RawIndex:
        """Index the distinct values of `values`.

        Raises:
            InvalidValue: a value is longer than 255 bytes or holds a NUL.
        """
        listed: Ids = values if isinstance(values, np.ndarray) else list(values)
        integers = integer_array(listed)
        if integers is not None:
            return cls(IntegerKeys(distinct(integers)))
        texts = Question(listed).texts
        if bool(as_integers(texts[:_FIRST])[1].all()):  # a column of words is told by its first ones
            numbers, canonical = as_integers(texts)
            if bool(canonical.all()):
                return cls(IntegerKeys(distinct(numbers)))
        return cls(TextKeys.from_texts(texts))

    @classmethod
    def of_buckets(cls, buckets: int) -> RawIndex:
        """An index that keeps no values: each has the position that its hash names."""
        return cls(BucketKeys(buckets))

    @classmethod
    def from_sorted_texts(cls, joined: NDArray[np.uint8], offsets: NDArray[np.int64]) -> RawIndex:
        """Index texts that are sorted already, without a Python object each; some is no integer.

        Args:
            joined: their UTF-8 bytes, one after the other.
            offsets: int64 (n+1,), where each begins and the last one ends.

        Raises:
            InvalidValue: a value is longer than 255 bytes or holds a NUL, or they are not sorted.
        """
        tensors: dict[str, NDArray[Any]] = {"ids.bytes": joined, "ids.offsets": offsets}
        try:
            if len(offsets) - 1 < HASHED_FROM:
                return cls(TextKeys.from_tensors(tensors, "ids"))
            texts = TextKeys.packed_from_tensors(tensors, "ids")
        except MalformedTensors as error:
            raise InvalidValue(str(error)) from None
        if not texts.is_sorted():
            raise InvalidValue("ids must be sorted by bytes, without repetition")
        return cls(HashedTexts.build(texts))

    @staticmethod
    def all_integers(chunks: Iterable[list[str]]) -> bool:
        """Whether all texts are canonical integers of 64 bits, so that an index of them holds integers."""
        return all(bool(as_integers(texts)[1].all()) for texts in chunks)

    @classmethod
    def from_tensors(cls, tensors: Tensors, prefix: str) -> RawIndex:
        """Read an index that `to_tensors` wrote; integer columns stay views of the file.

        Raises:
            MalformedTensors: a tensor is missing, of a wrong type or shape, or not sorted.
        """
        if f"{prefix}.buckets" in tensors:
            return cls(BucketKeys.from_tensors(tensors, prefix))
        is_hashed = f"{prefix}.slots" in tensors
        if f"{prefix}.values" in tensors:
            return cls((HashedIntegers if is_hashed else IntegerKeys).from_tensors(tensors, prefix))
        if f"{prefix}.bytes" not in tensors:
            raise MalformedTensors(f"neither {prefix}.values nor {prefix}.bytes is there")
        return cls((HashedTexts if is_hashed else TextKeys).from_tensors(tensors, prefix))

    def hashed(self, least: int = HASHED_FROM, hash_bits: int = 64, mostly_unknown: bool = False) -> RawIndex:
        """The same index, found by hash if it has `least` values or more.

        A search over millions of keys misses the cache at every step; a hash costs two misses. A small index stays as
        it is, and so do the bytes of its file.

        Args:
            least: fewer values are searched.
            hash_bits: how many bits of a hash count; fewer only to force collisions.
            mostly_unknown: made for questions whose ids are mostly elsewhere; two bytes a row more, in memory only.
        """
        if isinstance(self._keys, (HashedIntegers, HashedTexts, BucketKeys)) or len(self) < max(least, 1):
            return self
        tensors = self.to_tensors("")
        if ".values" in tensors:
            return RawIndex(HashedIntegers.build(tensors[".values"], hash_bits))
        texts = PackedTexts(tensors[".bytes"], tensors[".offsets"])
        return RawIndex(HashedTexts.build(texts, hash_bits, mostly_unknown))

    def to_tensors(self, prefix: str) -> dict[str, NDArray[Any]]:
        """The tensors of this index: `<prefix>.values`, or `<prefix>.bytes` and `<prefix>.offsets`.

        A hashed index has `<prefix>.pilots`, `<prefix>.slots` and `<prefix>.left_over` besides.
        """
        return self._keys.to_tensors(prefix)

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def nbytes(self) -> int:
        """Memory of its arrays, bytes; of a mapped file's views too."""
        return self._keys.nbytes

    def find(self, ids: Ids | Question) -> NDArray[np.int64]:
        """Positions of `ids`, -1 where unknown; int64 (n,)."""
        return self._keys.search(Question.of(ids))

    def values(self) -> Ids:
        """All raw values in order: int64 (n,) if all are integers, else strings."""
        return self._keys.values()

    def raw(self, position: int) -> str:
        """The raw value at `position`, as a string."""
        return self._keys.raw(position)
