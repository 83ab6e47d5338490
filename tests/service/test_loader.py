"""Laws of loading: load new, verify, flip; one flight a domain; a refused revision leaves the old one serving."""

from __future__ import annotations

import asyncio
import os
import threading

import pytest

from adapters_store.errors import StoreUnavailable
from benchmarks.forge import Run, digest
from service.threads import WorkerThread
from tests.service.clockwork import ManualClock, quiet, turns_until
from tests.service.core import assert_scores, opened

DOMAIN = "theme-1"


async def test_a_cold_domain_is_pulled_once_for_all_that_wait(random_run: Run) -> None:
    """Twenty requests for a domain that is not resident share one record read and one blob read, and all get live."""
    async with opened(random_run) as core:
        record = await core.put_live(DOMAIN)
        assert record.live is not None
        core.backend.reads.clear()
        results = await asyncio.gather(*(core.score(DOMAIN) for _ in range(20)))
        assert core.backend.reads[f"domain/{DOMAIN}"] == 1
        assert core.backend.reads[record.live.revision] == 1
        for result in results:
            assert result.served.revision == record.live.revision
            assert result.served.fallback is None
            assert_scores(result, core.expected(DOMAIN, core.body(DOMAIN)))


async def test_pins_are_read_once_for_all_domains(random_run: Run) -> None:
    """Domains that pin the same auxiliaries and fusion cost one read of each."""
    async with opened(random_run) as core:
        for domain in ("theme-1", "theme-2", "theme-3"):
            await core.put_live(domain)
            await core.score(domain)
        result = await core.score("theme-3")
        assert [core.backend.reads[pin] for pin in result.served.fuses.values()] == [1, 1, 1]


async def test_every_response_under_swaps_is_by_the_one_revision_it_names(random_run: Run) -> None:
    """While 30 revisions replace each other, each answer equals the oracle for exactly the revision named."""
    async with opened(random_run) as core:
        bodies = {digest(body): body for body in (core.dye(DOMAIN, -1.5 + 0.1 * i) for i in range(30))}
        await core.publish(DOMAIN, next(iter(bodies.values())))
        done = asyncio.Event()
        seen = set()

        async def load() -> None:
            while not done.is_set():
                result = await core.score(DOMAIN)
                assert result.served.fallback is None
                assert result.served.revision is not None
                assert_scores(result, expected[result.served.revision])
                seen.add(result.served.revision)

        expected = {revision: core.expected(DOMAIN, body) for revision, body in bodies.items()}
        clients = [asyncio.create_task(load()) for _ in range(4)]
        for revision, body in bodies.items():
            await core.publish(DOMAIN, body)
            assert (await core.score(DOMAIN)).served.revision == revision
        done.set()
        await asyncio.gather(*clients)
        assert len(seen) > 1
        assert core.replica.resident_adapters == 1
        assert core.ledger.residents[-1] == 1


async def test_a_slot_is_not_freed_under_a_request_that_was_admitted_with_it(random_run: Run) -> None:
    """A request that waits in the queue while its revision is replaced is still scored by that revision."""
    async with opened(random_run) as core:
        first, second = core.dye(DOMAIN, 0.5), core.dye(DOMAIN, -0.5)
        await core.publish(DOMAIN, first)
        slot = core.replica.slots.get(DOMAIN)
        assert slot is not None
        waiting = asyncio.create_task(core.score(DOMAIN))
        await turns_until(lambda: slot.leases > 0)
        await core.publish(DOMAIN, second)
        result = await waiting
        assert result.served.revision == digest(first)
        assert_scores(result, core.expected(DOMAIN, first))
        assert slot.retired
        assert slot.combinations == {}


async def test_a_refused_revision_leaves_the_serving_one(random_run: Run) -> None:
    """A record that moves to an artifact which fails verification changes no score, and says adapter_rejected."""
    async with opened(random_run) as core:
        good = await core.publish(DOMAIN)
        bad = await core.put_live(DOMAIN, core.broken(DOMAIN))
        await core.replica.watcher.reconcile()
        result = await core.score(DOMAIN)
        assert (result.served.revision, result.served.alias) == (good.revision, "previous")
        assert (result.served.fallback, result.served.generation) == ("adapter_rejected", bad.generation)
        assert_scores(result, core.expected(DOMAIN, core.body(DOMAIN)))
        state = await core.replica.publisher.state(DOMAIN)
        assert state.rejection is not None
        assert bad.live is not None
        assert state.rejection.revision == bad.live.revision
        assert "golden row" in state.rejection.reason


