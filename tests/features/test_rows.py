"""Laws of encoded rows, feature tables and the lookup, each held to a plain per-row reading."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from features.errors import MalformedTensors
from features.fields import Division, Field, Normalization
from features.index import RawIndex
from features.lookup import EmbeddingLookup
from features.rows import EncodedRows
from features.tables import FeatureTable

FIELDS = (
    Field(name="brand", kind="sparse", of="item", vocabulary_size=5, width=3),
    Field(name="tags", kind="multi_hot", of="item", vocabulary_size=6, width=3),
    Field(
        name="price",
        kind="dense",
        of="item",
        normalization=Normalization(method="standard", shift=1.0, scale=2.0),
        missing=0.25,
    ),
)
SHELF = Division(name="shelf", natural=False, of="item", field="shelf", rule="value", domains=("shelf-x", "shelf-y"))
LISTS = [[1, 5], [], [2, 2, 3], [4]]


def rows() -> EncodedRows:
    return EncodedRows(
        4,
        {
            "brand": np.array([1, 4, 0, 2], np.int32),
            "tags.values": np.array([value for own in LISTS for value in own], np.int32),
            "tags.offsets": np.array([0, 2, 2, 5, 6], np.int64),
            "price": np.array([0.5, -1.0, 0.0, 2.0], np.float32),
        },
    )


def lists_of(encoded: EncodedRows) -> list[list[int]]:
    values, offsets = encoded.arrays["tags.values"], encoded.arrays["tags.offsets"]
    return [values[start:end].tolist() for start, end in itertools.pairwise(offsets)]


def table() -> FeatureTable:
    domains = {"shelf": np.array([0, 1, -1, 1], np.int32)}
    return FeatureTable(RawIndex.from_values(["a", "b", "c", "d"]), FIELDS, rows(), domains)


def test_take_moves_whole_rows() -> None:
    """Every field of a row goes with it, lists included, in any order and as often as asked."""
    taken = rows().take(np.array([3, 1, 2, 2]))
    assert taken.n == 4
    assert taken.arrays["brand"].tolist() == [2, 4, 0, 0]
    assert lists_of(taken) == [LISTS[3], LISTS[1], LISTS[2], LISTS[2]]


def test_concatenated_parts_are_the_whole() -> None:
    """Cutting rows anywhere and joining the parts changes nothing."""
    whole = rows()
    for cut in range(5):
        parts = [whole.take(np.arange(cut)), whole.take(np.arange(cut, 4))]
        joined = EncodedRows.concatenate(parts)
        assert joined.n == 4
        for name, array in whole.arrays.items():
            assert joined.arrays[name].tolist() == array.tolist()


def test_a_repeated_row_stands_n_times() -> None:
    """One user beside n items: the user's row n times, and only a single row can be repeated."""
    repeated = rows().take(np.array([2])).repeat(3)
    assert repeated.n == 3
    assert lists_of(repeated) == [LISTS[2]] * 3
    with pytest.raises(ValueError, match="one row"):
        rows().repeat(2)


def test_join_puts_columns_side_by_side() -> None:
    """Both sides' columns are there, and sides of different length do not mix."""
    age = EncodedRows(4, {"age": np.zeros(4, np.float32)})
    assert set(rows().join(age).arrays) == {*rows().arrays, "age"}
    with pytest.raises(ValueError, match="cannot join"):
        rows().join(EncodedRows(3, {}))


def test_rows_survive_their_tensors() -> None:
    """What is written under a prefix is read back the same."""
    again = EncodedRows.from_tensors(rows().to_tensors("inputs"), "inputs", FIELDS)
    assert again.n == 4
    assert {name: array.tolist() for name, array in again.arrays.items()} == {
        name: array.tolist() for name, array in rows().arrays.items()
    }


BROKEN: list[tuple[str, NDArray[Any] | None, str]] = [
    ("brand", None, "missing"),
    ("brand", np.array([1, 5, 0, 2], np.int32), "has 5 rows"),
    ("brand", np.array([1, -1, 0, 2], np.int32), "has 5 rows"),
    ("brand", np.array([1, 1, 0, 2], np.int64), "int32"),
    ("brand", np.array([1], np.int32), "differ in their number of rows"),
    ("price", np.array([0, 0, np.nan, 0], np.float32), "not finite"),
    ("tags.values", np.array([1, 5, 2, 2, 3, 6], np.int32), "has 6 rows"),
    ("tags.offsets", np.array([0, 2, 1, 5, 6], np.int64), "rise from 0 to 6"),
]


