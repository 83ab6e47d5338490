"""Laws of following the feed: every change arrives, what failed is tried again, a gap ends in the same state."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from functools import partial
from typing import Any

import pytest

from adapters_store.backend import Changes
from adapters_store.errors import StoreError, StoreUnavailable
from adapters_store.releases import Release
from benchmarks.forge import Run, digest
from tests.factory import THEMES
from tests.service.clockwork import ManualClock, quiet, turns_until
from tests.service.core import Core, FaultyBackend, filled, opened

DOMAIN, OTHER, THIRD = THEMES[:3]


class Wire(FaultyBackend):
    """A store whose feed is told by the test alone."""

    def __init__(self) -> None:
        super().__init__()
        self.news: asyncio.Queue[Changes | Exception] = asyncio.Queue()
        self.asked: list[str | None] = []

    async def changes(self, position: str | None, wait_s: float) -> Changes:
        """See Backend."""
        self.asked.append(position)
        told = await self.news.get()
        if isinstance(told, Exception):
            raise told
        return told

    def tell(self, *keys: str, resync: bool = False) -> None:
        """The feed names records."""
        self.news.put_nowait(Changes(frozenset(keys), f"at {len(self.asked)}", resync))


async def wired(run: Run) -> Wire:
    """A filled store of that kind."""
    full, wire = await filled(run), Wire()
    wire._blobs, wire._records = full._blobs, full._records
    return wire


def revision_of(core: Core, domain: str) -> str | None:
    """What serves a domain."""
    slot = core.replica.slots.get(domain)
    return None if slot is None else slot.revision


async def test_another_writers_publish_is_scored_without_a_look_at_everything(random_run: Run) -> None:
    """Law: a domain that the feed names is read and flipped, one that nobody here asked for is left alone."""
    async with opened(random_run, on=(wire := await wired(random_run)), prewarm_s=0) as core:
        await core.publish(DOMAIN)
        await core.replica.start()
        newer = core.dye(DOMAIN, 0.6)
        await core.put_live(DOMAIN, newer)
        await core.put_live(OTHER)
        wire.reads.clear()
        wire.tell(f"domain/{DOMAIN}", f"domain/{OTHER}")
        await turns_until(lambda: revision_of(core, DOMAIN) == digest(newer))
        assert wire.reads[f"domain/{OTHER}"] == 0
        assert wire.reads["versions"] == 0
        assert core.replica.domains.get(OTHER) is None


async def test_ones_own_publish_reloads_nothing(random_run: Run) -> None:
    """Law: a published record that the feed names again costs a read of the record, and no blob and no new slot."""
    async with opened(random_run, on=(wire := await wired(random_run)), prewarm_s=0) as core:
        await core.replica.start()
        await core.replica.watcher.reconcile()  # the first look meets the backbone's record
        published = await core.publish(DOMAIN)
        slot = core.replica.slots.get(DOMAIN)
        wire.reads.clear()
        wire.tell(f"domain/{DOMAIN}")
        await turns_until(lambda: wire.reads[f"domain/{DOMAIN}"] == 1)
        await core.replica.watcher.settled()
        assert wire.reads[published.revision] == 0
        assert core.replica.slots.get(DOMAIN) is slot
        assert await core.replica.watcher.reconcile() == 0


async def test_an_unknown_domain_is_asked_for_anew_once_it_is_named(random_run: Run) -> None:
    """Law: the feed clears what it names from the memory of unknown ids, a re-sync clears all of it."""
    async with opened(random_run, on=(wire := await wired(random_run)), prewarm_s=0) as core:
        await core.replica.start()
        for domain in ("theme-8", "theme-9"):
            assert (await core.score(domain)).served.fallback == "unknown_domain"
        await core.put_live("theme-9", core.renamed(DOMAIN, "theme-9"))
        assert (await core.score("theme-9")).served.fallback == "unknown_domain"
        wire.tell("domain/theme-9")
        await turns_until(lambda: not core.replica.domains.is_unknown("theme-9"))
        assert core.replica.domains.is_unknown("theme-8")
        assert (await core.score("theme-9")).served.fallback is None
        wire.tell(resync=True)
        await turns_until(lambda: not core.replica.domains.is_unknown("theme-8"))


async def test_what_changes_while_it_is_pulled_is_read_again(random_run: Run) -> None:
    """Law: a domain that the feed names while its first look is in the air ends with what was written after it."""
    async with opened(random_run, on=(wire := await wired(random_run)), prewarm_s=0) as core:
        await core.replica.start()
        await core.put_live(DOMAIN, core.dye(DOMAIN, 0.1))
        wire.held = f"domain/{DOMAIN}"
        pulling = asyncio.create_task(core.score(DOMAIN))
        await turns_until(lambda: wire.reading is not None)
        wire.held = None
        newer = core.dye(DOMAIN, 0.7)
        await core.put_live(DOMAIN, newer)
        wire.tell(f"domain/{DOMAIN}")
        await quiet()
        assert wire.reading is not None
        wire.reading.set_result(None)
        await pulling
        await turns_until(lambda: revision_of(core, DOMAIN) == digest(newer))


async def test_what_failed_is_tried_again(random_run: Run) -> None:
    """Law: a change that could not be brought is tried again with the next word of the feed, not forgotten."""
    async with opened(random_run, clock := ManualClock(), on=(wire := await wired(random_run)), prewarm_s=0) as core:
        await core.publish(DOMAIN)
        await core.replica.start()
        newer = core.dye(DOMAIN, 0.6)
        await core.put_live(DOMAIN, newer)
        wire.lost.add(digest(newer))
        wire.tell(f"domain/{DOMAIN}")
        await turns_until(lambda: core.ledger.failures["refresh"] == 1)
        wire.lost.clear()
        await clock.advance(2.0)
        wire.tell()
        await turns_until(lambda: revision_of(core, DOMAIN) == digest(newer))


async def test_a_feed_that_fails_is_asked_again_with_back_off(random_run: Run) -> None:
    """Law: failures are told and never end the watch; the waits grow, stay below 5 s, and the position is kept."""
    async with opened(random_run, clock := ManualClock(), on=(wire := await wired(random_run)), prewarm_s=0) as core:
        await core.publish(DOMAIN)
        await core.replica.start()
        wire.tell(resync=True)
        await turns_until(lambda: len(wire.asked) == 2)
        position = wire.asked[-1]
        for failures in range(1, 12):
            wire.news.put_nowait(
                StoreUnavailable("the feed is away") if failures % 3 else ValueError("a fault of ours")
            )
            await quiet()
            assert len(wire.asked) == failures + 1
            await clock.advance(5.0)
            assert len(wire.asked) == failures + 2
        assert set(wire.asked[1:]) == {position}
        newer = core.dye(DOMAIN, 0.6)
        await core.put_live(DOMAIN, newer)
        wire.tell(f"domain/{DOMAIN}")
        await turns_until(lambda: revision_of(core, DOMAIN) == digest(newer))


async def busy_hour(core: Core) -> None:
    """What other writers do meanwhile: publish, roll back, delete, canary, release, switches."""
    store = core.store
    await core.put_live(DOMAIN, core.dye(DOMAIN, 0.3))
    await core.put_live(DOMAIN, core.dye(DOMAIN, 0.4))
    await store.rollback(DOMAIN, digest(core.dye(DOMAIN, 0.4)), "someone")
    await store.delete(OTHER, "someone")
    release = await store.put_release(Release(divisions={"theme": {THIRD: await store.put(core.dye(THIRD, 0.5))}}))
    await store.flip(release, "someone", min_staged=0)
    canary = await store.put(core.dye(DOMAIN, 0.8))
    await store.set_canary(DOMAIN, canary, 40.0, "someone")
    await core.put_live("theme-9", core.renamed(DOMAIN, "theme-9"))
    await store.switch_backbone_only(True, "someone")
    await store.switch_backbone_only(False, "someone")


async def state_of(core: Core) -> dict[str, Any]:
    """All that decides how a replica scores."""
    scores = {}
    for domain in (*THEMES, "theme-9"):
        for user in core.users[:10]:
            served = (await core.score(domain, user_id=user)).served
            scores[domain, user] = (served.revision, served.alias, served.generation, served.fallback)
    return {"scores": scores, "switch": core.replica.switches.backbone_only}


async def test_a_replica_that_missed_an_hour_ends_in_the_same_state(random_run: Run) -> None:
    """Law: after a re-sync, or after one comparison, a replica is as one that followed each change."""
    backend = await filled(random_run)
    quiet_feed = {"on": backend, "prewarm_s": 0.0}
    async with (
        opened(random_run, **quiet_feed) as follower,
        opened(random_run, **quiet_feed) as resyncing,
        opened(random_run, **quiet_feed) as reconciling,
    ):
        cores = (follower, resyncing, reconciling)
        for domain in THEMES:
            await follower.put_live(domain)
            for core in cores:
                await core.score(domain)
        for core in cores:
            await core.score("theme-9")
        await follower.replica.start()
        await turns_until(lambda: follower.ledger.resyncs == 1)
        await busy_hour(follower)
        await turns_until(lambda: follower.replica.domains.fleet.pointer.generation == 1)
        await turns_until(lambda: follower.replica.slots.get(DOMAIN, "canary") is not None)
        await follower.replica.watcher.settled()
        await resyncing.replica.start()
        await turns_until(lambda: resyncing.replica.slots.get(DOMAIN, "canary") is not None)
        await turns_until(lambda: resyncing.replica.domains.fleet.pointer.generation == 1)
        await resyncing.replica.watcher.settled()
        await reconciling.replica.watcher.reconcile()
        expected = await state_of(follower)
        assert expected["scores"][DOMAIN, core.users[0]][3] is None
        assert expected["scores"][OTHER, core.users[0]][3] == "no_adapter"
        for core in (resyncing, reconciling):
            assert await state_of(core) == expected


@pytest.mark.parametrize("seed", range(4))
async def test_any_history_ends_as_a_fresh_replica_begins(random_run: Run, seed: int) -> None:
    """Law: a replica that lived through any changes, its own and others', scores as one that starts after them."""
    draw = random.Random(seed)
    async with opened(random_run, prewarm_s=0) as core:
        await core.replica.start()
        changed = 0
        for _ in range(60):
            with suppress(StoreError):
                await any_change(core, draw, draw.choice(THEMES[:3]))
                changed += 1
            await core.score(draw.choice(THEMES[:3]))
        assert changed > 15
        pointer = await core.store.pointer()
        await turns_until(lambda: core.replica.domains.fleet.pointer == pointer)
        await turns_until(partial(caught_up, core, await core.store.versions()))
        await core.replica.watcher.settled()
        for domain in THEMES:  # what a flip left to be loaded, in the background too
            known = core.replica.domains.get(domain)
            live = None if known is None else known.live
            # without a slot its next request pulls it
            await turns_until(lambda domain=domain, live=live: revision_of(core, domain) in (live, None))
        async with opened(random_run, on=core.backend) as fresh:
            for domain in THEMES:
                await fresh.replica.loader.refresh(domain)
            assert await state_of(core) == await state_of(fresh)


