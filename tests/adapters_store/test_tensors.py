"""Tensor files: one byte form, and a reader that trusts no claim."""

from __future__ import annotations

import struct
import tracemalloc
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from adapters_store.canonical import canonical_json
from adapters_store.errors import ArtifactError, LimitExceeded, MalformedArtifact, StoreUnavailable
from adapters_store.tensors import Array, Bfloat16, TensorLimits, read_tensors, write_tensors

LIMITS = TensorLimits(bytes=2**20, tensors=50, header_bytes=2**14)
DTYPES = [np.float64, np.float32, np.float16, np.int64, np.int32, np.int16, np.int8, np.uint8]
ARRAYS = st.sampled_from(DTYPES).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5))
)
META: dict[str, object] = {"__metadata__": {"espalier": "{}"}}


def file(header: object, body: bytes = b"", claimed: int | None = None) -> bytes:
    """A tensor file with any header."""
    text = header if isinstance(header, bytes) else canonical_json(header)
    return struct.pack("<Q", len(text) if claimed is None else claimed) + text + body


def entry(shape: Any = (2,), offsets: Any = (0, 8), dtype: Any = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def content_of(content: bytes) -> object:
    """All that a tensor file says."""
    found = read_tensors(content, LIMITS)
    return found.metadata, found.dtypes, {name: (array.shape, array.tobytes()) for name, array in found.tensors.items()}


@given(st.dictionaries(st.text(min_size=1).filter(lambda name: name != "__metadata__"), ARRAYS, max_size=5))
def test_what_is_written_reads_back(tensors: dict[str, Array]) -> None:
    """Law: names, dtypes, shapes and bits survive; the safetensors library reads the same."""
    content = write_tensors(tensors, {"a": 1})
    found = read_tensors(content, LIMITS)
    assert found.metadata == {"a": 1}
    assert set(found.tensors) == set(tensors)
    others = safetensors.numpy.load(content)
    for name, tensor in tensors.items():
        for read in (found.tensors[name], others[name]):
            assert read.dtype == tensor.dtype
            assert read.shape == tensor.shape
            assert read.tobytes() == tensor.tobytes()


@pytest.mark.parametrize("length", range(0, 80, 7))
def test_the_first_tensor_begins_where_it_is_asked_to(length: int) -> None:
    """Law: an alignment pads the header and changes nothing else; without one a file is what it always was."""
    tensors = {"a": np.arange(3, dtype=np.float64), "b": np.ones(5, np.float32)}
    plain, wide = write_tensors(tensors, {"x": "." * length}), write_tensors(tensors, {"x": "." * length}, 64)
    body = sum(tensor.nbytes for tensor in tensors.values())
    assert (len(wide) - body) % 64 == 0
    assert wide[-body:] == plain[-body:]
    assert read_tensors(wide, LIMITS).metadata == {"x": "." * length}
    assert write_tensors(tensors, {"x": "." * length}, 8) == plain


def test_same_tensors_are_the_same_bytes() -> None:
    """Law: the digest does not depend on insertion order, memory order or byte order."""
    a, b = np.arange(6, dtype=np.float32).reshape(2, 3), np.arange(4, dtype=np.int64)
    first = write_tensors({"a": a, "b": b}, {"x": 1, "y": 2})
    swapped = {"b": b.astype(">i8"), "a": np.asfortranarray(a)}
    assert write_tensors(swapped, {"y": 2, "x": 1}) == first


def test_arrays_are_aligned_views_of_the_file(tmp_path: Path) -> None:
    """Law: reading copies nothing, from bytes and from a mapped path alike."""
    path = tmp_path / "some.safetensors"
    path.write_bytes(write_tensors({"a": np.arange(3, dtype=np.uint8), "b": np.arange(5.0)}, {}))
    for source in (path, path.read_bytes()):
        for tensor in read_tensors(source, LIMITS).tensors.values():
            assert tensor.flags.aligned
            assert not tensor.flags.owndata
            assert not tensor.flags.writeable


def test_file_of_another_writer_is_read(tmp_path: Path) -> None:
    """Law: any safetensors writer may make an artifact, aligned or not."""
    tensors = {"odd": np.arange(3, dtype=np.uint8), "wide": np.arange(4.0)}
    content = safetensors.numpy.save(tensors, {"espalier": "{}"})
    for name, tensor in read_tensors(content, LIMITS).tensors.items():
        np.testing.assert_array_equal(tensor, tensors[name])
    shifted = file(
        META | {"a": entry((1,), (0, 1), "U8"), "b": entry((1,), (1, 9), "F64")}, b"\7" + struct.pack("<d", 2.5)
    )
    assert read_tensors(shifted, LIMITS).tensors["b"].tolist() == [2.5]


@given(hnp.arrays(np.float32, 8, elements=st.floats(width=32, allow_nan=False)))
def test_bfloat16_rounds_to_nearest(values: Array) -> None:
    """Law: a BF16 tensor comes back as the nearest value that BF16 has, within half a step of 2^-8."""
    found = read_tensors(write_tensors({"a": Bfloat16.of(values)}, {}), LIMITS)
    assert found.dtypes == {"a": "BF16"}
    assert found.tensors["a"].dtype == np.float32
    finite = np.abs(values) < 3e38
    np.testing.assert_allclose(found.tensors["a"][finite], values[finite], rtol=2**-8, atol=1e-40)


def test_bfloat16_keeps_what_is_not_finite() -> None:
    """Law: NaN and infinity stay, so that verification can see them."""
    values = np.array([np.nan, np.inf, -np.inf, 1.0], np.float32)
    found = read_tensors(write_tensors({"a": Bfloat16.of(values)}, {}), LIMITS).tensors["a"]
    np.testing.assert_array_equal(found, values)


def test_dtype_without_a_place_is_refused_in_writing() -> None:
    """Law: what a reader would refuse is not written."""
    with pytest.raises(ValueError, match="tensor 'a' has dtype complex64"):
        write_tensors({"a": np.zeros(2, np.complex64)}, {})


GROWING = file(META | {"a": entry([2**18 + 8], [0, 2**19 + 16], "BF16")}, b"0" * (2**19 + 16))
FAULTS: list[tuple[str, bytes, type[ArtifactError], str]] = [
    ("empty", b"", MalformedArtifact, "truncated: 0 bytes"),
    ("no header", b"\0" * 7, MalformedArtifact, "truncated: 7 bytes"),
    ("2 GB header", file(b"{}", claimed=2**31), LimitExceeded, "the header claims 2147483648 bytes"),
    ("2^64 header", file(b"{}", claimed=2**64 - 1), LimitExceeded, "the header claims"),
    ("header past the end", file(b"{}", claimed=300), MalformedArtifact, "truncated: the header claims 300"),
    ("pickle", b"\x80\x04\x95" + b"x" * 100, MalformedArtifact, "pickle"),
    ("no json", file(b"{]"), MalformedArtifact, "no JSON"),
    ("json list", file([]), MalformedArtifact, "no JSON object"),
    ("leading space", file(b" " + canonical_json(META)), MalformedArtifact, "no JSON object"),
    ("no utf-8", file(b'{"\xff":1}'), MalformedArtifact, "no JSON"),
    ("duplicate key", file(b'{"a":1,"a":2}'), MalformedArtifact, "duplicate JSON key 'a'"),
    ("deep json", file(b'{"a":' + b"[" * 9000), MalformedArtifact, "nested too deeply"),
    ("no metadata", file({}), MalformedArtifact, "exactly one entry, 'espalier'"),
    ("two entries", file({"__metadata__": {"espalier": "{}", "x": ""}}), MalformedArtifact, "exactly one entry"),
    ("metadata no string", file({"__metadata__": {"espalier": {}}}), MalformedArtifact, "must be a string"),
    ("metadata no json", file({"__metadata__": {"espalier": "{"}}), MalformedArtifact, "'espalier' is no JSON"),
    ("metadata twice", file({"__metadata__": {"espalier": '{"k":1,"k":1}'}}), MalformedArtifact, "duplicate JSON key"),
    ("entry no object", file(META | {"a": 3}), MalformedArtifact, "tensor 'a': an entry has exactly"),
    ("entry with more", file(META | {"a": entry() | {"x": 1}}), MalformedArtifact, "tensor 'a'"),
    ("dtype", file(META | {"a": entry(dtype="F8")}, b"0" * 8), MalformedArtifact, "dtype 'F8' is none of"),
    ("dtype no string", file(META | {"a": entry(dtype=[1])}, b"0" * 8), MalformedArtifact, "is none of"),
    ("negative", file(META | {"a": entry([-2])}, b"0" * 8), MalformedArtifact, "integers >= 0"),
    ("fraction", file(META | {"a": entry([2.0])}, b"0" * 8), MalformedArtifact, "integers >= 0"),
    ("boolean", file(META | {"a": entry([True])}, b"0" * 8), MalformedArtifact, "integers >= 0"),
    ("offsets", file(META | {"a": entry(offsets=[0])}, b"0" * 8), MalformedArtifact, "integers >= 0"),
    ("shape", file(META | {"a": entry([3])}, b"0" * 8), MalformedArtifact, r"'a': shape \[3\] of F32 is 12 bytes"),
    ("backwards", file(META | {"a": entry([2], [8, 0])}, b"0" * 8), MalformedArtifact, "'a'"),
    ("dimensions", file(META | {"a": entry([1] * 40 + [2])}, b"0" * 8), LimitExceeded, "41 dimensions"),
    ("overflow", file(META | {"a": entry([2**32, 2**32])}, b""), LimitExceeded, "tensor 'a': shape"),
    ("overflow to 0", file(META | {"a": entry([2**62, 4, 0], [0, 0])}), LimitExceeded, "tensor 'a': shape"),
    ("huge shape", file(META | {"a": entry([2**40], [0, 2**42])}), LimitExceeded, "tensor 'a': shape"),
    ("past the end", file(META | {"a": entry()}, b"0" * 7), MalformedArtifact, "truncated: tensor 'a' ends at 8"),
    ("trailing", file(META | {"a": entry()}, b"0" * 9), MalformedArtifact, "1 bytes behind the last tensor"),
    ("overlap", file(META | {"a": entry(), "b": entry((2,), (4, 12))}, b"0" * 12), MalformedArtifact, "'b' overlaps"),
    ("same place", file(META | {"a": entry(), "b": entry()}, b"0" * 8), MalformedArtifact, "'b' overlaps"),
    ("hole", file(META | {"a": entry(), "b": entry((1,), (12, 16))}, b"0" * 16), MalformedArtifact, "leaves a hole"),
    ("too many", file(META | {f"{i}": entry((0,), (0, 0)) for i in range(51)}), LimitExceeded, "51 tensors"),
    ("too large", b"0" * (2**20 + 1), LimitExceeded, "1048577 bytes, more than the limit"),
    ("bf16 grows", GROWING, LimitExceeded, "BF16 tensors of 1048608 bytes as float32"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "error", "message"), [f[1:] for f in FAULTS], ids=[f[0] for f in FAULTS])
def test_malformed_file_is_refused_by_name(content: bytes, error: type[ArtifactError], message: str) -> None:
    """Law: each fault is refused with a message that names it."""
    with pytest.raises(error, match=message):
        read_tensors(content, LIMITS)


@pytest.mark.parametrize("content", [fault[1] for fault in FAULTS if fault[0] != "too large"])
def test_refusing_allocates_nothing_in_proportion_to_a_claim(content: bytes) -> None:
    """Law: memory is bounded by the bytes that are there, whatever they claim."""
    tracemalloc.start()
    try:
        with pytest.raises(ArtifactError):
            read_tensors(content, LIMITS)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


VALID = write_tensors({"a": np.arange(6.0).reshape(2, 3), "b": np.ones(3, np.float16)}, {"kind": "lora", "n": [1, 2]})


@given(st.integers(0, len(VALID) - 1))
def test_truncation_anywhere_is_refused(length: int) -> None:
    """Law: no prefix of a file is a file."""
    with pytest.raises(ArtifactError):
        read_tensors(VALID[:length], LIMITS)


@given(st.integers(0, len(VALID) * 8 - 1))
def test_bit_flip_is_refused_or_reads_as_other_content(bit: int) -> None:
    """Law: damaged bytes never crash the reader: they are refused, or are a well-formed file of other content."""
    damaged = bytearray(VALID)
    damaged[bit // 8] ^= 1 << (bit % 8)
    with suppress(ArtifactError):
        assert content_of(bytes(damaged)) != content_of(VALID)


@given(st.binary(max_size=200), st.binary(max_size=50))
def test_any_bytes_are_refused_or_read(header: bytes, body: bytes) -> None:
    """Law: no input makes the reader raise anything but its own errors."""
    for content in (header + body, file(header, body), file(b'{"__metadata__":{"espalier":"{}"},' + header, body)):
        with suppress(ArtifactError):
            read_tensors(content, LIMITS)


def test_path_that_cannot_be_read_is_a_store_error(tmp_path: Path) -> None:
    """Law: an absent file is no malformed one; an empty file is."""
    with pytest.raises(StoreUnavailable, match=r"absent\.safetensors"):
        read_tensors(tmp_path / "absent.safetensors", LIMITS)
    (tmp_path / "empty").touch()
    with pytest.raises(MalformedArtifact, match="truncated"):
        read_tensors(tmp_path / "empty", LIMITS)
