"""Laws of the tables that serve: what a swap changes, and what it leaves to those that run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from adapters_store.backbone import Backbone, read_bundle
from adapters_store.errors import BlobMissing
from adapters_store.feature_publishing import publish_layer
from adapters_store.feature_tables import bundled_revision
from adapters_store.memory import MemoryBackend
from adapters_store.records import FeatureRecord
from adapters_store.store import AdapterStore
from benchmarks.forge import Run
from features.index import RawIndex
from features.layers import Delta
from features.rows import EncodedRows
from service.tables import CurrentTables, FeatureTables, load_side

SIDES = ("users", "items")


@pytest.fixture(scope="module")
def backbone(three_way_run: Run) -> Backbone:
    return read_bundle(three_way_run.folder / "bundle")


@pytest.fixture
async def store(three_way_run: Run) -> AdapterStore:
    store = AdapterStore(MemoryBackend(), lambda: 0.0)
    await store.put_bundle(three_way_run.folder / "bundle")
    return store


async def publish_items(store: AdapterStore, backbone: Backbone, ids: list[str], parent: str | None) -> FeatureRecord:
    n = len(ids)
    columns: dict[str, NDArray[Any]] = {
        "item_id": np.full(n, 5, np.int32),
        "tags.values": np.zeros(0, np.int32),
        "tags.offsets": np.zeros(n + 1, np.int64),
        "price": np.full(n, 0.5, np.float32),
    }
    none = RawIndex.from_values([])
    rows = Delta(RawIndex.from_values(ids), EncodedRows(n, columns), {"shelf": np.full(n, 1, np.int32)}, none)
    await publish_layer(store, backbone, "items", rows, {}, parent=parent, by="test")
    return await store.feature_record(backbone.fingerprint, "items")


async def test_record_that_names_nothing_is_the_bundle_s_own_table(store: AdapterStore, backbone: Backbone) -> None:
    """Law: without a feature record a replica serves the bundle's tables, named by their files' digests."""
    tables = FeatureTables(backbone)
    for side in SIDES:
        assert tables.revisions[side] == bundled_revision(backbone, side)
        for record in (None, FeatureRecord()):
            loaded, revision = await load_side(store, backbone, side, record)
            assert revision == tables.revisions[side]
            assert len(loaded) == len(tables.loaded[side])


async def test_swap_changes_one_side_for_new_requests_only(store: AdapterStore, backbone: Backbone) -> None:
    """Law: who took the pair before a swap keeps rows and names of that pair; who takes it after sees the new one."""
    holder = CurrentTables(FeatureTables(backbone))
    before = holder.current
    record = await publish_items(store, backbone, ["new", "item-3"], before.revisions["items"])
    loaded, revision = await load_side(store, backbone, "items", record, before)
    holder.swap(before.with_side("items", loaded, revision))
    after = holder.current
    assert after.revisions == {"users": before.revisions["users"], "items": record.revision}
    assert before.revisions["items"] == bundled_revision(backbone, "items")
    ids = ["new", "item-3", "item-5", "nobody"]
    old, new = (tables.encode(1, ids, "theme-1", None) for tables in (before, after))
    assert old.unknown_items == [0, 3]
    assert new.unknown_items == [3]
    assert new.rows.arrays["item_id"].tolist()[:2] == [5, 5]
    assert new.rows.arrays["item_id"][2] == old.rows.arrays["item_id"][2]
    assert new.rows.arrays["user_id"].tolist() == old.rows.arrays["user_id"].tolist()
    assert [part.combination for part in after.parts(new, ["shelf"]) if 0 in list(part.positions)] == [("shelf-y",)]  # type: ignore[arg-type]


async def test_delta_is_laid_on_what_serves_without_reading_it_again(store: AdapterStore, backbone: Backbone) -> None:
    """Law: a swap reads the new layers only, so its cost is the delta's; going back to another table reads that."""
    tables = FeatureTables(backbone)
    bundled = tables.revisions["items"]
    record = await publish_items(store, backbone, ["new"], bundled)
    await store.backend.delete_blob(bundled)
    loaded, revision = await load_side(store, backbone, "items", record, tables)
    tables = tables.with_side("items", loaded, revision)
    assert tables.encode(1, ["new", "item-3"], "theme-1", None).unknown_items == []
    with pytest.raises(BlobMissing):
        await load_side(store, backbone, "items", None, tables)
    assert tables.revisions["items"] == record.revision


async def test_side_is_never_loaded_from_the_other_one(store: AdapterStore, backbone: Backbone) -> None:
    """Law: swapping items leaves users as they are, object for object."""
    tables = FeatureTables(backbone)
    record = await publish_items(store, backbone, ["only"], None)
    loaded, revision = await load_side(store, backbone, "items", record, tables)
    swapped = tables.with_side("items", loaded)
    assert swapped.loaded["users"] is tables.loaded["users"]
    assert len(swapped.loaded["items"]) == 1
    assert swapped.revisions["items"] == revision


@pytest.mark.parametrize("ids", [["item-3", "item-1", "nobody", "item-4", "item-1"], ["item-3"] * 3, ["item-2"]])
def test_parts_hold_each_row_once_with_its_own_combination(backbone: Backbone, ids: list[str]) -> None:
    """Law: a row's part names what the row would be alone; parts are in order of combination, rows in theirs."""
    tables = FeatureTables(backbone)
    divisions = tables.auxiliary_divisions
    alone = [tables.parts(tables.encode(1, [item], "theme-1", None), divisions)[0].combination for item in ids]
    parts = tables.parts(tables.encode(1, ids, "theme-1", None), divisions)
    held = [range(len(ids)) if part.positions is None else part.positions.tolist() for part in parts]
    assert sorted(row for rows in held for row in rows) == list(range(len(ids)))
    assert all(list(rows) == sorted(rows) for rows in held)
    assert [[alone[row] for row in rows] for rows in held] == [
        [part.combination] * len(rows) for part, rows in zip(parts, held, strict=True)
    ]
    assert len({part.combination for part in parts}) == len(parts) == len(set(alone))
