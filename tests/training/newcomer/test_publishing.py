"""A new domain becomes live as a whole or not at all, and never over somebody else's change."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from adapters_store.canonical import digest
from adapters_store.errors import Frozen, RecordConflict, StoreUnavailable
from adapters_store.feature_tables import SIDES, load_table
from adapters_store.memory import MemoryBackend
from adapters_store.releases import Release
from adapters_store.store import AdapterStore
from tests.training.newcomer.world import (
    DOMAIN,
    NEW_ITEMS,
    NEW_USERS,
    config_of,
    frame_of,
    ground_of,
    make_bundle,
    rows_of,
)
from training.newcomer.addition import Addition, make_addition
from training.newcomer.errors import DomainTaken, NothingLive
from training.newcomer.ground import Ground, Over, read_ground
from training.newcomer.publishing import NewcomerPublisher
from training.progress import SilentMeter

BY = "a test"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle, and files of users and items that it does not know."""
    folder = tmp_path_factory.mktemp("publishing")
    make_bundle(folder / "bundle")
    pl.DataFrame(NEW_USERS).write_parquet(folder / "users.parquet")
    pl.DataFrame(NEW_ITEMS).write_parquet(folder / "items.parquet")
    return folder


@pytest.fixture(scope="module")
def addition(folder: Path) -> Addition:
    """An adapter of the new domain."""
    ground = ground_of(make_bundle(folder / "again"))
    return make_addition(rows_of(frame_of(60)), ground, config_of(), SilentMeter())


@pytest.fixture
async def store(folder: Path) -> AsyncIterator[AdapterStore]:
    """A store whose default backbone is the bundle."""
    store = AdapterStore(MemoryBackend(), lambda: 1_000_000.0)
    await store.publish_backbone(folder / "bundle", BY)
    yield store
    await store.close()


async def ground_in(store: AdapterStore, folder: Path, over: Over = "none") -> Ground:
    ground = await read_ground(store, DOMAIN, over)
    return ground.with_files({"users": folder / "users.parquet", "items": folder / "items.parquet"})


async def visible(store: AdapterStore) -> tuple[object, ...]:
    """Everything that others see of the domain and its tables."""
    bundle = await store.bundle((await store.backbone_record()).default or "")
    return (await store.domain(DOMAIN), *[await store.feature_record(bundle.fingerprint, side) for side in SIDES])


async def publish(store: AdapterStore, ground: Ground, addition: Addition) -> None:
    publisher = NewcomerPublisher(store, ground, addition.content, BY)
    await publisher.prepare()
    for side in publisher.sides:
        await publisher.layer(side)
    await publisher.live()


async def test_nothing_is_visible_before_the_first_change_and_all_after_the_last(
    store: AdapterStore, folder: Path, addition: Addition
) -> None:
    """Law: preparing stores the artifact and shows nothing; then both tables have the new ids and the domain serves."""
    before = await visible(store)
    ground = await ground_in(store, folder)
    publisher = NewcomerPublisher(store, ground, addition.content, BY)
    await publisher.prepare()
    assert await visible(store) == before
    assert await store.has(publisher.revision)
    assert publisher.sides == ["users", "items"]
    for side in publisher.sides:
        assert (await publisher.layer(side)).status == "created"
    record = await publisher.live()
    assert record.live is not None
    assert (record.live.revision, record.division, record.generation) == (addition.revision, "theme", 1)
    for side, ids in (("users", ["u-new", "90001", "1", "none"]), ("items", ["brand new", "item-1", "none"])):
        revision = (await store.feature_record(ground.bundle.fingerprint, side)).revision
        found = (await load_table(store, ground.bundle, side, revision)).table.find(ids)
        assert [position >= 0 for position in found] == [*[True] * (len(ids) - 1), False]


