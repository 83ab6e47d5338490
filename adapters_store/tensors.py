"""Tensor files: safetensors with exactly one metadata entry, written to one byte form and read without trust.

The file is `u64 header size | JSON header | tensor bytes` (https://huggingface.co/docs/safetensors). Our reader checks
every claim of the header against the bytes that are really there before it builds an array, and never allocates in
proportion to a claim. Several metadata entries would make the bytes depend on hash order, and the digest with them:
there is one, `espalier`, whose value is canonical JSON.
"""

import math
import mmap
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from adapters_store.canonical import canonical_json, parse_json
from adapters_store.errors import LimitExceeded, MalformedArtifact, StoreUnavailable

Array = npt.NDArray[Any]

METADATA_KEY = "espalier"
_PREFIX_BYTES = 8
_ALIGNMENT = 8
_NUMPY_TYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "|i1",
    "U8": "|u1",
}
_NAMES = {np.dtype(numpy_type): name for name, numpy_type in _NUMPY_TYPES.items() if name != "BF16"}


@dataclass(frozen=True, slots=True)
class TensorLimits:
    """What a tensor file may be at most; each is checked before anything of that size is allocated.

    Args:
        bytes: Size of the whole file.
        tensors: How many tensors.
        header_bytes: Size of the JSON header.
        dimensions: Dimensions of one tensor.
        rank: Rank of one LoRA or of a fusion (adapters and fusions only).
        combinations: Combinations of auxiliary domains of one fused adapter, the masked ones included.
    """

    bytes: int = 64 * 2**20
    tensors: int = 4096
    header_bytes: int = 2**19
    dimensions: int = 4
    rank: int = 256
    combinations: int = 256


BUNDLE_LIMITS = TensorLimits(bytes=2**40, tensors=2**16, header_bytes=16 * 2**20)


