"""Laws of raw indices: what is found, what equals what, and what survives a file."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from features.errors import InvalidValue, MalformedTensors
from features.index import RawIndex

INT64 = st.integers(min_value=-(2**63), max_value=2**63 - 1)
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)


@given(st.lists(st.one_of(INT64, TEXT), max_size=40))
def test_every_indexed_value_is_found_at_the_place_that_holds_it(values: list[str | int]) -> None:
    """find and raw are each other's inverse on what was indexed."""
    index = RawIndex.from_values(values)
    positions = index.find(values)
    assert [index.raw(position) for position in positions.tolist()] == [str(value) for value in values]


@given(st.lists(st.one_of(INT64, TEXT), max_size=40), st.lists(st.one_of(INT64, st.text(max_size=300)), max_size=20))
def test_a_value_is_unknown_exactly_when_its_string_was_not_indexed(
    indexed: list[str | int], asked: list[str | int]
) -> None:
    """Any query, of any length and with any character, is found if and only if its string was indexed."""
    known = {str(value) for value in indexed}
    positions = RawIndex.from_values(indexed).find(asked)
    assert [position >= 0 for position in positions.tolist()] == [str(value) in known for value in asked]


@given(st.lists(st.one_of(INT64, TEXT), max_size=40))
def test_an_index_survives_its_tensors(values: list[str | int]) -> None:
    """What was written and read again finds the same."""
    index = RawIndex.from_values(values)
    again = RawIndex.from_tensors(index.to_tensors("field"), "field")
    assert len(again) == len(index)
    assert again.find(values).tolist() == index.find(values).tolist()


@pytest.mark.parametrize("indexed", [["7", "12"], [7, 12], ["7", "twelve", "12"]])
def test_an_integer_equals_its_canonical_decimal_string_and_no_other(indexed: list[str | int]) -> None:
    """7 is "7"; "007", "+7", " 7", "7.0" and a full-width seven are something else, in either form of index."""
    index = RawIndex.from_values(indexed)
    assert index.find(["7"]).tolist() == index.find([7]).tolist() == index.find(np.array([7])).tolist()
    assert index.find([7])[0] >= 0
    assert index.find(["007", "+7", " 7", "7 ", "7.0", "\uff17", "7\0", "", "-7"]).tolist() == [-1] * 9
    assert index.find([12, "007", "7"]).tolist() == [index.find([12])[0], -1, index.find([7])[0]]


def test_integers_beyond_64_bits_are_unknown_and_wrap_to_nothing() -> None:
    """2**64 + 7 is not 7, as a Python integer, a numpy one or a string."""
    index = RawIndex.from_values([7, -1, 2**63 - 1, -(2**63)])
    assert index.find([2**64 + 7, 2**63, -(2**63) - 1]).tolist() == [-1, -1, -1]
    assert index.find(np.array([2**64 - 1], np.uint64)).tolist() == [-1]
    assert index.find([str(2**64 + 7), str(2**63 - 1), str(-(2**63))]).tolist() == [-1, 3, 0]


@pytest.mark.parametrize("first", [-(2**63), -(2**63) + 1, -3, 0, 2**31 - 2, 2**63 - 6])
@given(step=st.integers(1, 12), asked=st.lists(st.one_of(INT64, st.integers(-20, 20)), max_size=12))
def test_close_integers_are_found_as_scattered_ones_are(first: int, step: int, asked: list[int]) -> None:
    """Law: integers that lie close together are looked up without a search, those of either end of 64 bits too, and
    nothing that wraps around is taken for one of them."""
    values = [value for value in range(first, first + 6 * step, step) if value < 2**63]
    near = [min(max(first + offset, -(2**63)), 2**63 - 1) for offset in (*asked, *range(-2, 8))]
    ends = [-(2**63), 2**63 - 1, -1, 0]
    questions = [*near, *(one for one in asked), *ends]
    expected = [values.index(one) if one in values else -1 for one in questions]
    assert RawIndex.from_values(values).find(questions).tolist() == expected


def test_values_are_sorted_by_bytes_so_that_writers_agree() -> None:
    """The position of a value depends on the set of values alone."""
    shuffled = RawIndex.from_values(["é", "b", "a", "z", "a"])
    assert [shuffled.raw(position) for position in range(len(shuffled))] == ["a", "b", "z", "é"]
    assert RawIndex.from_values([3, 1, 2, 1]).to_tensors("f")["f.values"].tolist() == [1, 2, 3]


@pytest.mark.parametrize("value", ["x" * 256, "nul\0byte", "\ud800"])
def test_what_cannot_be_indexed_is_refused_by_name(value: str) -> None:
    """Too long, with a NUL, or no Unicode at all: an error says so."""
    with pytest.raises(InvalidValue, match="raw value"):
        RawIndex.from_values(["fine", value])


def _text(values: bytes, offsets: list[int]) -> dict[str, NDArray[Any]]:
    return {"f.bytes": np.frombuffer(values, np.uint8), "f.offsets": np.array(offsets, np.int64)}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, "neither f.values nor f.bytes"),
        ({"f.values": np.array([1, 1], np.int64)}, "strictly increasing"),
        ({"f.values": np.array([1, 2], np.int32)}, "int64"),
        ({"f.bytes": np.zeros(2, np.uint8)}, "missing"),
        (_text(b"ba", [0, 1, 2]), "sorted"),
        (_text(b"aa", [0, 1, 2]), "sorted"),
        (_text(b"ab", [0, 2, 1]), "rise from 0 to 2"),
        (_text(b"ab", [1, 2]), "rise from 0 to 2"),
        (_text(b"a\xff", [0, 2]), "not UTF-8 at byte 1"),
        (_text("aé".encode(), [0, 2, 3]), "in two"),
        (_text(b"a\0", [0, 2]), "NUL"),
        (_text(b"x" * 300, [0, 300]), "255 bytes"),
    ],
)
def test_a_broken_index_is_refused(tensors: dict[str, NDArray[Any]], message: str) -> None:
    """Tensors from a file are believed only if they describe a sorted list of distinct values."""
    with pytest.raises(MalformedTensors, match=message):
        RawIndex.from_tensors(tensors, "f")


def test_an_empty_index_knows_nothing() -> None:
    """No values, no finds, and nothing breaks."""
    index = RawIndex.from_values([])
    assert len(index) == 0
    assert index.find(["a", 1]).tolist() == [-1, -1]
    assert index.find([]).tolist() == []
