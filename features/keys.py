"""The two forms of a sorted key column: integers, and UTF-8 bytes. `RawIndex` chooses between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from features.errors import InvalidValue, MalformedTensors
from features.question import Ids, Question
from features.texts import LONGEST_BYTES, PackedTexts, lay_out

Tensors = Mapping[str, NDArray[Any]]

AnyT = TypeVar("AnyT", bound=np.generic)
_CHUNK = 1 << 16
_BLOCK = 1 << 13  # ids that are laid out in one call: numpy lets no other thread run within one
_NEVER = 0xFF  # no UTF-8 text holds this byte, so it is found nowhere


class Keys(Protocol):
    """A sorted column of distinct keys."""

    def __len__(self) -> int: ...
    def search(self, asked: Question) -> NDArray[np.int64]:
        """Positions of the ids asked for, -1 where unknown."""

    def raw(self, position: int) -> str: ...
    def values(self) -> Ids:
        """All keys, in order."""

    def to_tensors(self, prefix: str) -> dict[str, NDArray[Any]]: ...

    @property
    def nbytes(self) -> int:
        """Memory of the column, bytes; of a mapped file's views too."""


def distinct(values: NDArray[AnyT]) -> NDArray[AnyT]:
    """The distinct ones of `values`, sorted; several times quicker than `np.unique`, which hashes."""
    values = np.sort(values, kind="stable")  # quick where parts of it are sorted already
    is_first = np.ones(len(values), bool)
    is_first[1:] = values[1:] != values[:-1]
    return values[is_first]


_DIRECT_VALUES = 65_536
_DIRECT_SHARE = 4  # integers a value, of four bytes each


class IntegerKeys:
    """Raw values that are all canonical decimal integers.

    Args:
        values: int64 (n,), strictly increasing.
    """

    def __init__(self, values: NDArray[np.int64]) -> None:
        self._values = values
        self._direct = _direct(values)

    def __len__(self) -> int:
        return len(self._values)

    def search(self, asked: Question) -> NDArray[np.int64]:
        """Positions of the ids asked for, -1 where unknown; (n,)."""
        numbers, canonical = asked.integers
        if self._direct is None:
            found = _positions(self._values, numbers)
        else:  # whatever lies outside, also by wrapping around, is clipped to an end, where nothing is
            found = self._direct.take(numbers - (self._values[0] - 1), mode="clip").astype(np.int64)
        if canonical is not None:
            found[~canonical] = -1
        return found

    @property
    def nbytes(self) -> int:
        """Memory of the column, bytes."""
        return self._values.nbytes + (0 if self._direct is None else self._direct.nbytes)

    def raw(self, position: int) -> str:
        """The value at `position`, as a decimal string."""
        return str(int(self._values[position]))

    def values(self) -> NDArray[np.int64]:
        """All values, in order."""
        return self._values

    def to_tensors(self, prefix: str) -> dict[str, NDArray[Any]]:
        """The tensors of this column, named after `prefix`."""
        return {f"{prefix}.values": self._values}

    @classmethod
    def from_tensors(cls, tensors: Tensors, prefix: str) -> IntegerKeys:
        """Read `<prefix>.values`; raises MalformedTensors."""
        values = tensors[f"{prefix}.values"]
        if values.dtype != np.int64 or values.ndim != 1:
            raise MalformedTensors(f"{prefix}.values must be int64 (n,), is {values.dtype} {values.shape}")
        if not bool(np.all(values[1:] > values[:-1])):
            raise MalformedTensors(f"{prefix}.values must be strictly increasing")
        return cls(values)


