"""Canonical decimal integers out of texts, eight digits a step."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from features.texts import gather_words, lay_out

_CANONICAL = re.compile(r"0|-?[1-9][0-9]{0,18}")
_INT64 = np.iinfo(np.int64)
_SAFE_DIGITS = 18  # so many decimal digits always fit int64
_FEW = 32  # so many are parsed faster one by one
_WORDS = 3
_BYTES = 8 * _WORDS
_ZEROS = np.uint64(0x3030303030303030)
_HIGH = np.uint64(0xF0F0F0F0F0F0F0F0)
_SIX = np.uint64(0x0606060606060606)
_PAIRS = np.uint64(0x000000FF000000FF)


def as_integer(text: str) -> int | None:
    """The int64 that `text` is the canonical decimal of, or None ("007", "+7", "7 " and 2**63 are none)."""
    if _CANONICAL.fullmatch(text) is None:
        return None
    value = int(text)
    return value if _INT64.min <= value <= _INT64.max else None


def as_integers(texts: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The integers of many texts, int64 (n,), and which of them are canonical; the others' numbers mean nothing.

    Raises:
        TypeError: one of them is not a string.
    """
    if len(texts) <= _FEW:
        parsed = [as_integer(text) for text in texts]
        numbers = np.array([0 if value is None else value for value in parsed], np.int64)
        return numbers, np.array([value is not None for value in parsed], bool)
    buffer, starts, ends = lay_out(texts)
    lengths = ends - starts
    first = buffer[starts]
    words = gather_words(buffer, ends - _BYTES, _WORDS)
    # what stands before a text is as if it were leading zeros
    masks = _own_bytes().take(lengths, axis=1, mode="clip")
    words = (words & masks) | (_ZEROS & ~masks)
    digits = np.all((words & _HIGH == _ZEROS) & ((words + _SIX) & _HIGH == _ZEROS), axis=0)
    canonical = digits & (lengths >= 1) & (lengths <= _SAFE_DIGITS) & ((first != ord("0")) | (lengths == 1))
    eights = _eight_digits(words)
    numbers = ((eights[0] * 10**8 + eights[1]) * 10**8 + eights[2]).astype(np.int64)
    unsure = ~canonical & (lengths <= 20) & ((lengths > _SAFE_DIGITS) | (first == ord("-")))
    for place in np.flatnonzero(unsure).tolist():
        value = as_integer(texts[place])
        if value is not None:
            numbers[place], canonical[place] = value, True
    return numbers, canonical


def _eight_digits(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The number that eight ASCII digits, little-endian, are (Lemire, "Quickly parsing eight digits", 2018)."""
    digits = words - _ZEROS
    pairs = digits * np.uint64(10) + (digits >> np.uint64(8))
    upper = (pairs & _PAIRS) * np.uint64(0x000F424000000064)
    lower = (pairs >> np.uint64(16) & _PAIRS) * np.uint64(0x0000271000000001)
    return (upper + lower) >> np.uint64(32)


@cache
def _own_bytes() -> NDArray[np.uint64]:
    """Which bytes of the words that end where a text ends belong to it, by its length, (words, 25)."""
    own = np.arange(_BYTES)[None, :] >= _BYTES - np.arange(_BYTES + 1)[:, None]
    return np.ascontiguousarray((own.astype(np.uint8) * np.uint8(255)).view("<u8").T)
