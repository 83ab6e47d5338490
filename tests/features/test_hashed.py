"""Laws of hashed indices: a hash decides how fast an answer is, never what it is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from features.decimals import as_integer, as_integers
from features.errors import MalformedTensors
from features.hashing import PerfectHash, hash_integers
from features.index import HASHED_FROM, RawIndex

INT64 = st.integers(min_value=-(2**63), max_value=2**63 - 1)
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=60)
# few values, so that what is asked for is often there
NEAR = st.one_of(st.integers(-30, 30), st.sampled_from(["7", "007", "-0", "a", "ab", "é", "ab\0", "\ud800", "x" * 255]))
BITS = st.sampled_from([1, 3, 64])


def expected(indexed: list[Any], asked: list[Any]) -> list[int]:
    """What a dict says: texts sorted by bytes, or integers where all are canonical ones."""
    index = RawIndex.from_values(indexed)
    places = {index.raw(i): i for i in range(len(index))}
    return [places.get(str(value), -1) for value in asked]


@settings(deadline=None)  # a loaded machine is no fault
@given(st.lists(st.one_of(INT64, TEXT, NEAR.filter(lambda v: str(v) not in ("ab\0", "\ud800"))), max_size=40), BITS,
       st.lists(st.one_of(INT64, st.text(max_size=300), NEAR), max_size=40))  # fmt: skip
def test_hashed_index_answers_as_a_dict_does_however_many_hashes_collide(
    indexed: list[str | int], bits: int, asked: list[str | int]
) -> None:
    """Law: hits, misses, integers beside their texts, unicode, overlong and NUL questions: exactly a dict's answers."""
    hashed = RawIndex.from_values(indexed).hashed(least=1, hash_bits=bits)
    asked = [*indexed, *asked]
    assert hashed.find(asked).tolist() == expected(indexed, asked)
    assert hashed.find(list(map(str, asked))).tolist() == expected(indexed, asked)
    assert len(hashed) == len(RawIndex.from_values(indexed))
    sieved = RawIndex.from_values(indexed).hashed(least=1, hash_bits=bits, mostly_unknown=True)
    assert sieved.find(asked).tolist() == expected(indexed, asked)


@settings(deadline=None)  # a loaded machine is no fault
@given(st.lists(INT64, min_size=1, max_size=40), st.lists(INT64, max_size=20), BITS)
def test_hashed_integers_are_found_as_list_array_and_text_alike(values: list[int], more: list[int], bits: int) -> None:
    """Law: an integer id means the same as a Python integer, in a numpy array and as its decimal text."""
    hashed = RawIndex.from_values(values).hashed(least=1, hash_bits=bits)
    asked = values + more
    found = hashed.find(asked).tolist()
    assert found == hashed.find(np.array(asked, np.int64)).tolist() == hashed.find([str(v) for v in asked]).tolist()
    assert [hashed.raw(position) for position in found[: len(values)]] == [str(value) for value in values]


@pytest.mark.parametrize("values", [list(range(-500, 3000, 7)), [f"item {i} é" for i in range(900)], ["x" * 255, "y"]])
def test_hashed_index_survives_its_tensors_and_equal_content_is_equal_bytes(values: list[Any]) -> None:
    """Law: what is read again finds the same, and the order that values came in leaves no trace."""
    hashed = RawIndex.from_values(values).hashed(least=1)
    tensors = hashed.to_tensors("index")
    other = RawIndex.from_values(values[::-1]).hashed(least=1).to_tensors("index")
    assert {name: array.tobytes() for name, array in tensors.items()} == {
        name: array.tobytes() for name, array in other.items()
    }
    for array in tensors.values():
        array.flags.writeable = False
    again = RawIndex.from_tensors(tensors, "index")
    asked = [*values, "nobody", -1, 2**70]
    assert again.find(asked).tolist() == hashed.find(asked).tolist() == expected(values, asked)
    assert list(again.values()) == list(RawIndex.from_values(values).values())


