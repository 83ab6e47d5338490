"""Laws of reading users and items from parquet: the encoding is training's, and what is wrong is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.errors import BadTable
from features.fields import Division, Field, Normalization
from features.index import RawIndex
from features.parquet import ReadTable, read_parquet
from features.vocabulary import Vocabulary

FIELDS = (
    Field(name="item_id", kind="sparse", of="item", id=True, vocabulary_size=4, width=2),
    Field(name="brand", kind="sparse", of="item", vocabulary_size=3, width=2),
    Field(name="tags", kind="multi_hot", of="item", vocabulary_size=4, width=2),
    Field(
        name="price",
        kind="dense",
        of="item",
        normalization=Normalization(method="standard", shift=1.0, scale=2.0),
        missing=0.25,
    ),
)
VOCABULARY = Vocabulary(
    {
        "item_id": RawIndex.from_values(["a", "b", "c"]),
        "brand": RawIndex.from_values([7, 12]),
        "tags": RawIndex.from_values(["x", "y", "z"]),
    }
)
SHELF = Division(name="shelf", natural=False, of="item", field="brand", rule="value", domains=("shelf-7", "shelf-12"))
AGE = Division(name="age", natural=False, of="item", field=None, rule="count:5", domains=("new", "old"))
COLUMNS: dict[str, Any] = {
    "id": ["b", "q", "a"],
    "brand": pa.array(["12", None, "99"]),
    "tags": [["z", "w", None, "x"], None, []],
    "price": [3.0, None, 1.0],
}


def read(folder: Path, columns: dict[str, Any], is_delta: bool = False, **options: Any) -> ReadTable:
    pq.write_table(pa.table(columns), folder / "items.parquet", **options)
    return read_parquet(folder / "items.parquet", FIELDS, (SHELF, AGE), VOCABULARY, is_delta)


def test_columns_are_encoded_by_the_vocabulary_and_unknown_values_are_counted(tmp_path: Path) -> None:
    """Law: rows in the order of ids; known values their row, unknown ones 0 and counted, missing ones 0 and not."""
    table = read(tmp_path, COLUMNS)
    arrays = table.rows.columns.arrays
    assert list(table.rows.index.values()) == ["a", "b", "q"]
    assert arrays["item_id"].tolist() == [1, 2, 0]
    assert arrays["brand"].tolist() == [0, 2, 0]
    assert arrays["tags.values"].tolist() == [3, 0, 1]
    assert arrays["tags.offsets"].tolist() == [0, 0, 3, 3]
    assert arrays["price"].tolist() == [0.0, 1.0, 0.25]
    assert table.unknown_values == {"item_id": 1, "brand": 1, "tags": 1}


def test_divisions_come_from_their_column_then_from_the_rule_else_none(tmp_path: Path) -> None:
    """Law: `division.<name>` wins; a rule by value reads its field; what nothing tells is none, and is named."""
    table = read(tmp_path, COLUMNS)
    assert table.rows.divisions["shelf"].tolist() == [-1, 1, -1]
    assert table.rows.divisions["age"].tolist() == [-1, -1, -1]
    assert table.unnamed_divisions == ("age",)
    named = read(tmp_path, COLUMNS | {"division.age": ["old", None, "new"], "division.shelf": [None, None, "shelf-7"]})
    assert named.rows.divisions["age"].tolist() == [0, 1, -1]
    assert named.rows.divisions["shelf"].tolist() == [0, -1, -1]
    assert named.unnamed_divisions == ()
    assert "age" not in read(tmp_path, COLUMNS, is_delta=True).rows.divisions


@pytest.mark.parametrize("kind", ["int32", "uint64", "string", "large_string", "dictionary"])
def test_ids_of_any_type_are_the_same_ids(tmp_path: Path, kind: str) -> None:
    """Law: integers, their texts and dictionaries of them give one index, in the order of integers."""
    ids = pa.array([10, 9, -3 if kind != "uint64" else 3])
    ids = ids.cast("string").dictionary_encode() if kind == "dictionary" else ids.cast(kind)
    index = read(tmp_path, COLUMNS | {"id": ids}).rows.index
    assert index.values().tolist() == sorted([10, 9, 3 if kind == "uint64" else -3])  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", ["int8", "uint64", "string", "large_string", "dictionary", "integer dictionary"])
def test_sparse_values_of_any_type_are_the_same_values(tmp_path: Path, kind: str) -> None:
    """Law: a field's values may be integers, texts or dictionaries of either, with empty ones among them."""
    values = pa.array([12, None, 99])
    if kind.endswith("dictionary"):
        values = (values if kind.startswith("integer") else values.cast("string")).dictionary_encode()
    else:
        values = values.cast(kind)
    table = read(tmp_path, COLUMNS | {"brand": values})
    assert table.rows.columns.arrays["brand"].tolist() == [0, 2, 0]
    assert table.rows.divisions["shelf"].tolist() == [-1, 1, -1]
    assert table.unknown_values["brand"] == 1


