"""Laws of feature layers: what is refused, what a chain says, and who may move the record."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from adapters_store.backbone import Backbone, read_bundle, write_bundle
from adapters_store.bounds import ANY_BLOB, Bound
from adapters_store.errors import (
    ArtifactError,
    BlobMissing,
    DoesNotFit,
    LimitExceeded,
    MalformedArtifact,
    RecordConflict,
    WrongFingerprint,
)
from adapters_store.feature_publishing import PublishedLayer, publish_layer
from adapters_store.feature_tables import (
    DELTAS,
    FEATURE_LIMITS,
    bundled_revision,
    bundled_table,
    decode_layer,
    encode_layer,
    layers_of,
    load_table,
)
from adapters_store.file import FileBackend
from adapters_store.manifest import FeatureManifest
from adapters_store.memory import MemoryBackend
from adapters_store.store import AdapterStore
from adapters_store.tensors import Array, TensorLimits, read_tensors, write_tensors
from benchmarks.forge import Run
from features.fields import Division
from features.index import RawIndex
from features.layers import Delta, IdTable
from features.rows import EncodedRows

REVISION = "ab" * 32


@pytest.fixture(scope="module")
def backbone(three_way_run: Run) -> Backbone:
    return read_bundle(three_way_run.folder / "bundle")


@pytest.fixture
def store() -> AdapterStore:
    return AdapterStore(MemoryBackend(), lambda: 0.0)


def items(ids: list[Any], row: int = 1, shelf: int | None = 1, deleted: list[Any] | None = None) -> Delta:
    """Items that all have the same row."""
    n = len(ids)
    columns: dict[str, NDArray[Any]] = {
        "item_id": np.full(n, row, np.int32),
        "tags.values": np.full(2 * n, row % 8, np.int32),
        "tags.offsets": np.arange(n + 1, dtype=np.int64) * 2,
        "price": np.full(n, row / 2, np.float32),
    }
    divisions = {} if shelf is None else {"shelf": np.full(n, shelf, np.int32)}
    return Delta(RawIndex.from_values(ids), EncodedRows(n, columns), divisions, RawIndex.from_values(deleted or []))


def manifest_of(backbone: Backbone, **changes: Any) -> FeatureManifest:
    content = {"side": "items", "layer": "full", "fingerprint": backbone.fingerprint, "rows": 0}
    return FeatureManifest.model_validate(content | {"divisions": {"shelf": ["shelf-x", "shelf-y"]}} | changes)


async def publish(store: AdapterStore, backbone: Backbone, rows: Delta, parent: str | None) -> PublishedLayer:
    return await publish_layer(store, backbone, "items", rows, {"item_id": 2}, parent=parent, by="test")


async def current(store: AdapterStore, backbone: Backbone) -> str | None:
    return (await store.feature_record(backbone.fingerprint, "items")).revision


def said(table: IdTable, ids: list[Any]) -> list[Any]:
    positions = table.find(ids)
    rows, shelf = table.gather(positions).arrays["item_id"].tolist(), table.division("shelf", positions).tolist()
    return [None if p < 0 else (row, own) for p, row, own in zip(positions.tolist(), rows, shelf, strict=True)]


async def test_full_table_takes_the_place_of_the_bundle_s(store: AdapterStore, backbone: Backbone) -> None:
    """Law: after a full publish only its ids are known; its manifest counts what the vocabulary did not have."""
    done = await publish(store, backbone, items(["new", "item-3"], row=5), None)
    assert done.status == "created"
    assert (done.manifest.rows, done.manifest.unknown_values, done.manifest.layer) == (2, {"item_id": 2}, "full")
    loaded = await load_table(store, backbone, "items", await current(store, backbone))
    assert loaded.revision == done.revision
    assert said(loaded.table, ["new", "item-3", "item-1"]) == [(5, 1), (5, 1), None]
    again = await publish(store, backbone, items(["item-3", "new"], row=5), None)
    assert (again.status, again.revision) == ("unchanged", done.revision)


async def test_deltas_are_laid_on_the_bundle_s_own_table(
    store: AdapterStore, backbone: Backbone, run_blobs: Any
) -> None:
    """Law: the first delta names the bundle's file; a chain says the newest of each id and hides what is deleted."""
    await run_blobs(store)
    bundled = bundled_revision(backbone, "items")
    before = bundled_table(backbone, "items").table
    first = await publish(store, backbone, items(["new", "item-3"], row=5, deleted=["item-4"]), bundled)
    second = await publish(store, backbone, items(["new", "item-4"], row=6, shelf=None), first.revision)
    assert await layers_of(store, second.revision) == [second.revision, first.revision, bundled]
    loaded = await load_table(store, backbone, "items", second.revision)
    assert loaded.deltas == second.manifest.deltas == 2
    assert said(loaded.table, ["new", "item-3", "item-4"]) == [(6, 1), (5, 1), (6, -1)]
    assert said(loaded.table, ["item-9"]) == said(before, ["item-9"])
    assert len(loaded) == len(before) + 1
    # what serves already is not read again: without its blob only the newest layer is left to read
    held = await load_table(store, backbone, "items", first.revision)
    for revision in (first.revision, bundled):
        await store.backend.delete_blob(revision)
    grown = await load_table(store, backbone, "items", second.revision, held)
    assert said(grown.table, ["new", "item-3", "item-4"]) == [(6, 1), (5, 1), (6, -1)]
    with pytest.raises(BlobMissing):
        await load_table(store, backbone, "items", second.revision)


