"""Raw ids that someone asks for, in whichever form an index compares: each form is made once, for all layers."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.decimals import as_integers
from features.hashing import Hashes, hash_integers
from features.texts import Words, pack_question

Ids = Sequence[str | int] | NDArray[Any]


class Question:
    """Ids to look up. An integer is the same id as its canonical decimal text.

    Args:
        ids: strings and integers, n of them.
    """

    def __init__(self, ids: Ids) -> None:
        self._ids = ids

    @classmethod
    def of(cls, ids: Ids | Question) -> Question:
        """`ids` as a question, if they are none yet."""
        return ids if isinstance(ids, cls) else cls(ids)  # type: ignore[arg-type] # mypy does not narrow by `cls`

    def __len__(self) -> int:
        return len(self._ids)

    @cached_property
    def integers(self) -> tuple[NDArray[np.int64], NDArray[np.bool_] | None]:
        """The ids as int64 (n,), and which of them are such integers at all; None: all are."""
        numbers = integer_array(self._ids)
        if numbers is not None:
            return numbers, None
        try:
            found, canonical = as_integers(self._ids)  # type: ignore[arg-type] # whatever is no string is told by TypeError
        except TypeError:
            found, canonical = as_integers(self.texts)
        return found, None if bool(canonical.all()) else canonical

    @cached_property
    def texts(self) -> list[str]:
        """The ids as strings; numpy scalars become their Python equivalents first."""
        return list(map(str, self._ids.tolist() if isinstance(self._ids, np.ndarray) else self._ids))

    @cached_property
    def words(self) -> Words:
        """The ids as packed texts; there must be one at least."""
        try:
            return pack_question(self._ids)  # type: ignore[arg-type] # whatever is no string is told by TypeError
        except TypeError:
            return pack_question(self.texts)

    @cached_property
    def integer_hashes(self) -> Hashes:
        """A hash of each of `integers`, (n,)."""
        return hash_integers(self.integers[0])

    @cached_property
    def text_hashes(self) -> Hashes:
        """A hash of each of `words`, (n,)."""
        return self.words.hashes()


def integer_array(ids: Ids) -> NDArray[np.int64] | None:
    """`ids` as int64 (n,) if every one is an integer by type, else None."""
    if not isinstance(ids, np.ndarray):
        return _integers_of(ids)
    if ids.size == 0:
        return np.zeros(0, np.int64)
    # unsigned 64-bit could wrap; it takes the exact path by text instead
    narrow = ids.dtype.kind == "i" or (ids.dtype.kind == "u" and ids.dtype.itemsize < 8)
    return ids.astype(np.int64, copy=False) if narrow else None


def _integers_of(ids: Sequence[str | int]) -> NDArray[np.int64] | None:
    if len(ids) and (not isinstance(ids[0], (int, np.integer)) or isinstance(ids[0], bool)):
        return None  # spares the common list of strings the attempt
    try:
        return np.frombuffer(array("q", ids), np.int64)  # type: ignore[type-var] # a text is told by TypeError
    except (TypeError, OverflowError):
        return None  # beyond 64 bits, or texts too: the exact path by text
