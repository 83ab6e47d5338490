"""Laws of layered tables: a delta on a table is the table that one would write anew."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from features.fields import Field
from features.index import RawIndex
from features.layers import Delta, IdTable, LayeredTable
from features.rows import EncodedRows
from features.tables import FeatureTable

FIELDS = (
    Field(name="brand", kind="sparse", of="item", vocabulary_size=9, width=3),
    Field(name="tags", kind="multi_hot", of="item", vocabulary_size=9, width=3),
    Field(name="price", kind="dense", of="item", missing=0.25),
)
IDS: list[str] = [str(i) for i in range(8)] + ["a", "ab", "é", "007"]
ROW = st.tuples(
    st.integers(0, 8), st.lists(st.integers(0, 8), max_size=3), st.sampled_from([0.0, 1.5, -2.0]), st.integers(-1, 2)
)
Row = tuple[int, list[int], float, int]
TABLE = st.dictionaries(st.sampled_from(IDS), ROW, max_size=8)
CHANGES = st.tuples(TABLE, st.sets(st.sampled_from(IDS), max_size=4), st.booleans())


def columns_of(rows: list[Row]) -> EncodedRows:
    return EncodedRows(
        len(rows),
        {
            "brand": np.array([row[0] for row in rows], np.int32),
            "tags.values": np.array([tag for row in rows for tag in row[1]], np.int32),
            "tags.offsets": np.cumsum([0, *(len(row[1]) for row in rows)]).astype(np.int64),
            "price": np.array([row[2] for row in rows], np.float32),
        },
    )


def ordered(rows: dict[str, Row]) -> tuple[RawIndex, list[Row]]:
    index = RawIndex.from_values(list(rows))
    return index, [rows[index.raw(position)] for position in range(len(index))]


def table_of(rows: dict[str, Row]) -> FeatureTable:
    index, listed = ordered(rows)
    return FeatureTable(index, FIELDS, columns_of(listed), {"shelf": np.array([row[3] for row in listed], np.int32)})


def delta_of(rows: dict[str, Row], deleted: set[str], with_division: bool) -> Delta:
    index, listed = ordered(rows)
    shelf = {"shelf": np.array([row[3] for row in listed], np.int32)} if with_division else {}
    return Delta(index, columns_of(listed), shelf, RawIndex.from_values(sorted(deleted)))


def said(table: IdTable, ids: list[str]) -> list[Any]:
    """What a table says of each id: a row and a domain, or nothing."""
    positions = table.find(ids)
    rows = table.gather(positions)
    tags = [
        rows.arrays["tags.values"][start:end].tolist() for start, end in itertools.pairwise(rows.arrays["tags.offsets"])
    ]
    listed = zip(rows.arrays["brand"].tolist(), tags, rows.arrays["price"].tolist(), strict=True)
    shelf = table.division("shelf", positions).tolist()
    return [
        ((brand, own, price, domain) if position >= 0 else None)
        for (brand, own, price), domain, position in zip(listed, shelf, positions.tolist(), strict=True)
    ]


@settings(max_examples=40, deadline=None)
@given(TABLE, st.lists(CHANGES, max_size=4), st.lists(st.sampled_from([*IDS, "nobody"]), max_size=12))
def test_deltas_on_a_table_say_what_the_rebuilt_table_says(
    base: dict[str, Row], changes: list[tuple[dict[str, Row], set[str], bool]], asked: list[str]
) -> None:
    """Law: any deltas (new, changed, deleted, brought back; with and without a division) equal a table written anew."""
    table = LayeredTable(table_of(base), FIELDS, ["shelf"])
    bottom, model = table, dict(base)
    deltas: list[Delta] = []
    for rows, deleted, with_division in changes:
        gone = deleted - set(rows)
        before = table
        answers = said(before, IDS)
        deltas.append(delta_of(rows, gone, with_division))
        table = table.under(deltas[-1:])
        assert said(before, IDS) == answers  # what others hold stays as it is
        for id_, row in rows.items():
            shelf = row[3] if with_division else model[id_][3] if id_ in model else -1
            model[id_] = (*row[:3], shelf)
        model = {id_: row for id_, row in model.items() if id_ not in gone}
    rebuilt = table_of(model)
    assert said(table, asked) == said(rebuilt, asked) == [model.get(id_) for id_ in asked]
    assert said(table, IDS) == said(rebuilt, IDS) == said(bottom.under(deltas), IDS)  # one by one or all at once
    assert len(table) == len(model)
    flat = table.flat().tensors()
    assert {name: array.tobytes() for name, array in flat.items()} == {
        name: array.tobytes() for name, array in rebuilt.tensors().items()
    }


def test_unknown_ids_of_a_layered_table_gather_as_in_any_table() -> None:
    """Law: an id that no layer knows, or that one deleted, is row 0, the field's `missing`, no list and no domain."""
    row: Row = (3, [1, 2], 1.5, 1)
    table = LayeredTable(table_of({"1": row, "2": row}), FIELDS, ["shelf"]).under([delta_of({"3": row}, {"2"}, True)])
    positions = table.find(["2", "nobody", "3"])
    rows = table.gather(positions)
    assert rows.arrays["brand"].tolist() == [0, 0, 3]
    assert rows.arrays["price"].tolist() == [0.25, 0.25, 1.5]
    assert rows.arrays["tags.offsets"].tolist() == [0, 0, 0, 2]
    assert table.division("shelf", positions).tolist() == [-1, -1, 1]


def test_table_without_fields_layers_too() -> None:
    """Law: a side that has ids and divisions but no field is layered like any other."""
    none = EncodedRows(1, {})
    base = FeatureTable(RawIndex.from_values([1]), (), none, {"shelf": np.array([1], np.int32)})
    delta = Delta(RawIndex.from_values([2]), none, {"shelf": np.array([0], np.int32)}, RawIndex.from_values([]))
    table = LayeredTable(base, (), ["shelf"]).under([delta])
    positions = table.find([1, 2, 3])
    assert table.gather(positions).n == 3
    assert table.division("shelf", positions).tolist() == [1, 0, -1]
    assert len(table.flat()) == 2