@pytest.fixture
def run_blobs(three_way_run: Run) -> Any:
    return lambda store: store.put_bundle(three_way_run.folder / "bundle")


async def test_delta_whose_parent_is_not_current_is_refused_naming_what_is(
    store: AdapterStore, backbone: Backbone, run_blobs: Any
) -> None:
    """Law: of two deltas on one parent the second is refused; the first one again changes nothing."""
    await run_blobs(store)
    bundled = bundled_revision(backbone, "items")
    first = await publish(store, backbone, items(["a"]), bundled)
    with pytest.raises(RecordConflict, match=f"current table of items is {first.revision}, not {bundled}"):
        await publish(store, backbone, items(["b"]), bundled)
    assert (await publish(store, backbone, items(["a"]), bundled)).status == "unchanged"
    assert await current(store, backbone) == first.revision
    assert (await store.feature_record(backbone.fingerprint, "items")).generation == 1


async def test_racing_deltas_leave_one_winner(store: AdapterStore, backbone: Backbone, run_blobs: Any) -> None:
    """Law: publishers that start together move the record once; every other one hears of a conflict."""
    await run_blobs(store)
    bundled = bundled_revision(backbone, "items")
    runs = [publish(store, backbone, items([f"racer-{i}"]), bundled) for i in range(6)]
    results = await asyncio.gather(*runs, return_exceptions=True)
    won = [result.revision for result in results if isinstance(result, PublishedLayer)]
    assert [await current(store, backbone)] == won
    assert all(isinstance(result, (PublishedLayer, RecordConflict)) for result in results)


async def test_longest_chain_is_written_anew_as_a_full_layer(
    store: AdapterStore, backbone: Backbone, run_blobs: Any
) -> None:
    """Law: the delta beyond the longest chain becomes a full layer that says the same as the chain would."""
    await run_blobs(store)
    parent, known = bundled_revision(backbone, "items"), []
    for turn in range(DELTAS + 1):
        done = await publish(store, backbone, items([f"day-{turn}"], row=turn, deleted=[f"item-{turn + 1}"]), parent)
        parent = done.revision
        known.append(f"day-{turn}")
        assert done.manifest.layer == ("delta" if turn < DELTAS else "full")
    assert await layers_of(store, parent) == [parent]
    loaded = await load_table(store, backbone, "items", parent)
    assert said(loaded.table, known) == [(turn, 1) for turn in range(DELTAS + 1)]
    assert said(loaded.table, [f"item-{turn + 1}" for turn in range(DELTAS + 1)]) == [None] * (DELTAS + 1)
    assert said(loaded.table, ["item-60"]) == said(bundled_table(backbone, "items").table, ["item-60"])
    assert len(loaded) == len(bundled_table(backbone, "items"))


