"""Many texts as one run of UTF-8 bytes, read a machine word at a time: what hashing and comparing them needs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.hashing import Hashes, hash_words

LONGEST_BYTES = 255
_WORD = 8
_LEAD, _TRAIL = b"\0" * 24, b"\0" * 256
_TAIL = 512  # a word may be read behind the last text, so the end is kept a second time with zeros behind it


@dataclass(frozen=True, slots=True)
class Words:
    """Texts of a question or of a table.

    Args:
        words: uint64 (k, n), the first word of every text, then the second: numpy is quick along the long axis only.
            Zero behind each text's end.
        lengths: int64 (n,), in bytes; of a text longer than LONGEST_BYTES only its length is right.
        masks: uint64 (k, n), which bits of the words belong to the text.
    """

    words: Hashes
    lengths: NDArray[np.int64]
    masks: Hashes

    def hashes(self) -> Hashes:
        """A hash of each text, (n,)."""
        return hash_words(self.words, self.lengths)

    def take(self, places: NDArray[np.int64]) -> Words:
        """Those at `places`."""
        return Words(self.words[:, places], self.lengths[places], self.masks[:, places])


class PackedTexts:
    """Texts one after the other.

    Args:
        joined: uint8, their bytes; usually a view of a mapped file.
        offsets: int64 (n+1,), where each begins and the last one ends.
    """

    def __init__(self, joined: NDArray[np.uint8], offsets: NDArray[np.int64]) -> None:
        self.joined = joined
        self.offsets = offsets
        self._tail_start = max(0, len(joined) - _TAIL)
        self._tail = np.concatenate([joined[self._tail_start :], np.zeros(_TAIL, np.uint8)])

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def nbytes(self) -> int:
        """Memory of its arrays, bytes."""
        return self.joined.nbytes + self.offsets.nbytes + self._tail.nbytes

    def text(self, position: int) -> str:
        """The text at `position`."""
        return self.joined[self.offsets[position] : self.offsets[position + 1]].tobytes().decode()

    def all(self) -> list[str]:
        """All texts, in order."""
        content, bounds = self.joined.tobytes(), self.offsets.tolist()
        if content.isascii():  # then cutting the text is cutting its bytes
            whole = content.decode()
            return [whole[start:end] for start, end in pairwise(bounds)]
        return [content[start:end].decode() for start, end in pairwise(bounds)]

    def equal(self, positions: NDArray[np.int64], asked: Words) -> NDArray[np.bool_]:
        """Whether the text at each of `positions` is the one asked for in its place, (n,)."""
        starts, ends = self._bounds(positions)
        same: NDArray[np.bool_] = ends - starts == asked.lengths
        # where the lengths differ the words mean nothing, and where they agree the masks do too
        differences = self._gathered(starts, len(asked.words))
        differences ^= asked.words
        differences &= asked.masks
        for word in differences:
            same &= word == 0
        return same

    def chunks(self, rows: int = 1 << 16) -> Iterator[Words]:
        """All texts in order, `rows` at a time, all words of each."""
        for start in range(0, len(self), rows):
            offsets = self.offsets[start : start + rows + 1]
            yield self._words(offsets[:-1], np.diff(offsets))

    def to_tensors(self, prefix: str) -> dict[str, NDArray[Any]]:
        """The tensors `<prefix>.bytes` and `<prefix>.offsets`."""
        return {f"{prefix}.bytes": self.joined, f"{prefix}.offsets": self.offsets}

    def hashes(self) -> Hashes:
        """A hash of each text, (n,)."""
        return np.concatenate([np.zeros(0, np.uint64), *(chunk.hashes() for chunk in self.chunks())])

    def is_sorted(self) -> bool:
        """Whether the texts rise strictly, by bytes."""
        last: Hashes | None = None
        for chunk in self.chunks():
            # big-endian words compare as their bytes do; the zeros behind an end sort before every text's byte
            words = chunk.words.byteswap()
            if last is not None:
                count = max(len(words), len(last))
                words = np.concatenate([_widened(last, count), _widened(words, count)], axis=1)
            if not bool(np.all(_rises(words))):
                return False
            last = words[:, -1:]
        return True

    def _bounds(self, positions: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        # begin and end lie side by side: one read for both
        pairs = np.ndarray((len(self),), np.dtype("V16"), self.offsets, 0, (8,))[positions]
        bounds = pairs.view(np.int64).reshape(-1, 2)
        return bounds[:, 0], bounds[:, 1]

    def _words(self, starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> Words:
        masks = _masks_of(lengths)
        words = self._gathered(starts, len(masks))
        words &= masks
        return Words(words, lengths, masks)

    def _gathered(self, starts: NDArray[np.int64], count: int) -> Hashes:
        limit = len(self.joined) - count * _WORD
        if limit >= 0 and not (len(starts) and int(starts.max()) > limit):
            return gather_words(self.joined, starts, count)
        at_end = starts > limit
        words = np.empty((count, len(starts)), np.uint64)
        words[:, at_end] = gather_words(self._tail, starts[at_end] - self._tail_start, count)
        if limit >= 0:
            words[:, ~at_end] = gather_words(self.joined, starts[~at_end], count)
        return words


def pack_question(texts: Sequence[str]) -> Words:
    """Pack texts that someone asks for, whatever they hold; n > 0.

    Raises:
        TypeError: one of them is not a string.
    """
    buffer, starts, ends = lay_out(texts)
    lengths = ends - starts
    masks = _masks_of(lengths)
    words = gather_words(buffer, starts, len(masks))
    words &= masks
    return Words(words, lengths, masks)


def lay_out(texts: Sequence[str]) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
    """The UTF-8 of all texts in one buffer with zeros at both ends, and where each begins and ends; n > 0.

    Raises:
        TypeError: one of them is not a string.
    """
    encoded = "\0".join(texts).encode("utf-8", "surrogatepass")
    buffer = np.frombuffer(b"".join([_LEAD, encoded, _TRAIL]), np.uint8)
    zeros = np.flatnonzero(buffer[len(_LEAD) - 1 : len(_LEAD) + len(encoded) + 1] == 0) + (len(_LEAD) - 1)
    if len(zeros) == len(texts) + 1:
        return buffer, zeros[:-1] + 1, zeros[1:]
    # a text with a NUL itself: only then are the ends worth a loop
    sizes = np.array([len(text.encode("utf-8", "surrogatepass")) for text in texts])
    ends = np.cumsum(sizes + 1) - 1 + len(_LEAD)
    return buffer, ends - sizes, ends


def gather_words(buffer: NDArray[np.uint8], starts: NDArray[np.int64], count: int) -> Hashes:
    """`count` little-endian words (count, n) from each of `starts`, at any alignment; they must lie inside `buffer`."""
    width = count * _WORD
    # one element is all the bytes of a text, so numpy copies each in one step
    windows = np.ndarray((len(buffer) - width + 1,), np.dtype(f"V{width}"), buffer, 0, (1,))
    return np.ascontiguousarray(windows[starts].view("<u8").reshape(len(starts), count).T)


def _masks_of(lengths: NDArray[np.int64]) -> Hashes:
    """Which bits of each text's words belong to it, (words, n); of a longer text as if it ended at LONGEST_BYTES."""
    longest = min(int(lengths.max(initial=0)), LONGEST_BYTES)
    return _masks(_word_count(longest)).take(lengths, axis=1, mode="clip")


@cache
def _masks(count: int) -> Hashes:
    """Which bits of `count` words belong to a text, by its length, (count, LONGEST_BYTES + 1)."""
    left = np.arange(LONGEST_BYTES + 1) - _WORD * np.arange(count)[:, None]
    filled = np.clip(left, 0, _WORD).astype(np.uint64)
    partial = (np.uint64(1) << (np.minimum(filled, np.uint64(7)) * np.uint64(8))) - np.uint64(1)
    return np.where(filled == _WORD, ~np.uint64(0), partial)


def _word_count(longest: int) -> int:
    return max(1, -(-longest // _WORD))


def _widened(words: Hashes, count: int) -> Hashes:
    return np.pad(words, ((0, count - len(words)), (0, 0)))


def _rises(words: Hashes) -> NDArray[np.bool_]:
    rises = np.zeros(words.shape[1] - 1, bool)
    for word in words[::-1]:
        before, after = word[:-1], word[1:]
        rises = (after > before) | ((after == before) & rises)
    return rises