@dataclass(frozen=True, slots=True)
class Bfloat16:
    """A BF16 tensor on its way into a file; numpy has no such type.

    Args:
        bits: uint16 of the tensor's shape: the upper halves of float32 values.
    """

    bits: Array

    @classmethod
    def of(cls, values: Array) -> "Bfloat16":
        """Round float32 values to the nearest BF16, ties to even."""
        words = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
        rounded = (words + np.uint32(0x7FFF) + ((words >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
        return cls(np.where(np.isnan(values), np.uint32(0x7FC0), rounded).astype(np.uint16))


@dataclass(frozen=True, slots=True)
class TensorFile:
    """What a tensor file holds.

    Args:
        tensors: Name to array; views of the file's bytes, except BF16, which is decoded to float32.
        dtypes: Name to the safetensors dtype as stored.
        metadata: The parsed JSON of the one metadata entry.
    """

    tensors: dict[str, Array]
    dtypes: dict[str, str]
    metadata: object


def write_tensors(tensors: Mapping[str, Array | Bfloat16], metadata: object, alignment: int = _ALIGNMENT) -> bytes:
    """Write a tensor file; the same tensors and metadata are always the same bytes.

    Args:
        tensors: Name to array of one of the dtypes F64 F32 F16 I64 I32 I16 I8 U8, or `Bfloat16`.
        metadata: Becomes the one metadata entry, as canonical JSON.
        alignment: Of the first tensor, from the file's start; bytes, a multiple of 8. Artifacts have 8.

    Returns:
        The file.

    Raises:
        ValueError: A dtype that a tensor file cannot hold.
    """
    stored = {name: _stored(name, tensor) for name, tensor in tensors.items()}
    # widest first, then by name: every tensor is aligned to its own width without holes
    order = sorted(stored, key=lambda name: (-stored[name][1].dtype.itemsize, name))
    header: dict[str, object] = {"__metadata__": {METADATA_KEY: canonical_json(metadata).decode()}}
    position = 0
    for name in order:
        dtype, array = stored[name]
        header[name] = {
            "dtype": dtype,
            "shape": list(array.shape),
            "data_offsets": [position, position + array.nbytes],
        }
        position += array.nbytes
    head = canonical_json(header)
    head += b" " * (-(_PREFIX_BYTES + len(head)) % alignment)
    return b"".join([struct.pack("<Q", len(head)), head, *(stored[name][1].tobytes() for name in order)])


def read_tensors(source: bytes | memoryview | Path, limits: TensorLimits) -> TensorFile:
    """Read a tensor file; arrays are views of it, so reading costs the header only.

    Args:
        source: The file's bytes, or its path (then it is memory-mapped).
        limits: What it may be at most.

    Returns:
        Its tensors, their stored dtypes and its metadata.

    Raises:
        LimitExceeded: A limit is passed.
        MalformedArtifact: The bytes are not such a file; the message names the tensor or the place.
        StoreUnavailable: The path cannot be read.
    """
    view = memoryview(_mapped(source) if isinstance(source, Path) else source)
    if len(view) > limits.bytes:
        raise LimitExceeded(f"{len(view)} bytes, more than the limit of {limits.bytes}")
    header_bytes = _header_size(view, limits)
    header = _header(view[_PREFIX_BYTES : _PREFIX_BYTES + header_bytes])
    metadata = _metadata(header.pop("__metadata__", None))
    if len(header) > limits.tensors:
        raise LimitExceeded(f"{len(header)} tensors, more than the limit of {limits.tensors}")
    body = view[_PREFIX_BYTES + header_bytes :]
    entries = {name: _entry(name, claim, limits) for name, claim in header.items()}
    _check_layout(entries, len(body))
    decoded_bytes = sum(2 * (entry.end - entry.begin) for entry in entries.values() if entry.dtype == "BF16")
    if decoded_bytes > limits.bytes:
        raise LimitExceeded(f"BF16 tensors of {decoded_bytes} bytes as float32, more than the limit of {limits.bytes}")
    tensors = {name: _array(entry, body) for name, entry in entries.items()}
    return TensorFile(tensors, {name: entry.dtype for name, entry in entries.items()}, metadata)


@dataclass(frozen=True, slots=True)
class _Entry:
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def _stored(name: str, tensor: Array | Bfloat16) -> tuple[str, Array]:
    if isinstance(tensor, Bfloat16):
        return "BF16", np.ascontiguousarray(tensor.bits, dtype="<u2").reshape(tensor.bits.shape)
    little = tensor.dtype.newbyteorder("<")
    if little not in _NAMES:
        raise ValueError(f"tensor {name!r} has dtype {tensor.dtype}; a tensor file holds {sorted(_NUMPY_TYPES)}")
    return _NAMES[little], np.ascontiguousarray(tensor, dtype=little).reshape(tensor.shape)


def _mapped(path: Path) -> mmap.mmap | bytes:
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                return b""  # an empty file cannot be mapped
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise StoreUnavailable(f"cannot read {path.name}: {error.strerror}") from error


def _header_size(view: memoryview, limits: TensorLimits) -> int:
    if len(view) < _PREFIX_BYTES:
        raise MalformedArtifact(
            f"truncated: {len(view)} bytes, a tensor file starts with {_PREFIX_BYTES} of header size"
        )
    (size,) = struct.unpack_from("<Q", view)
    if view[:1].tobytes() == b"\x80" and size > len(view):
        raise MalformedArtifact(
            "the bytes look like a Python pickle; an artifact is safetensors and nothing is unpickled"
        )
    if size > limits.header_bytes:
        raise LimitExceeded(f"the header claims {size} bytes, more than the limit of {limits.header_bytes}")
    if size > len(view) - _PREFIX_BYTES:
        raise MalformedArtifact(f"truncated: the header claims {size} bytes, {len(view) - _PREFIX_BYTES} are there")
    return int(size)


def _header(raw: memoryview) -> dict[str, object]:
    try:
        text = bytes(raw)
        header = parse_json(text)
    except ValueError as error:
        raise MalformedArtifact(f"the header is no JSON that this reader accepts: {error}") from None
    if not isinstance(header, dict) or not text.startswith(b"{"):
        raise MalformedArtifact("the header is no JSON object")
    return header


def _metadata(entries: object) -> object:
    if not isinstance(entries, dict) or set(entries) != {METADATA_KEY}:
        found = sorted(entries) if isinstance(entries, dict) else entries
        raise MalformedArtifact(f"__metadata__ must hold exactly one entry, {METADATA_KEY!r}; found {str(found)[:200]}")
    text = entries[METADATA_KEY]
    if not isinstance(text, str):
        raise MalformedArtifact(f"the metadata entry {METADATA_KEY!r} must be a string of JSON")
    try:
        return parse_json(text)
    except ValueError as error:
        raise MalformedArtifact(f"the metadata entry {METADATA_KEY!r} is no JSON: {error}") from None


def _entry(name: str, claim: object, limits: TensorLimits) -> _Entry:
    if not isinstance(claim, dict) or set(claim) != {"dtype", "shape", "data_offsets"}:
        raise MalformedArtifact(f"tensor {name!r}: an entry has exactly dtype, shape and data_offsets")
    dtype, shape, offsets = claim["dtype"], claim["shape"], claim["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _NUMPY_TYPES:
        raise MalformedArtifact(f"tensor {name!r}: dtype {str(dtype)[:40]!r} is none of {sorted(_NUMPY_TYPES)}")
    if not _naturals(shape) or not _naturals(offsets) or len(offsets) != 2:
        raise MalformedArtifact(f"tensor {name!r}: shape and data_offsets must be lists of integers >= 0")
    if len(shape) > limits.dimensions:
        raise LimitExceeded(f"tensor {name!r}: {len(shape)} dimensions, more than the limit of {limits.dimensions}")
    width = np.dtype(_NUMPY_TYPES[dtype]).itemsize
    if math.prod(max(size, 1) for size in shape) * width > limits.bytes:
        raise LimitExceeded(f"tensor {name!r}: shape {shape} claims more than the limit of {limits.bytes} bytes")
    if offsets[1] - offsets[0] != math.prod(shape) * width:
        raise MalformedArtifact(
            f"tensor {name!r}: shape {shape} of {dtype} is {math.prod(shape) * width} bytes, "
            f"its data_offsets {offsets} span {offsets[1] - offsets[0]}"
        )
    return _Entry(dtype, tuple(shape), offsets[0], offsets[1])


def _naturals(values: object) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def _check_layout(entries: Mapping[str, _Entry], body_bytes: int) -> None:
    """Hold the tensors to lie side by side: no overlap, no hole, nothing behind the last."""
    position = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != position:
            fault = "overlaps the tensor before it" if entry.begin < position else "leaves a hole before it"
            raise MalformedArtifact(f"tensor {name!r} {fault}: it begins at {entry.begin}, expected {position}")
        if entry.end > body_bytes:
            raise MalformedArtifact(f"truncated: tensor {name!r} ends at {entry.end}, {body_bytes} bytes are there")
        position = entry.end
    if position != body_bytes:
        raise MalformedArtifact(f"{body_bytes - position} bytes behind the last tensor belong to none")


def _array(entry: _Entry, body: memoryview) -> Array:
    numpy_type = np.dtype(_NUMPY_TYPES[entry.dtype])
    if entry.begin == entry.end:
        return np.empty(entry.shape, np.float32 if entry.dtype == "BF16" else numpy_type)
    flat: Array = np.frombuffer(body[entry.begin : entry.end], numpy_type)
    if not flat.flags.aligned:  # another writer's order; engines want aligned rows
        flat = flat.copy()
    if entry.dtype == "BF16":
        flat = (flat.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return flat.reshape(entry.shape)