async def test_a_second_run_finds_the_ids_that_a_first_one_left(
    store: AdapterStore, folder: Path, addition: Addition
) -> None:
    """Law: after a publish that was cut off between tables and record, nothing is added twice and the rest is done."""
    publisher = NewcomerPublisher(store, await ground_in(store, folder), addition.content, BY)
    await publisher.prepare()
    await publisher.layer("users")
    again = await ground_in(store, folder)
    assert [len(again.added[side].rows.index) for side in SIDES] == [0, 1]
    assert again.added["users"].known == 3
    await publish(store, again, addition)
    assert (await ground_in(store, folder, "replace")).live == addition.revision


async def test_a_table_that_became_current_meanwhile_is_not_written_over(
    store: AdapterStore, folder: Path, addition: Addition
) -> None:
    """Law: a layer made for another table is refused before anything is visible, and the current one stays."""
    ground = await ground_in(store, folder)
    other = NewcomerPublisher(store, await ground_in(store, folder), b"another domain's", BY)
    await other.layer("items")
    before = await visible(store)
    with pytest.raises(RecordConflict, match=r"the current table of items is .*: run the command again"):
        await publish(store, _with_other_items(ground, folder), addition)
    assert await visible(store) == before


async def test_a_domain_that_came_to_serve_meanwhile_is_not_written_over(
    store: AdapterStore, folder: Path, addition: Addition
) -> None:
    """Law: whoever was first stays live, whether they were before the preparation or after it."""
    ground = await ground_in(store, folder)
    early, late = (NewcomerPublisher(store, ground, addition.content, BY) for _ in range(2))
    await late.prepare()
    await store.set_live(DOMAIN, "theme", await store.put(b"somebody else's"), "somebody else")
    before = await visible(store)
    with pytest.raises(DomainTaken, match="--continue trains on from it, --replace trains anew"):
        await early.prepare()
    with pytest.raises(RecordConflict):
        await late.live()
    assert await visible(store) == before


async def released(store: AdapterStore, content: bytes) -> None:
    """Move the domain by a release of the whole fleet, which leaves the domain's own record alone."""
    revision = await store.put(content)
    await store.flip(await store.put_release(Release(divisions={"theme": {DOMAIN: revision}})), BY, min_staged=0)


async def test_a_release_that_moved_the_domain_meanwhile_is_not_written_over(
    store: AdapterStore, folder: Path, addition: Addition
) -> None:
    """Law: what a release made live stays, whether it came before the preparation or after it."""
    await publish(store, await ground_in(store, folder), addition)
    other = b"another revision"
    ground = await ground_in(store, folder, "replace")
    early, late = (NewcomerPublisher(store, ground, content, BY) for content in (b"early", b"late"))
    await late.prepare()
    await released(store, other)
    with pytest.raises(RecordConflict, match="changed while it was trained"):
        await early.prepare()
    with pytest.raises(RecordConflict, match="run the command again"):
        await late.live()
    assert (await read_ground(store, DOMAIN, "replace")).live == digest(other)


async def test_what_a_domain_serves_is_looked_at_and_not_its_record_alone(
    store: AdapterStore, folder: Path, addition: Addition
) -> None:
    """Law: the same record with another revision in effect is a change."""
    await publish(store, await ground_in(store, folder), addition)
    ground = replace(await ground_in(store, folder, "replace"), live="0" * 64)
    with pytest.raises(RecordConflict, match="changed while it was trained"):
        await NewcomerPublisher(store, ground, addition.content, BY).prepare()


async def test_another_default_backbone_is_told(
    store: AdapterStore, folder: Path, addition: Addition, tmp_path: Path
) -> None:
    """Law: an adapter of what is not the default any more is not published."""
    ground = await ground_in(store, folder)
    make_bundle(tmp_path / "bundle", seed=1)
    await store.publish_backbone(tmp_path / "bundle", BY)
    with pytest.raises(RecordConflict, match="the default backbone became"):
        await publish(store, ground, addition)
    assert await store.domain(DOMAIN) is None