class TextKeys:
    """Any raw values, as UTF-8.

    Held as fixed-width bytes, which numpy searches in one call; LONGEST_BYTES bounds what one long value can cost.

    Args:
        values: `S<width>` (n,), strictly increasing by bytes.
    """

    def __init__(self, values: NDArray[np.bytes_]) -> None:
        self._values = values

    def __len__(self) -> int:
        return len(self._values)

    def search(self, asked: Question) -> NDArray[np.int64]:
        """Positions of the ids asked for, -1 where unknown; (n,)."""
        return _positions(self._values, self._encoded(asked.texts))

    def _encoded(self, texts: list[str]) -> NDArray[np.bytes_]:
        width = self._values.dtype.itemsize
        joined = "".join(texts)
        if joined.isascii() and "\0" not in joined and max(map(len, texts), default=0) <= width:
            return np.array(texts, dtype=f"S{width}")
        # numpy drops trailing NULs and pads every row to the longest: neither may change what is found or cost memory
        buffer, starts, ends = lay_out(texts)
        lengths = ends - starts
        windows = np.ndarray((len(buffer) - width + 1,), np.dtype(f"V{width}"), buffer, 0, (1,))
        letters = windows[starts].view(np.uint8).reshape(-1, width)
        behind = np.arange(width) >= lengths[:, None]
        never = (lengths > width) | np.any((letters == 0) & ~behind, axis=1)
        letters[behind] = 0
        letters[never] = _NEVER
        return letters.view(f"S{width}").reshape(-1)

    @property
    def nbytes(self) -> int:
        """Memory of the column, bytes."""
        return self._values.nbytes

    def raw(self, position: int) -> str:
        """The value at `position`."""
        return bytes(self._values[position]).decode()

    def values(self) -> list[str]:
        """All values, in order."""
        return [value.decode() for value in self._values.tolist()]

    def to_tensors(self, prefix: str) -> dict[str, NDArray[Any]]:
        """The tensors of this column, named after `prefix`."""
        lengths = np.strings.str_len(self._values)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        joined = np.frombuffer(b"".join(self._values.tolist()), np.uint8)
        return {f"{prefix}.bytes": joined, f"{prefix}.offsets": offsets}

    @classmethod
    def from_texts(cls, texts: Sequence[str]) -> TextKeys:
        """Build from any strings; raises InvalidValue for one that is too long or holds a NUL."""
        try:
            encoded = [text.encode("utf-8") for text in texts]
        except UnicodeEncodeError as error:
            raise InvalidValue(f"raw value {error.object!r} is not valid Unicode: {error.reason}") from None
        for text in encoded:
            if len(text) > LONGEST_BYTES:
                raise InvalidValue(f"raw value {text[:32]!r}... has {len(text)} bytes; at most {LONGEST_BYTES} fit")
            if b"\0" in text:
                raise InvalidValue(f"raw value {text!r} holds a NUL byte; remove it from the data")
        width = max(map(len, encoded), default=0) or 1
        # a chunk at a time: numpy holds the interpreter while it reads a list, and requests wait for it
        chunks = [np.array(encoded[start : start + _CHUNK], f"S{width}") for start in range(0, len(encoded), _CHUNK)]
        joined = np.concatenate([np.zeros(0, f"S{width}"), *chunks])
        return cls(distinct(joined))

    @classmethod
    def from_tensors(cls, tensors: Tensors, prefix: str) -> TextKeys:
        """Read `<prefix>.bytes` and `<prefix>.offsets`; raises MalformedTensors."""
        texts = cls.packed_from_tensors(tensors, prefix)
        values = _padded(texts.joined, texts.offsets, np.diff(texts.offsets))
        if not bool(np.all(values[1:] > values[:-1])):
            raise MalformedTensors(f"{prefix}.bytes must be sorted by bytes, without repetition")
        return cls(values)

    @staticmethod
    def packed_from_tensors(tensors: Tensors, prefix: str) -> PackedTexts:
        """Read `<prefix>.bytes` and `<prefix>.offsets` as views, in any order; raises MalformedTensors."""
        try:
            joined, offsets = tensors[f"{prefix}.bytes"], tensors[f"{prefix}.offsets"]
        except KeyError as missing:
            raise MalformedTensors(f"tensor {missing} is missing") from None
        if joined.dtype != np.uint8 or joined.ndim != 1:
            raise MalformedTensors(f"{prefix}.bytes must be uint8 (n,), is {joined.dtype} {joined.shape}")
        check_offsets(f"{prefix}.offsets", offsets, len(joined))
        if int(np.diff(offsets).max(initial=0)) > LONGEST_BYTES or bool(np.any(joined == 0)):
            raise MalformedTensors(f"{prefix}.bytes holds a NUL or a value of more than {LONGEST_BYTES} bytes")
        _check_utf8(prefix, joined, offsets)
        return PackedTexts(joined, offsets)


def check_offsets(name: str, offsets: NDArray[Any], total: int) -> None:
    """Raise MalformedTensors unless `offsets` is int64 (n+1,), from 0 up to `total`, never falling."""
    if offsets.dtype != np.int64 or offsets.ndim != 1 or len(offsets) == 0:
        raise MalformedTensors(f"{name} must be int64 (n+1,), is {offsets.dtype} {offsets.shape}")
    if offsets[0] != 0 or offsets[-1] != total or not bool(np.all(offsets[1:] >= offsets[:-1])):
        raise MalformedTensors(f"{name} must rise from 0 to {total}")


def _check_utf8(prefix: str, joined: NDArray[np.uint8], offsets: NDArray[np.int64]) -> None:
    first = joined[offsets[:-1][np.diff(offsets) > 0]]
    try:
        joined.tobytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedTensors(f"{prefix}.bytes is not UTF-8 at byte {error.start}") from None
    if bool(np.any((first & 0xC0) == 0x80)):
        raise MalformedTensors(f"{prefix}.offsets cuts a UTF-8 character in two")


def _padded(joined: NDArray[np.uint8], offsets: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.bytes_]:
    width = max(1, int(lengths.max(initial=0)))
    matrix = np.zeros((len(lengths), width), np.uint8)
    for first in range(0, len(lengths), _BLOCK):
        starts, sizes = offsets[first : first + _BLOCK], lengths[first : first + _BLOCK]
        column = np.arange(sizes.sum()) - np.repeat(starts[: len(sizes)] - starts[0], sizes)
        row = first + np.repeat(np.arange(len(sizes)), sizes)
        matrix[row, column] = joined[starts[0] : starts[0] + len(column)]
    return matrix.view(f"S{width}").reshape(-1)


def _direct(values: NDArray[np.int64]) -> NDArray[np.int32] | None:
    """The position of each integer from the first value's predecessor to the last one's successor; -1 where none is.

    None where the values are many, or so few among those integers that this would be larger than they are.
    """
    if not 0 < len(values) < _DIRECT_VALUES:
        return None
    first, last = int(values[0]), int(values[-1])
    if last - first >= _DIRECT_SHARE * len(values) or first == np.iinfo(np.int64).min:
        return None
    found = np.full(last - first + 3, -1, np.int32)
    found[values - (first - 1)] = np.arange(len(values), dtype=np.int32)
    return found


def _positions(values: NDArray[Any], wanted: NDArray[Any]) -> NDArray[np.int64]:
    if len(values) == 0:
        return np.full(len(wanted), -1, np.int64)
    position = values.searchsorted(wanted).astype(np.int64, copy=False)
    position[values.take(position, mode="clip") != wanted] = -1
    return position