def test_index_file_without_hash_is_searched_and_with_it_says_the_same() -> None:
    """Law: the tensors of an older file are read as before; the hash is found only in those that have it."""
    for values in ([f"u{i}" for i in range(50)], list(range(50))):
        plain = RawIndex.from_tensors(RawIndex.from_values(values).to_tensors("i"), "i")
        assert "i.slots" not in plain.to_tensors("i")
        assert plain.find(values).tolist() == plain.hashed(least=1).find(values).tolist()


def test_small_index_stays_unhashed() -> None:
    """Law: below HASHED_FROM values nothing is added, so a small table's file keeps its bytes."""
    assert "i.slots" not in RawIndex.from_values(range(HASHED_FROM - 1)).hashed().to_tensors("i")
    assert "i.slots" in RawIndex.from_values(range(HASHED_FROM)).hashed().to_tensors("i")
    assert RawIndex.from_values([]).hashed(least=0).find(["a"]).tolist() == [-1]


def test_perfect_hash_places_every_row_and_costs_few_bytes() -> None:
    """Law: distinct hashes leave no row over, each is its own candidate, at 7 bytes a row or less."""
    for n in (1, 2, 3, 1000, 30_000):
        hashes = hash_integers(np.arange(n) * 1024)
        built = PerfectHash.build(hashes)
        assert built.candidates(hashes).tolist() == list(range(n))
        assert len(built.left_over) == 0
        if n > 100:
            assert sum(array.nbytes for array in built.to_tensors("i").values()) <= 7 * n


def _moved(name: str, change: Any) -> dict[str, NDArray[Any]]:
    tensors = RawIndex.from_values(["a", "b", "c", "d"]).hashed(least=1).to_tensors("i")
    tensors[f"i.{name}"] = change(tensors[f"i.{name}"])
    return tensors


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (_moved("slots", lambda a: a + 1), r"i.slots must lie in \[0, 4\)"),
        (_moved("slots", lambda a: a - 1), r"i.slots must lie in \[0, 4\)"),
        (_moved("slots", lambda a: a[:-1]), "not of a table of 4 rows"),
        (_moved("slots", lambda a: a.astype(np.int64)), "i.slots is missing or not int32"),
        (_moved("slots", lambda a: a * 0), "is not where its hash says"),
        (_moved("pilots", lambda a: a[:-1]), "not of a table of 4 rows"),
        (_moved("pilots", lambda a: a[:, None]), "i.pilots is missing"),
        (_moved("left_over", lambda a: np.array([4], np.int32)), "i.left_over must lie"),
        (_moved("left_over", lambda a: np.array([1, 1], np.int32)), "i.left_over must be strictly increasing"),
        (_moved("bytes", lambda a: a[::-1].copy()), "sorted"),
    ],
)
def test_broken_hash_is_refused_by_name(tensors: dict[str, NDArray[Any]], message: str) -> None:
    """Law: a hash from a file is believed only if it finds every row and can name no row that is not there."""
    with pytest.raises(MalformedTensors, match=message):
        RawIndex.from_tensors(tensors, "i")


def test_rows_left_over_are_found() -> None:
    """Law: a file may leave any row over; it is searched instead."""
    tensors = _moved("left_over", lambda a: np.array([1, 3], np.int32))
    assert RawIndex.from_tensors(tensors, "i").find(["d", "c", "b", "a", "e"]).tolist() == [3, 2, 1, 0, -1]


DECIMALS = st.one_of(
    st.integers(-(2**65), 2**65).map(str),
    st.text("0123456789-+ 7.é\0", max_size=22),
    st.sampled_from(["0", "-0", "00", "007", "9" * 18, "9" * 19, str(2**63 - 1), str(-(2**63)), str(2**63), "\uff17"]),
)


@settings(deadline=None)  # a loaded machine is no fault
@given(st.lists(DECIMALS, min_size=40, max_size=60))
def test_many_decimals_are_parsed_as_each_by_itself(texts: list[str]) -> None:
    """Law: parsing eight digits a step gives what the regular expression and `int` give one by one."""
    numbers, canonical = as_integers(texts)
    alone = [as_integer(text) for text in texts]
    assert [int(n) if ok else None for n, ok in zip(numbers, canonical, strict=True)] == alone