async def test_stopped_changes_are_told_before_any_is_made(
    store: AdapterStore, folder: Path, addition: Addition
) -> None:
    """Law: while changes are stopped, for all or for the domain, not a byte is stored."""
    await store.freeze(None, "the operator", "an audit")
    ground = await ground_in(store, folder)
    with pytest.raises(Frozen, match=r"stopped by the operator since .*: an audit"):
        await publish(store, ground, addition)
    assert not await store.has(addition.revision)
    await store.thaw(None, "the operator")
    await publish(store, ground, addition)
    await store.freeze(DOMAIN, "the operator", "a look at it")
    with pytest.raises(Frozen, match="a look at it"):
        await publish(store, await ground_in(store, folder, "replace"), addition)


async def test_names_that_are_taken_are_refused(store: AdapterStore, folder: Path, addition: Addition) -> None:
    """Law: an auxiliary domain, a name of another division, and one that serves are refused; a deleted one is free."""
    with pytest.raises(DomainTaken, match="'segment-a' is a domain of the auxiliary division 'segment'"):
        await read_ground(store, "segment-a")
    await store.put(addition.content)
    await store.set_live("segment-z", "segment", addition.revision, BY)
    with pytest.raises(DomainTaken, match="'segment-z' is in use by division 'segment', not by 'theme'"):
        await read_ground(store, "segment-z")
    await publish(store, await ground_in(store, folder), addition)
    with pytest.raises(DomainTaken, match=f"serves revision {addition.revision} already"):
        await read_ground(store, DOMAIN)
    await store.delete(DOMAIN, BY)
    await publish(store, await ground_in(store, folder), addition)


async def test_training_goes_on_from_a_live_lora_of_this_backbone_alone(
    store: AdapterStore, folder: Path, addition: Addition, tmp_path: Path
) -> None:
    """Law: what is live is read; nothing live, and what another backbone serves, are refused."""
    with pytest.raises(NothingLive, match="serves no revision"):
        await read_ground(store, DOMAIN, "continue")
    await publish(store, await ground_in(store, folder), addition)
    begun = (await read_ground(store, DOMAIN, "continue")).begun
    assert begun is not None
    assert begun.revision == addition.revision
    make_bundle(tmp_path / "bundle", seed=1)
    await store.publish_backbone(tmp_path / "bundle", BY)
    with pytest.raises(NothingLive, match="--replace trains it anew"):
        await read_ground(store, DOMAIN, "continue")


async def test_what_is_to_be_replaced_is_the_rival_where_it_scores_here(
    store: AdapterStore, folder: Path, addition: Addition, tmp_path: Path
) -> None:
    """Law: --replace reads a live LoRA of the default backbone; one that cannot be read, or of another backbone, is
    replaced without being judged against; a free name has no rival."""
    assert (await read_ground(store, DOMAIN)).rival is None
    await publish(store, await ground_in(store, folder), addition)
    ground = await read_ground(store, DOMAIN, "replace")
    assert ground.begun is None
    assert ground.rival is not None
    assert ground.rival.revision == addition.revision
    await store.set_live(DOMAIN, "theme", await store.put(b"no adapter"), BY)
    assert (await read_ground(store, DOMAIN, "replace")).rival is None
    await store.set_live(DOMAIN, "theme", addition.revision, BY)
    make_bundle(tmp_path / "bundle", seed=1)
    await store.publish_backbone(tmp_path / "bundle", BY)
    assert (await read_ground(store, DOMAIN, "replace")).rival is None


async def test_a_store_without_a_backbone_is_told() -> None:
    """Law: there is nothing to train on, and the message says what to do first."""
    with pytest.raises(StoreUnavailable, match="no default backbone: publish one with"):
        await read_ground(AdapterStore(MemoryBackend(), lambda: 0.0), DOMAIN)


def _with_other_items(ground: Ground, folder: Path) -> Ground:
    """The same with items that nobody has added."""
    pl.DataFrame({**NEW_ITEMS, "id": ["newer still"]}).write_parquet(folder / "others.parquet")
    return ground.with_files({"users": folder / "users.parquet", "items": folder / "others.parquet"})
