"""Laws of moving what a record names: verified before it moves, scored here on return."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from adapters_store.errors import (
    BlobMissing,
    DomainUnknown,
    GoldenMismatch,
    NothingToRollBack,
    RecordConflict,
    WrongDomain,
)
from benchmarks.forge import Run
from tests.service.core import Core, opened

DOMAIN = "theme-1"


@pytest.fixture
async def core(random_run: Run) -> AsyncIterator[Core]:
    async with opened(random_run) as opened_core:
        yield opened_core


async def test_set_live_verifies_and_flips(core: Core) -> None:
    """A stored revision becomes live only after this replica reproduced it; a damaged one changes nothing."""
    first = await core.publish(DOMAIN, core.dye(DOMAIN, 0.1))
    await core.publish(DOMAIN, core.dye(DOMAIN, 0.2))
    publisher = core.replica.publisher
    assert (await publisher.set_live(DOMAIN, first.revision, by="test")).status == "created"
    assert (await core.score(DOMAIN)).served.revision == first.revision
    assert (await publisher.set_live(DOMAIN, first.revision, by="test")).status == "unchanged"
    bad = await core.store.put(core.broken(DOMAIN))
    with pytest.raises(GoldenMismatch):
        await publisher.set_live(DOMAIN, bad, by="test")
    with pytest.raises(BlobMissing):
        await publisher.set_live(DOMAIN, "0" * 64, by="test")
    with pytest.raises(WrongDomain):
        await publisher.set_live("theme-2", first.revision, by="test")
    assert (await core.score(DOMAIN)).served.revision == first.revision


async def test_rollback_is_scored_on_return(core: Core) -> None:
    """Rolling back flips this replica to the earlier revision; a second one from the same revision loses."""
    first = await core.publish(DOMAIN, core.dye(DOMAIN, 0.1))
    second = await core.publish(DOMAIN, core.dye(DOMAIN, 0.2))
    publisher = core.replica.publisher
    record = await publisher.rollback(DOMAIN, second.revision, by="test")
    result = await core.score(DOMAIN, strict=True)
    assert (result.served.revision, result.served.generation) == (first.revision, record.generation)
    with pytest.raises(RecordConflict):
        await publisher.rollback(DOMAIN, second.revision, by="test")
    with pytest.raises(NothingToRollBack):
        await publisher.rollback(DOMAIN, first.revision, by="test")


async def test_a_rollback_that_cannot_be_loaded_here_is_done_all_the_same(core: Core) -> None:
    """The record moved: the caller gets it, the ladder scores, and the replica follows once the blob is back."""
    first = await core.publish(DOMAIN, core.dye(DOMAIN, 0.1))
    second = await core.publish(DOMAIN, core.dye(DOMAIN, 0.2))
    core.backend.lost.add(first.revision)
    record = await core.replica.publisher.rollback(DOMAIN, second.revision, by="test")
    assert record.live is not None
    assert record.live.revision == first.revision
    result = await core.score(DOMAIN)
    assert (result.served.fallback, result.served.generation) == ("store_unavailable", record.generation)
    assert (await core.publish(DOMAIN, core.dye(DOMAIN, 0.1))).status == "unchanged"
    assert (await core.score(DOMAIN, strict=True)).served.revision == first.revision


async def test_delete_and_publish_again(core: Core) -> None:
    """A tombstone takes the adapter out at once; publishing goes on from its generation."""
    first = await core.publish(DOMAIN)
    record = await core.replica.publisher.delete(DOMAIN, by="test")
    assert (await core.score(DOMAIN)).served.fallback == "no_adapter"
    assert core.replica.resident_adapters == 0
    again = await core.publish(DOMAIN)
    assert first.generation is not None
    assert (record.generation, again.generation) == (first.generation + 1, first.generation + 2)
    with pytest.raises(DomainUnknown):
        await core.replica.publisher.delete("theme-2", by="test")