async def test_a_cold_replica_takes_the_newest_acceptable_earlier_revision(random_run: Run) -> None:
    """Live refused and nothing resident: previous serves, and a refused artifact is verified once, not per request."""
    async with opened(random_run) as core:
        await core.put_live(DOMAIN, core.dye(DOMAIN, 0.1))
        newer = await core.put_live(DOMAIN, core.dye(DOMAIN, 0.2))
        await core.put_live(DOMAIN, core.broken(DOMAIN, 1.0))
        await core.put_live(DOMAIN, core.broken(DOMAIN, 2.0))
        assert newer.live is not None
        for _ in range(3):
            result = await core.score(DOMAIN)
            assert (result.served.revision, result.served.fallback) == (newer.live.revision, "adapter_rejected")
        assert core.ledger.loads["rejected"] == 2


async def test_what_was_rolled_back_from_never_returns_as_a_fallback(random_run: Run) -> None:
    """The ladder skips revisions that someone rolled back from, also the one that still serves here."""
    async with opened(random_run) as core:
        await core.put_live(DOMAIN, core.broken(DOMAIN))
        left = await core.put_live(DOMAIN, core.dye(DOMAIN, 0.3))
        assert left.live is not None
        assert (await core.score(DOMAIN)).served.revision == left.live.revision
        await core.store.rollback(DOMAIN, left.live.revision, "someone")
        await core.replica.watcher.reconcile()
        result = await core.score(DOMAIN)
        assert (result.served.revision, result.served.fallback) == (None, "adapter_rejected")
        assert_scores(result, core.expected(DOMAIN, None))


async def test_an_older_record_never_replaces_a_newer(random_run: Run) -> None:
    """A flight that read the record before a publish flips nothing when it lands after it."""
    async with opened(random_run) as core:
        old = await core.put_live(DOMAIN, core.dye(DOMAIN, 0.1))
        await core.score(DOMAIN)
        new = await core.publish(DOMAIN, core.dye(DOMAIN, 0.2))
        assert not core.replica.domains.apply(DOMAIN, old, None)
        result = await core.score(DOMAIN)
        assert (result.served.revision, result.served.generation) == (new.revision, new.generation)


async def test_a_look_that_began_before_a_publish_never_undoes_it(random_run: Run) -> None:
    """Lower generations are taken from a look into the store only if nothing was applied here since it began."""
    async with opened(random_run) as core:
        old = await core.put_live(DOMAIN, core.dye(DOMAIN, 0.1))
        await core.score(DOMAIN)
        began = core.replica.domains.get(DOMAIN)
        new = await core.publish(DOMAIN, core.dye(DOMAIN, 0.2))
        assert not core.replica.domains.apply(DOMAIN, old, None, since=began)
        assert (await core.score(DOMAIN)).served.revision == new.revision
        assert core.replica.domains.apply(DOMAIN, old, None, since=core.replica.domains.get(DOMAIN))
        assert core.replica.domains.generation(DOMAIN) == old.generation


@pytest.mark.parametrize("away", [False, True])
async def test_a_look_that_began_too_early_is_followed_by_another(random_run: Run, away: bool) -> None:
    """Joining a flight that read an older record, or failed, is not enough for who knows of a newer one."""
    async with opened(random_run) as core:
        await core.publish(DOMAIN, core.dye(DOMAIN, 0.1))
        core.backend.held = f"domain/{DOMAIN}"
        early = core.replica.loader.pull(DOMAIN)
        assert early is not None
        await turns_until(lambda: core.backend.reading is not None)
        reading = core.backend.reading
        assert reading is not None
        core.backend.held = None
        record = await core.put_live(DOMAIN, core.dye(DOMAIN, 0.2))
        refreshing = asyncio.create_task(core.replica.loader.refresh(DOMAIN, record.generation))
        await quiet()
        if away:
            reading.set_exception(StoreUnavailable("the store was away"))
        else:
            reading.set_result(None)
        await refreshing
        assert core.replica.domains.generation(DOMAIN) == record.generation
        assert early.result() != away