async def test_dry_run_writes_nothing(store: AdapterStore, backbone: Backbone) -> None:
    """Law: a dry run names the revision that publishing would make, and leaves the store as it was."""
    rows = items(["a"])
    would = await publish_layer(store, backbone, "items", rows, {}, parent=None, by="test", dry_run=True)
    assert would.status == "verified"
    assert not await store.has(would.revision)
    assert (await publish_layer(store, backbone, "items", rows, {}, parent=None, by="test")).revision == would.revision


async def test_deltas_follow_to_another_bundle_of_the_same_weights(
    store: AdapterStore, backbone: Backbone, run_blobs: Any, tmp_path: Path
) -> None:
    """Law: deltas that were published on the table of one bundle lie on that of another of its fingerprint, also where
    its items are divided otherwise; all that was read is told, and the next delta may be laid on them."""
    await run_blobs(store)
    bundled = bundled_revision(backbone, "items")
    first = await publish(store, backbone, items(["new", "item-3"], row=5, deleted=["item-4"]), bundled)
    second = await publish(store, backbone, items(["item-5"], row=6), first.revision)
    other = redivided(backbone, tmp_path)
    await store.put_bundle(tmp_path / "bundle")
    own = bundled_revision(other, "items")
    assert (other.fingerprint, own == bundled) == (backbone.fingerprint, False)
    loaded = await load_table(store, other, "items", second.revision)
    assert (loaded.revision, loaded.deltas) == (second.revision, 2)
    assert loaded.read == (second.revision, first.revision, bundled, own)
    # shelf-y, which they were published with, stands first in the other bundle
    assert said(loaded.table, ["new", "item-3", "item-5", "item-4"]) == [(5, 0), (5, 0), (6, 0), None]
    beside = [f"item-{i}" for i in range(6, 30)]
    assert said(loaded.table, beside) == said(bundled_table(other, "items").table, beside)
    assert said(loaded.table, beside) != said(bundled_table(backbone, "items").table, beside)
    held = bundled_table(other, "items")
    assert (await load_table(store, other, "items", second.revision, held)).read == loaded.read
    third = await publish(store, other, items(["item-9"], row=7, shelf=1), second.revision)
    grown = await load_table(store, other, "items", third.revision, loaded)
    assert said(grown.table, ["new", "item-9"]) == [(5, 0), (7, 1)]
    assert grown.read == (third.revision, *loaded.read)


async def test_another_bundle_s_table_may_be_larger_than_any_layer(
    store: AdapterStore, backbone: Backbone, run_blobs: Any, tmp_path: Path
) -> None:
    """Law: a chain that ends at a blob larger than layers may be lies on this bundle's own table; a table that is
    named itself, and no chain's end, is refused."""
    await run_blobs(store)
    bundled = bundled_revision(backbone, "items")
    newest = await publish(store, backbone, items(["new"], row=5), bundled)
    other = redivided(backbone, tmp_path)
    await store.put_bundle(tmp_path / "bundle")
    huge = Grown(store, bundled)
    loaded = await load_table(huge, other, "items", newest.revision)
    assert said(loaded.table, ["new"]) == [(5, 0)]
    assert loaded.read == (newest.revision, bundled, bundled_revision(other, "items"))
    with pytest.raises(LimitExceeded, match="the format of feature tables"):
        await load_table(huge, other, "items", bundled)


class Grown:
    """A store in which one blob is larger than any bound of a format."""

    def __init__(self, store: AdapterStore, revision: str) -> None:
        self._store = store
        self._revision = revision

    async def map(self, revision: str, bound: Bound = ANY_BLOB) -> memoryview:
        """As the store's."""
        if revision == self._revision:
            bound.check(revision, bound.size_bytes + 1)
        return await self._store.map(revision, bound)