@pytest.mark.parametrize(("name", "tensor", "message"), BROKEN)
def test_broken_rows_and_tables_are_refused_by_name(name: str, tensor: NDArray[Any] | None, message: str) -> None:
    """A tensor that is missing, of a wrong type or out of range is named, in golden rows and in tables alike."""
    readers = {
        "inputs": lambda tensors: EncodedRows.from_tensors(tensors, "inputs", FIELDS),
        "column": lambda tensors: FeatureTable.from_tensors(tensors, FIELDS, [SHELF]),
    }
    for prefix, read in readers.items():
        tensors = table().tensors() | rows().to_tensors(prefix)
        tensors.pop(f"{prefix}.{name}")
        if tensor is not None:
            tensors[f"{prefix}.{name}"] = tensor
        with pytest.raises(MalformedTensors, match=message):
            read(tensors)


def test_unknown_ids_get_row_zero_the_mean_and_no_list() -> None:
    """An id outside the table is gathered as out of vocabulary, the field's `missing`, an empty list and no domain."""
    positions = table().find(["c", "nobody", "a"])
    gathered = table().gather(positions)
    assert gathered.arrays["brand"].tolist() == [0, 0, 1]
    assert gathered.arrays["price"].tolist() == [0.0, 0.25, 0.5]
    assert lists_of(gathered) == [LISTS[2], [], LISTS[0]]
    assert table().division("shelf", positions).tolist() == [-1, -1, 0]


def test_gathering_never_writes_into_the_table() -> None:
    """Unknown ids are filled in the copy: a memory-mapped, read-only column stays usable."""
    tensors = table().tensors()
    for tensor in tensors.values():
        tensor.flags.writeable = False
    again = FeatureTable.from_tensors(tensors, FIELDS, [SHELF])
    before = again.gather(np.arange(4))
    again.gather(np.full(3, -1))
    assert again.gather(np.arange(4)).arrays["brand"].tolist() == before.arrays["brand"].tolist()


def test_an_empty_table_gathers_unknowns() -> None:
    """No ids at all: every request is of unknown ones, and nothing breaks."""
    nothing = rows().take(np.zeros(0, np.int64))
    empty = FeatureTable(RawIndex.from_values([]), FIELDS, nothing, {"shelf": np.zeros(0, np.int32)})
    gathered = empty.gather(empty.find(["a", "b"]))
    assert gathered.arrays["brand"].tolist() == [0, 0]
    assert lists_of(gathered) == [[], []]
    assert empty.division("shelf", empty.find(["a"])).tolist() == [-1]


def test_a_division_column_must_fit_its_domains() -> None:
    """A position past the division's domains, or a column of another length, is refused."""
    for column in (np.array([0, 2, 0, 0], np.int32), np.array([0, 1], np.int32), np.array([0, 0, 0, 0], np.int64)):
        with pytest.raises(MalformedTensors, match=r"division\.shelf"):
            FeatureTable.from_tensors(table().tensors() | {"division.shelf": column}, FIELDS, [SHELF])


def test_the_lookup_is_a_row_a_mean_or_the_scalar() -> None:
    """Sparse: the table's row. Multi-hot: the mean of the list's rows, zero if empty. Dense: the scalar itself."""
    draw = np.random.default_rng(0)
    tables = {
        "embedding.brand": draw.normal(size=(5, 3)).astype(np.float32),
        "embedding.tags": draw.normal(size=(6, 3)).astype(np.float32),
    }
    vectors = EmbeddingLookup(FIELDS, tables).vectors(rows())
    assert list(vectors) == ["x.brand", "x.tags", "x.price"]
    assert np.array_equal(vectors["x.brand"], tables["embedding.brand"][[1, 4, 0, 2]])
    assert vectors["x.price"].tolist() == [[0.5], [-1.0], [0.0], [2.0]]
    for vector, own in zip(vectors["x.tags"], LISTS, strict=True):
        mean = tables["embedding.tags"][own].astype(np.float64).mean(axis=0) if own else np.zeros(3)
        assert np.allclose(vector, mean, atol=1e-7)


def test_a_lookup_refuses_a_table_of_another_shape() -> None:
    """A table must be there, in float32, with the field's rows and width."""
    with pytest.raises(MalformedTensors, match=r"embedding\.brand is missing"):
        EmbeddingLookup(FIELDS[:1], {})
    with pytest.raises(MalformedTensors, match=r"float32 \(5, 3\)"):
        EmbeddingLookup(FIELDS[:1], {"embedding.brand": np.zeros((4, 3), np.float32)})
