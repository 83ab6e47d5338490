"""A hashed vocabulary: no raw value is kept, each has the row that its hash names, and some share one."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.errors import InvalidValue, MalformedTensors
from features.keys import Tensors
from features.question import Ids, Question

_HASH_BYTES = 8


class BucketKeys:
    """Keys of a vocabulary without a list: position = blake2b of the value's UTF-8, 8 bytes little-endian, modulo n.

    An integer is hashed as its decimal string. The hash is part of a bundle's form, so it never changes.

    Args:
        buckets: n.
    """

    def __init__(self, buckets: int) -> None:
        self._buckets = buckets

    def __len__(self) -> int:
        return self._buckets

    def search(self, asked: Question) -> NDArray[np.int64]:
        """Positions of the values asked for; (n,). None is unknown."""
        return np.array([_hash(text) % self._buckets for text in asked.texts], np.int64)

    @property
    def nbytes(self) -> int:
        """Memory of the column, bytes: none."""
        return 0

    def raw(self, position: int) -> str:
        """A hash has no way back.

        Raises:
            InvalidValue: always.
        """
        raise InvalidValue(f"row {position + 1} of a hashed vocabulary stands for many raw values, and names none")

    def values(self) -> Ids:
        """A hash has no way back.

        Raises:
            InvalidValue: always.
        """
        raise InvalidValue("a hashed vocabulary keeps no raw values")

    def to_tensors(self, prefix: str) -> dict[str, NDArray[Any]]:
        """`<prefix>.buckets` int64 (1,)."""
        return {f"{prefix}.buckets": np.array([self._buckets], np.int64)}

    @classmethod
    def from_tensors(cls, tensors: Tensors, prefix: str) -> BucketKeys:
        """Read `<prefix>.buckets`; raises MalformedTensors."""
        buckets = tensors[f"{prefix}.buckets"]
        if buckets.dtype != np.int64 or buckets.shape != (1,) or buckets[0] < 1:
            raise MalformedTensors(
                f"{prefix}.buckets must be int64 (1,) of 1 or more, is {buckets.dtype} {buckets.shape}"
            )
        return cls(int(buckets[0]))


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_HASH_BYTES).digest(), "little")
