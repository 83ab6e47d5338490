"""Laws of fleet releases on a replica: staged beside what serves, flipped by reference, never without a revision."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from typing import cast

import pytest

from adapters_store.errors import NotStaged, RecordConflict
from adapters_store.memory import MemoryBackend
from adapters_store.records import Condition
from adapters_store.releases import Release
from adapters_store.store import AdapterStore
from benchmarks.forge import Run, digest
from service.domains import Domains
from service.observer import SilentObserver
from service.releases import CHUNK, ReleaseFollower
from service.serving import Serving
from service.slots import Slot, SlotTable
from tests.factory import THEMES
from tests.service.clockwork import ManualClock, quiet, turns_until
from tests.service.core import Core, assert_scores, opened
from tests.service.test_slots import Weight

DOMAIN, OTHER = "theme-1", "theme-2"


@pytest.fixture
async def core(random_run: Run) -> AsyncIterator[Core]:
    async with opened(random_run) as opened_core:
        yield opened_core


async def release_of(core: Core, bodies: dict[str, bytes]) -> str:
    """Another writer stores a release."""
    named = {domain: await core.store.put(body) for domain, body in bodies.items()}
    return await core.store.put_release(Release(divisions={"theme": named}))


async def stage(core: Core, release: str) -> None:
    """Staged, and prepared here as far as it can be."""
    await core.store.stage(release, "someone")
    await core.replica.staging.follow()
    await core.replica.staging.settled()


async def flip(core: Core, release: str) -> None:
    """Flipped, and followed here."""
    await core.store.flip(release, "someone", min_staged=0)
    await core.replica.releases.follow()


async def test_a_staged_release_is_flipped_to_without_a_load(core: Core) -> None:
    """Law: staging prepares beside what serves and changes no score; the flip and the way back read no blob."""
    old = {domain: core.dye(domain, 0.1) for domain in (DOMAIN, OTHER)}
    new = {domain: core.dye(domain, 0.9) for domain in (DOMAIN, OTHER)}
    for domain in old:
        await core.publish(domain, old[domain])
    release = await release_of(core, new)
    await stage(core, release)
    assert core.ledger.stagings[-1] == (release, 2, 2)
    assert (await core.score(DOMAIN)).served.revision == digest(old[DOMAIN])
    core.backend.reads.clear()
    await flip(core, release)
    for domain in new:
        result = await core.score(domain, strict=True)
        assert (result.served.revision, result.served.alias) == (digest(new[domain]), "live")
        assert_scores(result, core.expected(domain, new[domain]))
    await core.store.roll_back_release(release, "someone")
    await core.replica.releases.follow()
    for domain in old:
        result = await core.score(domain, strict=True)
        assert (result.served.revision, result.served.alias) == (digest(old[domain]), "live")
    assert not [what for what in core.backend.reads if len(what) == 64 and what != release]


async def test_until_it_is_prepared_a_domain_keeps_its_old_revision(core: Core) -> None:
    """Law: after a flip that was not staged the old revision scores, says previous and loading; then the new one."""
    old, new = core.dye(DOMAIN, 0.1), core.dye(DOMAIN, 0.9)
    await core.publish(DOMAIN, old)
    release = await release_of(core, {DOMAIN: new})
    await core.store.flip(release, "someone", min_staged=0)
    core.backend.lost.add(digest(new))
    await core.replica.releases.follow()
    result = await core.score(DOMAIN)
    assert (result.served.revision, result.served.alias) == (digest(old), "previous")
    assert result.served.fallback in ("loading", "store_unavailable")
    core.backend.lost.clear()
    await core.replica.loader.refresh(DOMAIN)
    result = await core.score(DOMAIN, strict=True)
    assert (result.served.revision, result.served.alias) == (digest(new), "live")


async def test_what_was_not_prepared_is_loaded_after_the_flip(core: Core) -> None:
    """Law: without being asked for, a resident domain comes to its new revision in the background."""
    old, new = core.dye(DOMAIN, 0.1), core.dye(DOMAIN, 0.9)
    await core.publish(DOMAIN, old)
    await flip(core, await release_of(core, {DOMAIN: new}))
    slots = core.replica.slots
    await turns_until(lambda: (slot := slots.get(DOMAIN)) is not None and slot.revision == digest(new))


async def test_what_the_store_could_not_give_after_a_flip_is_asked_for_again(random_run: Run) -> None:
    """Law: a store that goes away right after a flip leaves no domain behind for good, with a record or without."""
    async with opened(random_run, clock := ManualClock()) as core:
        new = {domain: core.dye(domain, 0.9) for domain in (DOMAIN, OTHER)}
        await core.publish(DOMAIN, core.dye(DOMAIN, 0.1))
        await flip(core, await release_of(core, {OTHER: core.dye(OTHER, 0.1)}))
        await core.score(OTHER, strict=True)
        await core.store.flip(await release_of(core, new), "someone", min_staged=0)
        await core.replica.releases.follow()
        core.backend.away = True
        await turns_until(lambda: core.ledger.failures["release"] == 2)
        for domain in new:
            assert (await core.score(domain)).served.alias == "previous"
        core.backend.away = False
        await clock.advance(5.0)
        slots = core.replica.slots
        for domain, body in new.items():
            await turns_until(lambda name=domain, body=body: slots.get(name).revision == digest(body))


async def test_a_second_flip_leaves_nothing_behind_that_the_first_had_yet_to_bring(random_run: Run) -> None:
    """Law: what a flip had no time to load is loaded under the next one too, though its revision did not move again."""
    async with opened(random_run, stage_in_flight=1) as core:
        names = ["theme-1", "theme-2", "theme-3"]
        for domain in names:
            await core.publish(domain, core.dye(domain, 0.1))
        bodies = {domain: core.dye(domain, 0.9) for domain in names[:2]}
        first = await release_of(core, bodies)
        second = await release_of(core, {**bodies, "theme-3": core.dye("theme-3", 0.9)})
        core.backend.held = "domain/theme-2"  # the one that was asked for last, and goes first
        await flip(core, first)
        await turns_until(lambda: core.backend.reading is not None)
        core.backend.held = None
        await flip(core, second)
        assert core.backend.reading is not None
        core.backend.reading.set_result(None)
        slots = core.replica.slots
        for domain in names:
            await turns_until(lambda name=domain: slots.get(name).revision == digest(core.dye(name, 0.9)))


async def test_a_flip_does_not_rest_on_a_look_from_before_it(core: Core) -> None:
    """Law: a domain whose shadow is being prepared while the pointer moves comes to its new revision all the same."""
    old, new, shadow = core.dye(DOMAIN, 0.1), core.dye(DOMAIN, 0.9), core.dye(DOMAIN, 0.5)
    await core.publish(DOMAIN, old)
    await core.store.set_shadow(DOMAIN, await core.store.put(shadow), 100.0, "someone")
    release = await release_of(core, {DOMAIN: new})
    core.backend.held = digest(shadow)
    looking = asyncio.create_task(core.replica.loader.refresh(DOMAIN))
    await turns_until(lambda: core.backend.reading is not None)
    core.backend.held = None
    await flip(core, release)
    assert core.backend.reading is not None
    core.backend.reading.set_result(None)
    await looking
    slots = core.replica.slots
    await turns_until(lambda: (slot := slots.get(DOMAIN)) is not None and slot.revision == digest(new))


async def test_a_round_of_staging_that_the_store_broke_off_counts_nothing_twice(random_run: Run) -> None:
    """Law: a replica never reports more than it has, so a store that fails for a while opens no early flip."""
    async with opened(random_run, clock := ManualClock()) as core:
        await core.publish(DOMAIN)
        release = await release_of(core, {domain: core.dye(domain, 0.9) for domain in THEMES})
        await core.store.stage(release, "someone")
        core.backend.lost.add(digest(core.dye(OTHER, 0.9)))
        core.backend.failing.add("has")
        await core.replica.staging.follow()
        await turns_until(lambda: core.ledger.stagings[-1] == (release, 1, 4))
        core.backend.failing.clear()
        for _ in range(3):
            await clock.advance(5.0)
            await turns_until(lambda: core.ledger.stagings[-1][1] >= 3)
        assert core.ledger.stagings[-1] == (release, 3, 4)


async def test_a_release_serves_a_domain_without_a_record(core: Core) -> None:
    """Law: a domain that only the release lists is pulled as cold, listed by the bundle or not; generation is null."""
    bodies = {DOMAIN: core.dye(DOMAIN, 0.5), "theme-9": core.renamed(OTHER, "theme-9")}
    assert (await core.score("theme-9")).served.fallback == "unknown_domain"
    assert (await core.score(DOMAIN)).served.fallback == "no_adapter"
    await flip(core, await release_of(core, bodies))
    for domain, body in bodies.items():
        result = await core.score(domain, strict=True)
        assert (result.served.revision, result.served.generation) == (digest(body), None)
    state = await core.replica.publisher.state("theme-9")
    assert (state.live, state.record, state.division) == (digest(bodies["theme-9"]), None, "theme")
    assert state.pointer == 1


async def test_a_publish_after_the_flip_stands_above_the_release(core: Core) -> None:
    """Law: a single publish under a release wins, another release wins over it, and rolling that back restores it."""
    single = core.dye(DOMAIN, 0.2)
    first = await release_of(core, {DOMAIN: core.dye(DOMAIN, 0.4)})
    second = await release_of(core, {DOMAIN: core.dye(DOMAIN, 0.6)})
    await flip(core, first)
    assert (await core.score(DOMAIN)).served.revision == digest(core.dye(DOMAIN, 0.4))
    published = await core.publish(DOMAIN, single)
    assert (published.status, published.pointer) == ("created", 1)
    assert (await core.score(DOMAIN)).served.revision == digest(single)
    await flip(core, second)
    await turns_until(lambda: core.replica.slots.find(DOMAIN, digest(core.dye(DOMAIN, 0.6))) is not None)
    assert (await core.score(DOMAIN, strict=True)).served.revision == digest(core.dye(DOMAIN, 0.6))
    await core.store.roll_back_release(second, "someone")
    await core.replica.releases.follow()
    result = await core.score(DOMAIN, strict=True)
    assert (result.served.revision, result.served.alias) == (digest(single), "live")


async def test_a_condition_names_the_release_too(core: Core) -> None:
    """Law: what a client saw before a flip is no condition that holds after it; what its state says then is."""
    first = await core.publish(DOMAIN, core.dye(DOMAIN, 0.1))
    assert first.generation is not None
    await flip(core, await release_of(core, {DOMAIN: core.dye(DOMAIN, 0.4)}))
    with pytest.raises(RecordConflict):
        await core.publish(DOMAIN, core.dye(DOMAIN, 0.2), if_generation=Condition(first.generation, first.pointer))
    state = await core.replica.publisher.state(DOMAIN)
    assert (state.live, state.pointer) == (digest(core.dye(DOMAIN, 0.4)), 1)
    seen = Condition(first.generation, state.pointer)
    assert (await core.publish(DOMAIN, core.dye(DOMAIN, 0.2), if_generation=seen)).status == "created"
    assert (await core.score(DOMAIN, strict=True)).served.revision == digest(core.dye(DOMAIN, 0.2))


async def test_publishing_what_the_release_serves_is_unchanged(core: Core) -> None:
    """Law: already the effective live is 200 also where the release says so and there is no record."""
    body = core.dye(DOMAIN, 0.4)
    await flip(core, await release_of(core, {DOMAIN: body}))
    published = await core.publish(DOMAIN, body, if_generation=77)
    assert (published.status, published.generation, published.pointer) == ("unchanged", None, 1)
    assert (await core.score(DOMAIN, strict=True)).served.revision == digest(body)


async def test_a_publish_that_a_flip_overtook_is_not_scored(core: Core) -> None:
    """Law: where this replica already follows a later release, a publish from before it does not serve above it."""
    new = core.dye(DOMAIN, 0.9)
    await core.publish(DOMAIN, core.dye(DOMAIN, 0.1))
    release = await release_of(core, {DOMAIN: new})
    record = await core.store.set_live(DOMAIN, "theme", await core.store.put(core.dye(DOMAIN, 0.3)), "someone")
    await flip(core, release)
    await core.replica.loader.refresh(DOMAIN, record.generation)
    result = await core.score(DOMAIN, strict=True)
    assert (result.served.revision, result.served.generation) == (digest(new), record.generation)


async def test_the_newest_pointer_holds_for_what_is_loading(core: Core) -> None:
    """Law: a domain that is being pulled while the pointer moves ends with what the pointer says now."""
    old, new = core.dye(DOMAIN, 0.1), core.dye(DOMAIN, 0.9)
    await core.put_live(DOMAIN, old)
    release = await release_of(core, {DOMAIN: new})
    core.backend.held = f"domain/{DOMAIN}"
    pulling = asyncio.create_task(core.score(DOMAIN))
    await turns_until(lambda: core.backend.reading is not None)
    await flip(core, release)
    assert core.backend.reading is not None
    core.backend.reading.set_result(None)
    assert (await pulling).served.revision == digest(new)


async def test_a_release_that_is_left_while_a_domain_loads_serves_nothing(core: Core) -> None:
    """Law: a domain that only a release listed has no revision once that was rolled back, loading or not."""
    body = core.dye(DOMAIN, 0.9)
    release = await release_of(core, {DOMAIN: body})
    await flip(core, release)
    core.backend.held = digest(body)
    pulling = asyncio.create_task(core.score(DOMAIN))
    await turns_until(lambda: core.backend.reading is not None)
    await core.store.roll_back_release(release, "someone")
    await core.replica.releases.follow()
    assert core.backend.reading is not None
    core.backend.reading.set_result(None)
    await pulling
    result = await core.score(DOMAIN)
    assert (result.served.revision, result.served.fallback) == (None, "no_adapter")


async def test_staging_fills_memory_only_as_far_as_it_goes(random_run: Run) -> None:
    """Law: beyond the bound revisions are only looked for in the store; they count as staged, nothing is evicted."""
    async with opened(random_run) as core:
        await core.publish(DOMAIN)
        each = core.replica.slots.nbytes
    async with opened(random_run, memory_bytes=5 * each) as core:
        for domain in THEMES:
            await core.publish(domain)
        release = await release_of(core, {domain: core.dye(domain, 0.9) for domain in THEMES})
        await stage(core, release)
        assert core.ledger.stagings[-1] == (release, 4, 4)
        assert core.replica.slots.nbytes <= 5 * each
        assert len(core.replica.slots.staged()) == 1
        assert core.ledger.evictions == []


async def test_staging_reports_and_a_flip_waits_for_it(random_run: Run) -> None:
    """Law: a replica that lacks a revision says so, the flip is refused; it tries again, reports, and it is taken."""
    async with opened(random_run, clock := ManualClock(), feed=False, prewarm_s=0, replica_id="here") as core:
        await core.replica.start()
        release = await release_of(core, {domain: core.dye(domain, 0.9) for domain in (DOMAIN, OTHER)})
        await core.store.stage(release, "someone")
        core.backend.lost.add(digest(core.dye(OTHER, 0.9)))
        await core.replica.staging.follow()
        await turns_until(lambda: (release, 1, 2) in core.ledger.stagings)
        await clock.advance(0)
        with pytest.raises(NotStaged, match="here"):
            await core.store.flip(release, "someone")
        core.backend.lost.clear()
        await clock.advance(6.0)
        await turns_until(lambda: (release, 2, 2) in core.ledger.stagings)
        await clock.advance(6.0)
        [report] = await core.store.replica_reports()
        assert (report.release, report.staged, report.of) == (release, 2, 2)
        await core.store.flip(release, "someone")


@pytest.mark.parametrize("away", [False, True])
async def test_a_replica_that_stops_takes_its_report_back(random_run: Run, away: bool) -> None:
    """Law: who stops holds no flip up; where the store is away the stop ends all the same, and the fault is counted."""
    async with opened(random_run, ManualClock(), feed=False, prewarm_s=0, replica_id="here") as core:
        await core.replica.start()
        await turns_until(lambda: core.backend.reads["compare_and_set"] > 0)
        await quiet()
        assert [report.replica for report in await core.store.replica_reports()] == ["here"]
        core.backend.away = away
        await core.replica.staging.stop()
        core.backend.away = False
        assert core.ledger.failures["report"] == away
        assert [report.replica for report in await core.store.replica_reports()] == (["here"] if away else [])


async def test_another_staged_release_takes_the_place_of_the_first(core: Core) -> None:
    """Law: what was prepared for a release that is staged no more is given back; none staged leaves nothing."""
    await core.publish(DOMAIN)
    before = core.replica.slots.nbytes
    await stage(core, await release_of(core, {DOMAIN: core.dye(DOMAIN, 0.5)}))
    await stage(core, await release_of(core, {DOMAIN: core.dye(DOMAIN, 0.6)}))
    assert core.replica.slots.nbytes == 2 * before
    await core.store.stage(None, "someone")
    await core.replica.staging.follow()
    assert core.replica.slots.nbytes == before
    assert core.ledger.stagings[-1] == (None, 0, 0)


async def test_two_looks_at_what_is_staged_prepare_one_release(core: Core) -> None:
    """Law: of two looks the later one holds, in whatever order their answers come, and nothing is counted for both."""
    first, second = [await release_of(core, {DOMAIN: core.dye(DOMAIN, dye)}) for dye in (0.5, 0.6)]
    await core.store.stage(first, "someone")
    core.backend.held = "staged"
    early = asyncio.create_task(core.replica.staging.follow())
    await turns_until(lambda: core.backend.reading is not None)
    core.backend.held = None
    await core.store.stage(second, "someone")
    late = asyncio.create_task(core.replica.staging.follow())
    await quiet()
    assert core.backend.reading is not None
    core.backend.reading.set_result(None)
    await asyncio.gather(early, late)
    await core.replica.staging.settled()
    assert core.ledger.stagings[-1] == (second, 1, 1)


async def test_a_refused_staged_revision_is_not_counted(core: Core) -> None:
    """Law: a revision that this replica cannot reproduce is never staged here, and its fault is told."""
    await core.publish(DOMAIN)
    bad = core.broken(DOMAIN)
    await stage(core, await release_of(core, {DOMAIN: bad}))
    assert core.ledger.stagings[-1][1:] == (0, 1)
    assert [revision for _, revision, _ in core.ledger.rejections] == [digest(bad)]


async def test_5000_resident_domains_flip_in_short_turns() -> None:
    """Law: a pointer is applied in chunks of at most CHUNK domains, with a turn of the event loop between two."""
    domains_of = 5000
    store = AdapterStore(MemoryBackend(), time.time)
    slots = SlotTable(Slot.empty, lambda count, size: None, limit_bytes=1 << 40)
    domains = Domains([], slots, SilentObserver(), unknown_limit=10)
    follower = ReleaseFollower(
        store, store, domains, slots, loader=None, clock=ManualClock(), observer=SilentObserver(), in_flight=8
    )  # type: ignore[arg-type]  # nothing is left to load
    releases = [
        Release(divisions={"theme": {f"d{i}": f"{i + n * domains_of:064x}" for i in range(domains_of)}}) for n in (0, 1)
    ]
    first, second = [await store.put_release(release) for release in releases]
    store_all = {revision: b"" for release in releases for revision in release.revisions()}
    await store.backend.put_blobs(store_all)
    await store.flip(first, "test", min_staged=0)
    await follower.follow()
    for name in releases[0].domains():
        domains.apply(name, None, tiny(releases[0].revision_of(name)))
        assert slots.stage(name, tiny(releases[1].revision_of(name)))
    await store.flip(second, "test", min_staged=0)
    await store.release(second)
    flipped: list[int] = []

    async def watch() -> None:
        while not flipped or flipped[-1] < domains_of:
            flipped.append(sum(1 for name in slots if slots.get(name).revision == releases[1].revision_of(name)))  # type: ignore[union-attr,arg-type]
            await asyncio.sleep(0)

    await asyncio.gather(watch(), follower.follow())
    steps = [later - earlier for earlier, later in itertools.pairwise(flipped)]
    assert max(steps) <= CHUNK
    assert len([step for step in steps if step]) >= domains_of // CHUNK


def tiny(revision: str | None) -> Slot:
    """A slot of one combination."""
    return Slot(revision, (), {(): Weight(1)}, {}, cast(Serving, None))