def redivided(backbone: Backbone, folder: Path) -> Backbone:
    """A bundle of the same weights whose shelves stand in another order, with a new one, and hold other items."""
    divisions = [
        Division(**{**division.model_dump(), "domains": ["shelf-y", "shelf-x", "shelf-z"]})
        if division.name == "shelf"
        else division
        for division in backbone.manifest.divisions
    ]
    tensors = backbone.tensors("items")
    tensors["division.shelf"] = np.roll(tensors["division.shelf"], 1)
    files = {name: backbone.file(name) for name in backbone.files}
    files["items.safetensors"] = write_tensors(tensors, {"content": "items, divided anew"})
    write_bundle(folder / "bundle", backbone.manifest.model_copy(update={"divisions": divisions}), files)
    return read_bundle(folder / "bundle")


async def test_layer_of_a_file_store_is_mapped(tmp_path: Path, backbone: Backbone) -> None:
    """Law: where the store has files, columns are views of the mapping: processes share one copy of a table."""
    store = AdapterStore(FileBackend(tmp_path / "store", create=True), lambda: 0.0)
    done = await publish(store, backbone, items([f"i{i}" for i in range(500)]), None)
    layer = decode_layer(await store.map(done.revision), backbone.manifest)
    for array in layer.rows.columns.arrays.values():
        assert not array.flags.owndata
        assert not array.flags.writeable


def test_domains_are_counted_anew_when_the_bundle_names_more(backbone: Backbone) -> None:
    """Law: positions in a division follow the names: a domain that is added or moved keeps its items."""
    content = encode_layer(manifest_of(backbone, divisions={"shelf": ["shelf-y", "shelf-old"]}), items(["a"], shelf=0))
    assert decode_layer(content, backbone.manifest).rows.divisions["shelf"].tolist() == [1]
    gone = encode_layer(manifest_of(backbone, divisions={"shelf": ["shelf-y", "shelf-old"]}), items(["a"], shelf=1))
    assert decode_layer(gone, backbone.manifest).rows.divisions["shelf"].tolist() == [-1]
    none = encode_layer(manifest_of(backbone, divisions={}), items(["a"], shelf=None))
    assert decode_layer(none, backbone.manifest).rows.divisions["shelf"].tolist() == [-1]


def test_equal_layers_are_equal_bytes(backbone: Backbone) -> None:
    """Law: the order in which ids came in leaves no trace in the revision."""
    one, two = (encode_layer(manifest_of(backbone), items(ids)) for ids in (["a", "b", 3], [3, "b", "a"]))
    assert one == two


def changed(backbone: Backbone, tensors: dict[str, Array | None], **manifest: Any) -> bytes:
    """A full layer of two items with tensors and manifest entries replaced."""
    file = read_tensors(encode_layer(manifest_of(backbone), items(["a", "b"])), FEATURE_LIMITS)
    merged = {name: tensor for name, tensor in {**file.tensors, **tensors}.items() if tensor is not None}
    assert isinstance(file.metadata, dict)
    return write_tensors(merged, {**file.metadata, **manifest})


NONE = np.zeros(0, np.int64)