def test_table_does_not_depend_on_row_groups_or_order(tmp_path: Path) -> None:
    """Law: however a file is cut or sorted, the encoded table is the same."""
    rng = np.random.default_rng(0)
    n = 3000
    columns = {
        "id": [f"item {i}" for i in range(n)],
        "brand": rng.choice([7, 12, 99], n),
        "tags": [list(rng.choice(["x", "y", "w"], size)) for size in rng.integers(0, 4, n)],
        "price": rng.random(n),
    }
    whole = read(tmp_path, columns)
    order = rng.permutation(n)
    cut = read(tmp_path, {k: pa.array(v).take(pa.array(order)) for k, v in columns.items()}, row_group_size=700)
    assert cut.rows.index.values() == whole.rows.index.values()
    assert cut.unknown_values == whole.unknown_values
    for name, array in whole.rows.columns.arrays.items():
        assert cut.rows.columns.arrays[name].tobytes() == array.tobytes()


def test_delta_takes_ids_away_and_does_not_read_their_columns(tmp_path: Path) -> None:
    """Law: rows marked `deleted` become ids only; the others keep their own values, whatever stands between them."""
    columns = COLUMNS | {"deleted": [True, None, False], "division.age": ["no such", "old", "new"]}
    table = read(tmp_path, columns, is_delta=True)
    assert list(table.rows.index.values()) == ["a", "q"]
    assert list(table.rows.deleted.values()) == ["b"]
    assert table.rows.columns.arrays["item_id"].tolist() == [1, 0]
    assert table.rows.divisions["age"].tolist() == [0, 1]
    assert table.unknown_values == {"item_id": 1, "brand": 1, "tags": 0}


def test_file_without_rows_is_an_empty_table(tmp_path: Path) -> None:
    """Law: no rows are no error: an empty delta changes nothing."""
    empty = pa.table(COLUMNS).slice(0, 0)
    pq.write_table(empty, tmp_path / "items.parquet")
    table = read_parquet(tmp_path / "items.parquet", FIELDS, (SHELF,), VOCABULARY, True)
    assert len(table.rows.index) == len(table.rows.deleted) == table.rows.columns.n == 0


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"brand": None}, "no column 'brand'; it has id, tags, price"),
        ({"id": ["b", None, "a"]}, "the id of row 1 is empty"),
        ({"id": ["b", "a", "b"]}, "id 'b' stands in more than one row"),
        ({"id": [7, 8, 7]}, "id '7' stands in more than one row"),
        ({"id": ["x" * 256, "b", "a"]}, "more than 255 bytes"),
        ({"id": [1.5, 2.0, 3.0]}, "column 'id' holds double; it must hold strings or integers"),
        ({"brand": [1.5, 2.0, 3.0]}, "column 'brand' holds double; it must hold strings or integers"),
        ({"tags": ["x", "y", "z"]}, "column 'tags' holds string; it must hold lists"),
        ({"price": ["1", "2", "3"]}, "column 'price' holds string; it must hold numbers"),
        ({"price": [1.0, float("inf"), 2.0]}, "dense field 'price' holds inf"),
        ({"price": [1.0, 1e300, 2.0]}, "dense field 'price' holds 1e\\+300"),
        ({"deleted": [True, False, False]}, "only a delta deletes"),
        ({"division.age": ["old", "middle", None]}, "division.age holds 'middle', which is none of its domains: new"),
    ],
)
def test_file_that_does_not_fit_is_refused_by_name(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    """Law: the file, and the column, row, id or value at fault are named."""
    changed = {name: value for name, value in (COLUMNS | columns).items() if value is not None}
    with pytest.raises(BadTable, match=f"items.parquet.*{message}"):
        read(tmp_path, changed)


def test_id_with_a_row_and_deleted_is_refused(tmp_path: Path) -> None:
    """Law: a delta says one thing of an id; also where one is an integer's text among words."""
    with pytest.raises(BadTable, match="id 'b' has a row and is deleted in another"):
        read(tmp_path, COLUMNS | {"id": ["b", "q", "b"], "deleted": [True, None, False]}, is_delta=True)
    with pytest.raises(BadTable, match="'deleted' holds string"):
        read(tmp_path, COLUMNS | {"deleted": ["a", "b", "c"]}, is_delta=True)


def test_file_that_is_no_parquet_is_refused(tmp_path: Path) -> None:
    """Law: another kind of file, a truncated one and a missing one are told as such."""
    pq.write_table(pa.table(COLUMNS), tmp_path / "items.parquet")
    whole = (tmp_path / "items.parquet").read_bytes()
    for content in (b"id,brand\n", b"", whole[:-9]):
        (tmp_path / "other.parquet").write_bytes(content)
        with pytest.raises(BadTable, match=r"other\.parquet cannot be read as parquet"):
            read_parquet(tmp_path / "other.parquet", FIELDS, (), VOCABULARY, False)
    with pytest.raises(BadTable, match="cannot be read"):
        read_parquet(tmp_path / "none.parquet", FIELDS, (), VOCABULARY, False)