def caught_up(core: Core, versions: dict[str, str]) -> bool:
    """Each domain that was asked for stands as its record does; the feed may be gathering what changed last."""
    known = {domain: core.replica.domains.get(domain) for domain in THEMES}
    return all(one is None or one.version == versions.get(f"domain/{domain}") for domain, one in known.items())


async def any_change(core: Core, draw: random.Random, domain: str) -> None:
    """One change of one domain or of the fleet, through this replica or by another writer."""
    store, publisher = core.store, core.replica.publisher
    body = core.dye(domain, draw.choice([0.1, 0.2, 0.3, 0.4]))
    live = (await publisher.state(domain)).live or "0" * 64
    kind = draw.choice(["publish", "put", "rollback", "delete", "canary", "clear", "flip", "unflip"])
    if kind == "publish":
        await core.publish(domain, body)
    elif kind == "put":
        await core.put_live(domain, body)
    elif kind == "rollback":
        await (
            publisher.rollback(domain, live, by="test") if draw.random() < 0.5 else store.rollback(domain, live, "x")
        )
    elif kind == "delete":
        await (publisher.delete(domain, by="test") if draw.random() < 0.5 else store.delete(domain, "x"))
    elif kind == "canary":
        await store.put(body)
        await publisher.set_alias(domain, "canary", digest(body), draw.choice([30.0, 60.0]), by="test")
    elif kind == "clear":
        await publisher.clear_alias(domain, "canary", by="test")
    elif kind == "flip":
        named = {one: await store.put(core.dye(one, 0.5)) for one in draw.sample(THEMES[:3], 2)}
        await store.flip(await store.put_release(Release(divisions={"theme": named})), "x", min_staged=0)
    else:
        await store.roll_back_release((await store.pointer()).release or "0" * 64, "x")