@pytest.mark.parametrize(
    ("tensors", "manifest", "message"),
    [
        ({"column.item_id": np.array([1, 111], np.int32)}, {}, "column.item_id holds rows 1 to 111"),
        ({"column.item_id": np.array([1, -1], np.int32)}, {}, "column.item_id holds rows -1 to 1"),
        ({"column.item_id": None}, {}, "column.item_id is missing"),
        ({"column.price": np.array([1, np.nan], np.float32)}, {}, "not finite"),
        ({"column.tags.offsets": np.array([0, 5, 4], np.int64)}, {}, "rise from 0 to 4"),
        ({"index.bytes": np.frombuffer(b"ba", np.uint8)}, {}, "sorted"),
        ({"index.bytes": np.frombuffer(b"aa", np.uint8)}, {}, "sorted"),
        ({"index.bytes": np.frombuffer(b"abc", np.uint8), "index.offsets": np.arange(4)}, {}, "columns have 2 rows"),
        ({"division.shelf": np.array([0, 2], np.int32)}, {}, r"division.shelf must lie in \[-1, 2\)"),
        ({"division.shelf": None}, {}, "division.shelf is missing"),
        ({}, {"divisions": {}}, "does not say which domains division.shelf counts"),
        ({}, {"rows": 3}, "2 rows and 0 deleted ids; the manifest says 3, 0"),
        ({}, {"schema": 2}, "schema 2 is newer"),
        ({}, {"kind": "lora"}, "kind"),
        ({}, {"layer": "delta"}, "layer 'delta' names its parent"),
        ({}, {"parent": REVISION}, "layer 'delta' names its parent"),
        ({}, {"layer": "delta", "parent": REVISION, "deltas": 1}, "neither deleted.values nor deleted.bytes"),
        ({"deleted.values": NONE}, {"layer": "delta", "parent": REVISION, "deltas": 17}, "17 deltas"),
        (
            {"deleted.bytes": np.frombuffer(b"b", np.uint8), "deleted.offsets": np.array([0, 1])},
            {"layer": "delta", "parent": REVISION, "deltas": 1, "deleted": 1},
            "id 'b' has a row and is deleted too",
        ),
        ({}, {"parent": "x"}, "'x' is no revision"),
    ],
)
def test_layer_that_does_not_fit_is_refused_by_name(
    backbone: Backbone, tensors: dict[str, Array | None], manifest: dict[str, Any], message: str
) -> None:
    """Law: shapes, ranges, order of ids, counts and the manifest are all held to the backbone before use."""
    with pytest.raises((MalformedArtifact, LimitExceeded), match=message):
        decode_layer(changed(backbone, tensors, **manifest), backbone.manifest)


def test_layer_of_another_backbone_or_over_a_limit_is_refused(backbone: Backbone) -> None:
    """Law: a fingerprint is compared, and size and count of tensors are capped before anything is read."""
    content = encode_layer(manifest_of(backbone), items(["a"]))
    with pytest.raises(WrongFingerprint, match=backbone.fingerprint):
        decode_layer(changed(backbone, {}, fingerprint=REVISION), backbone.manifest)
    for limits in (TensorLimits(bytes=len(content) - 1), TensorLimits(tensors=3), TensorLimits(header_bytes=64)):
        with pytest.raises(LimitExceeded, match="limit"):
            decode_layer(content, backbone.manifest, limits)
    with pytest.raises(ArtifactError):
        decode_layer(content[:-1], backbone.manifest)


async def test_chain_that_lies_about_itself_is_refused(store: AdapterStore, backbone: Backbone) -> None:
    """Law: a layer of the other side, or one whose count of deltas is not its parent's plus one, is named."""
    users = manifest_of(backbone, side="users", divisions={"segment": ["segment-a", "segment-b", "segment-c"]})
    rows = EncodedRows(1, {"user_id": np.array([1], np.int32), "segment": np.array([1], np.int32)})
    segments = {"segment": np.array([0], np.int32)}
    none = RawIndex.from_values([])
    other = await store.put(encode_layer(users, Delta(RawIndex.from_values([7]), rows, segments, none)))
    with pytest.raises(DoesNotFit, match=f"layer {other} is of users"):
        await load_table(store, backbone, "items", other)
    full = await store.put(encode_layer(manifest_of(backbone), items(["a"])))
    for deltas in (2, 16):
        manifest = manifest_of(backbone, layer="delta", parent=full, deltas=deltas)
        lying = await store.put(encode_layer(manifest, items(["b"])))
        with pytest.raises(MalformedArtifact, match=r"counts \d+ deltas"):
            await load_table(store, backbone, "items", lying)
    broken = await store.put(changed(backbone, {"column.price": None}))
    with pytest.raises(MalformedArtifact, match=f"layer {broken}: feature table: tensor column.price is missing"):
        await load_table(store, backbone, "items", broken)
