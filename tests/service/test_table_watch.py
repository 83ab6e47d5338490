"""Laws of following feature tables: swapped while requests run, one response by one pair, no failure in the way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from adapters_store.backbone import Backbone, write_bundle
from adapters_store.tensors import write_tensors
from benchmarks.forge import Run
from tests.service.clockwork import turns_until
from tests.service.core import Core, opened
from tests.service.test_tables import publish_items

DOMAIN = "theme-1"


@pytest.fixture
async def core(three_way_run: Run) -> AsyncIterator[Core]:
    async with opened(three_way_run, prewarm_s=0) as opened_core:
        await opened_core.publish(DOMAIN)
        yield opened_core


async def published(core: Core, ids: list[str]) -> str:
    """Another writer publishes a delta of the items; its revision."""
    backbone = await bundle(core)
    held = await core.store.feature_record(backbone.fingerprint, "items")
    parent = held.revision or core.replica.tables.current.revisions["items"]
    revision = (await publish_items(core.store, backbone, ids, parent)).revision
    assert revision is not None
    return revision


async def bundle(core: Core) -> Backbone:
    """The bundle that serves."""
    return await core.store.bundle(core.replica.backbone_revision)


async def test_a_published_table_serves_without_a_restart(core: Core) -> None:
    """Law: once the feed names the record new items are known, and responses name the table that they were read in."""
    await core.replica.start()
    await turns_until(lambda: core.ledger.resyncs == 1)
    sizes = dict(core.ledger.table_sizes)
    assert sizes == {side: len(core.replica.tables.current.loaded[side]) for side in ("users", "items")}
    before = (await core.score(DOMAIN, ["new"])).served.features
    assert list((await core.score(DOMAIN, ["new"])).unknown_items) == [0]
    revision = await published(core, ["new"])
    await turns_until(lambda: core.replica.tables.current.revisions["items"] == revision)
    result = await core.score(DOMAIN, ["new"])
    assert list(result.unknown_items) == []
    assert result.served.features == {**before, "items": revision}
    assert [(side, named) for side, named, _ in core.ledger.swaps] == [("items", revision)]


async def test_a_response_is_of_one_pair_of_tables(core: Core) -> None:
    """Law: a request that was admitted before a swap ends with the tables, and names them, that it began with."""
    old = core.replica.tables.current.revisions["items"]
    core.backend.held = "domain/theme-2"
    running = asyncio.create_task(core.score("theme-2", ["new"]))
    await turns_until(lambda: core.backend.reading is not None)
    await published(core, ["new"])
    core.replica.watcher.notice([f"features/{(await bundle(core)).fingerprint}:items"])
    await core.replica.watcher.settled()
    assert core.replica.tables.current.revisions["items"] != old
    assert core.backend.reading is not None
    core.backend.reading.set_result(None)
    result = await running
    assert (list(result.unknown_items), result.served.features["items"]) == ([0], old)


async def test_a_table_that_cannot_be_read_leaves_the_one_that_serves(core: Core) -> None:
    """Law: a lost layer is a failed look, tried again; until it is there the table before goes on serving."""
    old = core.replica.tables.current.revisions["items"]
    revision = await published(core, ["new"])
    core.backend.lost.add(revision)
    with pytest.raises(Exception, match="no blob"):
        await core.replica.watcher.reconcile()
    assert (await core.score(DOMAIN)).served.features["items"] == old
    core.backend.lost.clear()
    await core.replica.watcher.reconcile()
    assert (await core.score(DOMAIN)).served.features["items"] == revision
    assert await core.replica.watcher.reconcile() == 0


async def test_a_delta_serves_on_under_another_bundle_of_the_same_weights(
    three_way_run: Run, core: Core, tmp_path: Path
) -> None:
    """Law: a bundle whose own table is another takes the other's place with what was published on that one, and so
    does a replica that starts with it."""
    revision = await published(core, ["new"])
    await core.replica.watcher.reconcile()
    held = await bundle(core)
    files = {name: held.file(name) for name in held.files}
    files["items.safetensors"] = write_tensors(held.tensors("items"), {"content": "items, written anew"})
    other = write_bundle(tmp_path / "bundle", held.manifest, files)
    await core.store.publish_backbone(tmp_path / "bundle", "someone")
    await core.replica.watcher.reconcile()
    async with opened(three_way_run, on=core.backend) as begun:
        for each in (core, begun):
            result = await each.score(DOMAIN, ["new"])
            assert (result.served.backbone, result.served.features["items"]) == (other, revision)
            assert list(result.unknown_items) == []
            assert not each.ledger.failures


async def test_a_replica_starts_with_the_table_that_is_recorded(three_way_run: Run, core: Core) -> None:
    """Law: the record is read before the first request."""
    revision = await published(core, ["new"])
    async with opened(three_way_run, on=core.backend) as other:
        result = await other.score(DOMAIN, ["new"])
        assert (list(result.unknown_items), result.served.features["items"]) == ([], revision)
