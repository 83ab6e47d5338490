"""A new domain's rows are encoded as the service will encode its requests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from adapters_store.feature_tables import SIDES
from service.tables import FeatureTables
from tests.factory import Sizes
from tests.training.newcomer.world import (
    DOMAIN,
    NEW_ITEMS,
    NEW_USERS,
    frame_of,
    ground_of,
    make_bundle,
    rows_of,
)
from training.newcomer.encoding import encode_rows
from training.newcomer.errors import BadRows, UnknownIds
from training.newcomer.ground import Ground


@pytest.fixture(scope="module", params=["listed", "hashed"])
def ground(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Ground:
    """A bundle in a folder of its own; `hashed` vocabularies of hour and tags, and given vectors of items."""
    sizes = Sizes(by_item=True, hashed=request.param == "hashed", picture=request.param == "hashed")
    return ground_of(make_bundle(tmp_path_factory.mktemp("encoding") / "bundle", sizes))


def with_new(ground: Ground, folder: Path) -> Ground:
    """The same with two users and an item that no table knows."""
    pl.DataFrame(NEW_USERS).write_parquet(folder / "users.parquet")
    items = pl.DataFrame(NEW_ITEMS)
    if any(field.name == "picture" for field in ground.bundle.manifest.fields):
        items = items.with_columns(picture=pl.Series(["item-3"]))
    items.write_parquet(folder / "items.parquet")
    return ground.with_files({"users": folder / "users.parquet", "items": folder / "items.parquet"})


def test_rows_equal_what_the_service_encodes_field_by_field(ground: Ground, tmp_path: Path) -> None:
    """Law: every field of every row, new ids and missing context included, is the service's for that request."""
    grown = with_new(ground, tmp_path)
    frame = frame_of(60)
    mine = pl.DataFrame({"user_id": ["u-new", "90001"], "item_id": ["brand new", "item-3"], "label": [1, 0]})
    frame = pl.concat([frame, mine.with_columns(hour=pl.lit(7, pl.Int64), age_days=pl.lit(None, pl.Float64))])
    found = encode_rows(rows_of(frame), grown).dataset.rows(np.arange(len(frame)))
    tables = FeatureTables(ground.bundle)
    for side in SIDES:
        loaded = ground.tables[side]
        table = loaded.table.under([grown.added[side].rows])
        tables = tables.with_side(side, replace(loaded, table=table))
    for i, row in enumerate(frame.iter_rows(named=True)):
        context = {name: row[name] for name in ("hour", "age_days")}
        expected = tables.encode(row["user_id"], [row["item_id"]], DOMAIN, context).rows
        own = found.take(np.array([i]))
        assert set(own.arrays) == set(expected.arrays)
        for name, array in expected.arrays.items():
            assert array.dtype == own.arrays[name].dtype, name
            np.testing.assert_array_equal(own.arrays[name], array, err_msg=f"row {i}, {name}")


def test_lists_of_context_are_encoded_as_a_request_s(tmp_path: Path) -> None:
    """Law: a list with a missing element, an empty one and a missing one are what the service makes of them."""
    ground = ground_of(make_bundle(tmp_path / "bundle"))
    fields = [
        field.model_copy(update={"of": "context", "name": "tags"}) if field.name == "tags" else field
        for field in ground.bundle.manifest.fields
    ]
    ground.bundle.manifest = ground.bundle.manifest.model_copy(update={"fields": fields})
    lists = [["tag 1", None, "tag 4"], [], None, ["unheard of", "tag 2"]]
    frame = frame_of(4).with_columns(tags=pl.Series(lists, dtype=pl.List(pl.String)))
    rows = encode_rows(rows_of(frame), ground).dataset.rows(np.arange(4))
    assert rows.arrays["tags.offsets"].tolist() == [0, 2, 2, 2, 4]
    expected = ground.vocabulary.rows("tags", ["tag 1", "tag 4", "unheard of", "tag 2"])
    np.testing.assert_array_equal(rows.arrays["tags.values"], expected)


def test_ids_that_no_table_has_are_refused_by_number_and_name(ground: Ground, tmp_path: Path) -> None:
    """Law: unknown users and items are counted, some named, with the option that brings them; both sides at once."""
    frame = frame_of(10).with_columns(user_id=pl.Series(["u-new", *["3"] * 9]), item_id=pl.Series(["gone"] * 10))
    with pytest.raises(UnknownIds) as refused:
        encode_rows(rows_of(frame), ground)
    assert "lacks 1 users that the rows name, such as 'u-new': give them by --users FILE" in str(refused.value)
    assert "lacks 1 items that the rows name, such as 'gone': give them by --items FILE" in str(refused.value)
    with pytest.raises(UnknownIds, match="'gone': --items FILE does not have them either") as still:
        encode_rows(rows_of(frame), with_new(ground, tmp_path))
    assert "users" not in str(still.value)


def test_values_that_cannot_be_encoded_are_refused(ground: Ground) -> None:
    """Law: an id with a NUL, and a number of context that is not finite, are named."""
    with pytest.raises(BadRows, match="NUL"):
        encode_rows(rows_of(frame_of(4).with_columns(user_id=pl.Series(["1", "2", "a\0", "3"]))), ground)
    with pytest.raises(BadRows, match="'age_days' holds inf"):
        encode_rows(rows_of(frame_of(4).with_columns(age_days=pl.lit(float("inf")))), ground)


def test_new_ids_of_a_file_are_added_and_known_ones_left_alone(ground: Ground, tmp_path: Path) -> None:
    """Law: a file's ids that the table has keep their row there; only the others are in the layer, in its order."""
    pl.DataFrame(
        {
            "id": ["9", "100", "7", "zz", "90001"],
            "segment": ["a", "b", "c", None, "b"],
            "division.segment": ["segment-a"] * 5,
        }
    ).write_parquet(tmp_path / "users.parquet")
    added = ground.with_files({"users": tmp_path / "users.parquet"}).added["users"]
    assert added.known == 2
    ids = ["100", "zz", "90001"]
    places = added.rows.index.find(ids)
    assert sorted(places.tolist()) == [0, 1, 2]
    assert added.rows.columns.arrays["segment"][places].tolist() == [2, 0, 2]
    assert added.rows.divisions["segment"][places].tolist() == [0, 0, 0]
    pl.DataFrame({"id": ["9", "100", "90001"], "segment": ["a", "b", "c"]}).write_parquet(tmp_path / "users.parquet")
    integers = ground.with_files({"users": tmp_path / "users.parquet"}).added["users"].rows
    assert integers.columns.arrays["segment"][integers.index.find(["100", "90001"])].tolist() == [2, 3]


def test_a_file_that_deletes_ids_is_refused(ground: Ground, tmp_path: Path) -> None:
    """Law: a new domain adds ids and takes none away."""
    pl.DataFrame({"id": ["9"], "segment": ["a"], "deleted": [True]}).write_parquet(tmp_path / "users.parquet")
    with pytest.raises(BadRows, match=r"users.parquet deletes 1 ids; a new domain only adds some"):
        ground.with_files({"users": tmp_path / "users.parquet"})
