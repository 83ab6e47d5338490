"""The two forms of a sorted key column: integers, and UTF-8 bytes. `RawIndex` chooses between them."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from features.decimals import as_integers
from features.errors import InvalidValue, MalformedTensors
from features.texts import LONGEST_BYTES, PackedTexts

Ids = Sequence[str | int] | NDArray[Any]
Tensors = Mapping[str, NDArray[Any]]

_NEVER = b"\xff"  # no UTF-8 text holds this byte, so it is found nowhere


class Keys(Protocol):
    """A sorted column of distinct keys."""

    def __len__(self) -> int: ...
    def search(self, ids: Ids) -> NDArray[np.int64]:
        """Positions of `ids`, -1 where unknown."""

    def raw(self, position: int) -> str: ...
    def values(self) -> Ids:
        """All keys, in order."""

    def to_tensors(self, prefix: str) -> dict[str, NDArray[Any]]: ...


def integer_array(ids: Ids) -> NDArray[np.int64] | None:
    """`ids` as int64 if every one is an integer by type, else None."""
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


def as_texts(ids: Ids) -> list[str]:
    """`ids` as strings; numpy scalars become their Python equivalents first."""
    return list(map(str, ids.tolist() if isinstance(ids, np.ndarray) else ids))


def integers_of_texts(ids: Ids) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The integers of ids that are not all integers by type, and which of them are canonical; (n,) each."""
    try:
        return as_integers(ids)  # type: ignore[arg-type] # whatever is no string is told by TypeError
    except TypeError:
        return as_integers(as_texts(ids))


class IntegerKeys:
    """Raw values that are all canonical decimal integers.

    Args:
        values: int64 (n,), strictly increasing.
    """

    def __init__(self, values: NDArray[np.int64]) -> None:
        self._values = values

    def __len__(self) -> int:
        return len(self._values)

    def search(self, ids: Ids) -> NDArray[np.int64]:
        """Positions of `ids`, -1 where unknown; (n,)."""
        wanted = integer_array(ids)
        if wanted is not None:
            return _positions(self._values, wanted)
        numbers, canonical = integers_of_texts(ids)
        found = _positions(self._values, numbers)
        found[~canonical] = -1
        return found

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

    def search(self, ids: Ids) -> NDArray[np.int64]:
        """Positions of `ids`, -1 where unknown; (n,)."""
        return _positions(self._values, self._encoded(as_texts(ids)))

    def _encoded(self, texts: list[str]) -> NDArray[np.bytes_]:
        width = self._values.dtype.itemsize
        joined = "".join(texts)
        if joined.isascii() and "\0" not in joined and max(map(len, texts), default=0) <= width:
            return np.array(texts, dtype=f"S{width}")
        # numpy drops trailing NULs and pads every row to the longest: neither may change what is found or cost memory
        exact = [text.encode("utf-8", "surrogatepass") if len(text) <= width else _NEVER for text in texts]
        return np.array([_NEVER if b"\0" in text or len(text) > width else text for text in exact], dtype=f"S{width}")

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
        return cls(np.unique(np.array(encoded, dtype=bytes)))

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
    column = np.arange(len(joined)) - np.repeat(offsets[:-1], lengths)
    matrix[np.repeat(np.arange(len(lengths)), lengths), column] = joined
    return matrix.view(f"S{width}").reshape(-1)


def _positions(values: NDArray[Any], wanted: NDArray[Any]) -> NDArray[np.int64]:
    if len(values) == 0:
        return np.full(len(wanted), -1, np.int64)
    position = np.minimum(np.searchsorted(values, wanted), len(values) - 1)
    return np.where(values[position] == wanted, position, -1).astype(np.int64, copy=False)
