"""Laws of what is in memory: evicted domains come back as cold, churn is told, busy domains are loaded first."""

from __future__ import annotations

import asyncio

from benchmarks.forge import Run, digest
from service.residency import Evictions
from tests.factory import THEMES
from tests.service.clockwork import ManualClock, turns_until
from tests.service.core import Ledger, assert_scores, opened

A, B, C = THEMES[:3]


async def size_of_one(run: Run) -> int:
    """Memory of one prepared adapter of the run."""
    async with opened(run) as core:
        await core.publish(A)
        return core.replica.slots.nbytes


async def test_an_evicted_domain_is_pulled_again_as_cold(random_run: Run) -> None:
    """Law: beyond memory_bytes the domain asked for longest ago goes; its next request loads it and is no fallback."""
    each = await size_of_one(random_run)
    async with opened(random_run, memory_bytes=2 * each) as core:
        for domain in (A, B, C):
            await core.put_live(domain)
            await core.score(domain, strict=True)
        assert [domain for domain, _ in core.ledger.evictions] == [A]
        assert core.replica.resident_adapters == 2
        assert core.replica.domains.get(A) is None
        result = await core.score(A, strict=True)
        assert_scores(result, core.expected(A, core.body(A)))
        assert [domain for domain, _ in core.ledger.evictions] == [A, B]
        assert core.replica.slots.nbytes <= 2 * each


async def test_a_pinned_domain_stays(random_run: Run) -> None:
    """Law: a pinned domain is never evicted, however long ago it was asked for."""
    each = await size_of_one(random_run)
    async with opened(random_run, memory_bytes=2 * each, pinned=(A,)) as core:
        for domain in (A, B, C, B, C):
            await core.put_live(domain)
            await core.score(domain, strict=True)
        assert A not in [domain for domain, _ in core.ledger.evictions]
        assert core.replica.slots.get(A) is not None


async def test_auxiliary_adapters_count_against_the_bound(random_run: Run) -> None:
    """Law: combinations of auxiliary adapters are within memory_bytes, and are evicted like any other."""
    async with opened(random_run, memory_bytes=1) as core:
        await core.put_live("segment-b")
        user = next(user for user in core.users if core.auxiliary_of("segment", user) == "segment-b")
        assert (await core.score(A, user_id=user)).served.fallback in ("no_adapter", "auxiliary_only")
        assert core.replica.slots.nbytes <= 1
        assert core.ledger.evictions == []


async def test_memory_too_small_for_one_adapter_leaves_the_ladder(random_run: Run) -> None:
    """Law: where no adapter fits at all the backbone scores and says why; nothing stays above the bound."""
    async with opened(random_run, memory_bytes=1) as core:
        await core.put_live(A)
        assert (await core.score(A)).served.fallback in ("loading", "store_unavailable")
        assert core.replica.slots.nbytes <= 1


def test_churn_is_told_once_a_minute() -> None:
    """Law: evictions within a minute of their load are told at once, then at most once a minute, none forgotten."""
    clock, ledger, forgotten = ManualClock(), Ledger(), []
    evictions = Evictions(forgotten.append, ledger, limit_bytes=77, now=clock.now)
    evictions.evicted("old", 61.0)
    assert ledger.churned == []
    evictions.evicted("a", 59.0)
    for place in ("b", "c", (("segment-a", "r"),)):
        evictions.evicted(place, 1.0)
    assert ledger.churned == [(1, 77)]
    clock._now = 60.0
    evictions.evicted("d", 1.0)
    assert ledger.churned == [(1, 77), (4, 77)]
    assert forgotten == ["old", "a", "b", "c", "d"]
    assert [domain for domain, _ in ledger.evictions] == forgotten


async def test_the_busiest_domains_are_written_and_loaded_first(random_run: Run) -> None:
    """Law: a replica's busiest domains, by recent traffic, are the next one's first, which then asks for no blob."""
    async with opened(random_run) as core:
        for domain, requests in ((A, 1), (B, 6), (C, 3)):
            await core.put_live(domain)
            for _ in range(requests):
                await core.score(domain)
        await core.replica.prewarmer.write()
        assert (await core.store.prewarm_list()).domains == [B, C, A]
        for _ in range(4):
            await core.score(A)
        await core.replica.prewarmer.write()
        assert (await core.store.prewarm_list()).domains == [A, B, C]
        async with opened(random_run, on=core.backend, prewarm_domains=2, feed=False) as other:
            await other.replica.start()
            assert other.ledger.warmed == [2]
            assert {*other.replica.slots} == {A, B}
            core.backend.reads.clear()
            assert (await other.score(B, strict=True)).served.revision == digest(core.body(B))
            assert not [what for what in core.backend.reads if len(what) == 64]


async def test_a_replica_that_ends_leaves_what_it_scored_to_the_next(random_run: Run) -> None:
    """Law: a stop writes this replica's domains before those that others listed; one without traffic writes nothing."""
    async with opened(random_run, feed=False) as core:
        for domain in (A, B):
            await core.put_live(domain)
        await core.store.write_prewarm([C, A])
        async with opened(random_run, on=core.backend, feed=False) as idle:
            await idle.replica.start()
        assert (await core.store.prewarm_list()).domains == [C, A]
        async with opened(random_run, on=core.backend, feed=False, prewarm_domains=2) as busy:
            await busy.replica.start()
            await busy.score(B)
        assert (await core.store.prewarm_list()).domains == [B, C]


async def test_a_replica_ends_although_the_store_does_not_answer(random_run: Run) -> None:
    """Law: the last list is given up after a second at most."""
    clock = ManualClock()
    async with opened(random_run, clock, feed=False) as core:
        await core.put_live(A)
        await core.replica.start()
        await core.score(A)
        core.backend.open.clear()
        stopping = asyncio.create_task(core.replica.prewarmer.stop())
        await clock.advance(0.9)
        assert not stopping.done()
        await clock.advance(0.2)
        await stopping
        core.backend.open.set()


async def test_prewarming_is_bounded_in_time_and_never_in_the_way(random_run: Run) -> None:
    """Law: a start waits at most prewarm_s for a store that hangs; one that is away, or has no list, costs nothing."""
    async with opened(random_run, clock := ManualClock(), prewarm_s=20.0, pinned=(A,), feed=False) as core:
        await core.put_live(A)
        core.backend.open.clear()
        starting = asyncio.create_task(core.replica.start())
        await clock.advance(19.0)
        assert not starting.done()
        await clock.advance(1.5)
        await starting
        assert core.ledger.warmed == [0]
        core.backend.open.set()
        await turns_until(lambda: core.replica.slots.get(A) is not None or not core.replica.loader.loading)
    async with opened(random_run, feed=False) as core:
        core.backend.away = True
        await core.replica.start()
        assert core.ledger.warmed == [0]
        assert core.ledger.failures["prewarm"] == 1


async def test_the_list_is_written_again_and_again(random_run: Run) -> None:
    """Law: every prewarm_every_s the list is written, a failure ends nothing, and no traffic writes no list."""
    async with opened(random_run, clock := ManualClock(), feed=False, prewarm_every_s=300.0) as core:
        await core.replica.start()
        await clock.advance(301.0)
        assert (await core.store.prewarm_list()).generation == 0
        await core.put_live(A)
        await core.score(A)
        core.backend.away = True
        await clock.advance(300.0)
        await turns_until(lambda: core.ledger.failures["prewarm"] == 1)
        core.backend.away = False
        await core.score(A)
        before = core.backend.reads["compare_and_set"]
        await clock.advance(300.0)
        await turns_until(lambda: core.backend.reads["compare_and_set"] > before)
