"""A hashed vocabulary: every value has a row, always the same, whatever form it comes in."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.errors import InvalidValue, MalformedTensors
from features.fields import Field
from features.index import RawIndex
from features.vocabulary import Vocabulary

FIELD = Field(name="city", kind="sparse", of="context", vocabulary_size=14, width=4)


@given(st.lists(st.one_of(st.integers(-(2**63), 2**63 - 1), st.text(max_size=20)), max_size=20), st.integers(1, 1000))
def test_positions_are_the_hashes(values: list[str | int], buckets: int) -> None:
    """Law: position = blake2b of 8 bytes of the value's UTF-8, modulo n; an integer counts as its decimal string."""
    found = RawIndex.of_buckets(buckets).find(values)
    digests = [blake2b(str(value).encode("utf-8", "surrogatepass"), digest_size=8).digest() for value in values]
    assert found.tolist() == [int.from_bytes(digest, "little") % buckets for digest in digests]


def test_rows_never_change() -> None:
    """Law: the hash is part of a bundle's form: these are the positions that were first written down."""
    index = RawIndex.of_buckets(1_000_003)
    assert index.find(["Berlin", "7", 7, "", "Zürich"]).tolist() == [313_662, 119_392, 119_392, 984_010, 971_170]
    assert index.find(np.array([7, -7])).tolist()[0] == 119_392


def test_a_vocabulary_makes_the_round_trip() -> None:
    """Law: a bundle keeps the number of buckets alone, and reads it back; row 0 stays for what is missing."""
    vocabulary = Vocabulary({"city": RawIndex.of_buckets(13)})
    tensors = vocabulary.to_tensors()
    assert list(tensors) == ["city.buckets"]
    again = Vocabulary.from_tensors(tensors, [FIELD])
    rows = again.rows("city", [f"city {i}" for i in range(500)])
    assert set(rows.tolist()) == set(range(1, 14))
    assert np.array_equal(rows, vocabulary.rows("city", [f"city {i}" for i in range(500)]))
    assert again["city"].hashed(1) is again["city"]


@pytest.mark.parametrize("buckets", [np.zeros(1, np.int64), np.ones(2, np.int64), np.ones(1, np.int32)])
def test_a_broken_file_is_refused(buckets: Any) -> None:
    """Law: no buckets, several numbers, and another type are refused; so is a size that is not the field's."""
    with pytest.raises(MalformedTensors, match=r"city\.buckets must be int64"):
        Vocabulary.from_tensors({"city.buckets": buckets}, [FIELD])
    with pytest.raises(MalformedTensors, match="vocabulary_size 14"):
        Vocabulary.from_tensors({"city.buckets": np.array([2**40])}, [FIELD])


def test_a_hash_has_no_way_back() -> None:
    """Law: who asks a hashed vocabulary for its raw values is told that there are none."""
    index = RawIndex.of_buckets(5)
    with pytest.raises(InvalidValue, match="names none"):
        index.raw(3)
    with pytest.raises(InvalidValue, match="keeps no raw values"):
        index.values()