async def test_a_request_outwaits_the_trials_of_an_earlier_look(random_run: Run) -> None:
    """Law: a generation that the store has is scored within the cold wait, also while a shadow is being prepared."""
    async with opened(random_run) as core:
        await core.publish(DOMAIN, core.dye(DOMAIN, 0.1))
        shadow, newer = core.dye(DOMAIN, 0.5), core.dye(DOMAIN, 0.9)
        await core.store.set_shadow(DOMAIN, await core.store.put(shadow), 100.0, "someone")
        core.backend.held = digest(shadow)
        looking = asyncio.create_task(core.replica.loader.refresh(DOMAIN))
        await turns_until(lambda: core.backend.reading is not None)
        core.backend.held = None
        record = await core.put_live(DOMAIN, newer)
        scoring = asyncio.create_task(core.score(DOMAIN, min_generation=record.generation, strict=True))
        await quiet()
        assert core.backend.reading is not None
        core.backend.reading.set_result(None)
        assert (await scoring).served.revision == digest(newer)
        await looking


async def test_what_is_resident_serves_while_the_store_is_away(random_run: Run) -> None:
    """Without the store a resident domain answers as before, in strict mode too; refreshing reports the failure."""
    async with opened(random_run) as core:
        published = await core.publish(DOMAIN)
        core.backend.away = True
        with pytest.raises(StoreUnavailable):
            await core.replica.loader.refresh(DOMAIN)
        result = await core.score(DOMAIN, strict=True)
        assert (result.served.revision, result.served.fallback) == (published.revision, None)


async def test_a_lost_blob_is_tried_again_and_only_after_a_while(random_run: Run) -> None:
    """A live revision that the store lost is store_unavailable; it is not asked for by every request, and heals."""
    async with opened(random_run, clock := ManualClock()) as core:
        record = await core.put_live(DOMAIN)
        assert record.live is not None
        revision = record.live.revision
        core.backend.lost.add(revision)
        for _ in range(3):
            assert (await core.score(DOMAIN)).served.fallback == "store_unavailable"
        assert core.backend.reads[revision] == 1
        core.backend.lost.clear()
        await clock.advance(2.0)
        assert (await core.score(DOMAIN)).served.revision == revision


@pytest.mark.parametrize("fault", ["lost", "damaged"])
async def test_a_pin_that_the_store_lost_or_damaged_rejects_nobody(random_run: Run, fault: str) -> None:
    """Such a domain is store_unavailable, not adapter_rejected, and heals once the pin is published again."""
    async with opened(random_run, clock := ManualClock()) as core:
        record = await core.put_live(DOMAIN)
        assert record.live is not None
        pin = core.body("segment-b")
        getattr(core.backend, fault).add(digest(pin))
        assert (await core.score(DOMAIN)).served.fallback == "store_unavailable"
        assert core.ledger.rejections == []
        await core.store.put(pin)
        await clock.advance(2.0)
        assert (await core.score(DOMAIN)).served.revision == record.live.revision


async def test_too_many_cold_domains_at_once_wait_for_nobody(random_run: Run) -> None:
    """Pulls in flight are bounded: one more cold domain is scored by the ladder at once."""
    async with opened(random_run, cold_in_flight=1) as core:
        await core.put_live("theme-1")
        await core.put_live("theme-2")
        core.backend.open.clear()
        waiting = asyncio.create_task(core.score("theme-1"))
        await quiet()
        assert (await core.score("theme-2")).served.fallback == "loading"
        core.backend.open.set()
        assert (await waiting).served.fallback is None


async def test_the_loader_thread_has_lower_priority() -> None:
    """What publishing costs runs niced, on its own thread only, so scoring goes first where cores are short."""
    thread = WorkerThread("test-loader", niceness=10)
    try:
        own = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
        lowered = await thread.run(lambda: os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        assert lowered == min(19, own + 10)
        assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == own
    finally:
        thread.close()
