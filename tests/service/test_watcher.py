"""Laws of the watcher: apply what moved, touch nothing else, survive the store's absence."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from adapters_store.errors import StoreUnavailable
from adapters_store.store import AdapterStore
from benchmarks.forge import Run, digest
from service.pace import Pace
from service.watcher import Watcher
from tests.service.clockwork import ManualClock, quiet, turns_until
from tests.service.core import Core, assert_scores, opened

DOMAIN = "theme-1"


@pytest.fixture
async def core(random_run: Run) -> AsyncIterator[Core]:
    async with opened(random_run) as opened_core:
        await opened_core.replica.watcher.reconcile()  # the first look meets the backbone's record
        yield opened_core


async def test_what_another_writer_published_is_scored_after_a_look(core: Core) -> None:
    """A moved record is loaded and flipped; scores are then the new revision's."""
    await core.publish(DOMAIN)
    newer = core.dye(DOMAIN, 0.6)
    record = await core.put_live(DOMAIN, newer)
    assert await core.replica.watcher.reconcile() == 1
    result = await core.score(DOMAIN, strict=True)
    assert result.served.generation == record.generation
    assert_scores(result, core.expected(DOMAIN, newer))


async def test_only_what_moved_and_was_asked_for_is_read(core: Core) -> None:
    """A look costs one listing; records that did not move, or that nobody here asked for, are not read."""
    await core.publish("theme-1")
    await core.publish("theme-2")
    await core.replica.watcher.reconcile()
    await core.put_live("theme-3")
    await core.put_live("theme-2", core.dye("theme-2", 0.3))
    core.backend.reads.clear()
    assert await core.replica.watcher.reconcile() == 1
    records = [what for what in core.backend.reads if what.startswith("domain/")]
    assert records == ["domain/theme-2"]
    assert core.backend.reads["versions"] == 1
    assert await core.replica.watcher.reconcile() == 0


async def test_only_what_the_feed_should_have_told_of_counts_as_missed(core: Core) -> None:
    """Law: a change of a moment ago, one that the feed told and a cold load are none that the feed missed."""
    await core.publish(DOMAIN)
    await core.publish("theme-2")
    await core.replica.watcher.reconcile()  # what was published here was not read: this reads it
    await core.put_live(DOMAIN, core.dye(DOMAIN, 0.6))  # long ago: the clock of this writer stands at 1970
    now = AdapterStore(core.backend, time.time)
    await now.set_live("theme-2", "theme", await now.put(core.dye("theme-2", 0.3)), "someone")
    assert await core.replica.watcher.reconcile() == 2
    assert core.ledger.untold[-1] == 1
    await core.put_live(DOMAIN, core.dye(DOMAIN, 0.7))
    core.backend.open.clear()
    cold = asyncio.create_task(core.score("theme-3"))
    core.replica.watcher.notice({f"domain/{DOMAIN}"})
    looking = asyncio.create_task(core.replica.watcher.reconcile())
    await quiet()
    core.backend.open.set()
    await asyncio.gather(cold, looking)
    await core.replica.watcher.settled()
    assert core.ledger.untold[-1] == 0


async def test_a_domain_known_to_have_no_adapter_gets_its_first(core: Core) -> None:
    """A listed domain that was asked for in vain is loaded once a record appears."""
    assert (await core.score(DOMAIN)).served.fallback == "no_adapter"
    await core.put_live(DOMAIN)
    assert (await core.score(DOMAIN)).served.fallback == "no_adapter"
    await core.replica.watcher.reconcile()
    assert core.replica.resident_adapters == 1
    assert (await core.score(DOMAIN)).served.fallback is None


async def test_a_tombstone_ends_an_adapter(core: Core) -> None:
    """A domain that another writer deleted is scored by the backbone after the next look."""
    await core.publish(DOMAIN)
    await core.store.delete(DOMAIN, "someone")
    await core.replica.watcher.reconcile()
    assert core.replica.resident_adapters == 0
    assert (await core.score(DOMAIN)).served.fallback == "no_adapter"


async def test_a_restored_store_is_followed_back(core: Core) -> None:
    """A record that a backup put back to a lower generation is applied, once; one that is gone changes nothing."""
    old = core.dye(DOMAIN, 0.1)
    await core.publish(DOMAIN, old)
    backup = await core.backend.read_record(f"domain/{DOMAIN}")
    assert backup is not None
    await core.publish(DOMAIN, core.dye(DOMAIN, 0.2))
    core.backend.restore(f"domain/{DOMAIN}", backup)
    assert await core.replica.watcher.reconcile() == 1
    result = await core.score(DOMAIN, strict=True)
    assert (result.served.revision, result.served.generation) == (digest(old), backup.record["generation"])
    assert await core.replica.watcher.reconcile() == 0
    core.backend.forget(f"domain/{DOMAIN}")
    assert await core.replica.watcher.reconcile() == 0
    assert (await core.score(DOMAIN, strict=True)).served.revision == digest(old)


async def test_one_lost_blob_holds_up_no_other_domain(core: Core) -> None:
    """The look ends with the failure, but every other domain that moved was brought up to date."""
    for domain in ("theme-1", "theme-2"):
        await core.publish(domain)
    lost = await core.put_live("theme-1", core.dye("theme-1", 0.2))
    moved = await core.put_live("theme-2", core.dye("theme-2", 0.2))
    assert lost.live is not None
    core.backend.lost.add(lost.live.revision)
    with pytest.raises(Exception, match="no blob"):
        await core.replica.watcher.reconcile()
    assert (await core.score("theme-2")).served.generation == moved.generation
    result = await core.score("theme-1")
    assert (result.served.alias, result.served.fallback) == ("previous", "store_unavailable")


async def test_a_fault_of_ours_in_one_record_holds_up_no_domain(core: Core) -> None:
    """Law: what applying one record raises, whatever it is, comes after every domain that moved was brought."""

    async def fail() -> None:
        raise ZeroDivisionError

    await core.publish(DOMAIN)
    await core.store.switch_backbone_only(True, "someone")
    moved = await core.put_live(DOMAIN, core.dye(DOMAIN, 0.2))
    watcher = Watcher(
        core.store,
        core.replica.domains,
        core.replica.loader,
        {"switches": fail},
        core.clock,
        core.ledger,
        reconcile_s=30.0,
        feed=False,
        random=lambda: 0.5,
        wall=lambda: 0.0,
        pace=Pace(core.clock, busy=lambda: False, share=1.0),
    )
    with pytest.raises(ZeroDivisionError):
        await watcher.reconcile()
    assert core.replica.domains.generation(DOMAIN) == moved.generation


async def test_it_looks_again_and_again_also_after_failures(random_run: Run) -> None:
    """Looks come every reconcile_s, jittered by a tenth; a store that is away ends none of it."""
    async with opened(random_run, clock := ManualClock(), reconcile_s=30.0, feed=False) as core:
        await core.publish(DOMAIN)
        await core.replica.start()
        await clock.advance(0)
        await clock.advance(26.9)
        assert core.backend.reads["versions"] == 0
        core.backend.away = True
        await clock.advance(6.1)
        assert core.backend.reads["versions"] == 1
        with pytest.raises(StoreUnavailable):
            await core.replica.watcher.reconcile()
        core.backend.away = False
        newer = await core.put_live(DOMAIN, core.dye(DOMAIN, 0.5))
        await clock.advance(33.0)
        await turns_until(lambda: core.replica.domains.generation(DOMAIN) == newer.generation)
        await core.replica.watcher.stop()
        looks = core.backend.reads["versions"]
        await clock.advance(300.0)
        assert core.backend.reads["versions"] == looks
