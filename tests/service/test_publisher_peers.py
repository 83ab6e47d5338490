"""Laws of publishing while other workers are waited for, and of what a reply may say then."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from adapters_store.errors import DigestMismatch
from benchmarks.forge import Run, digest
from tests.service.clockwork import ManualClock, turns_until
from tests.service.core import Core, opened
from tests.service.live import adapter, espalier
from tests.service.test_activation import Waiting

DOMAIN, OTHER = "theme-1", "theme-2"


@pytest.fixture
async def core(random_run: Run) -> AsyncIterator[Core]:
    async with opened(random_run) as opened_core:
        yield opened_core


async def test_what_waits_for_a_hung_worker_holds_no_place(random_run: Run) -> None:
    """Law: any number of changes may wait for other workers; each has given its place up once it serves here."""
    async with opened(random_run, peers=(peers := Waiting())) as core:
        publisher = core.replica.publisher
        first = await stored_first(core, peers)
        landed: list[str] = []
        waiting = [
            asyncio.create_task(core.publish(DOMAIN, core.dye(DOMAIN, 0.2), landed=lambda: landed.append("one"))),
            asyncio.create_task(publisher.set_live(OTHER, digest(core.body(OTHER)), by="test")),
        ]
        await turns_until(lambda: len(peers.asked) == 3)
        waiting.append(
            asyncio.create_task(publisher.set_alias(DOMAIN, "canary", first, 100.0, by="test")),
        )
        await turns_until(lambda: len(peers.asked) == 4)
        assert (await core.score(DOMAIN)).served.alias == "canary"
        assert landed == ["one"]
        assert not any(task.done() for task in waiting)
        assert (await core.publish("theme-3", activate=False)).status == "stored"
        peers.done.set()
        assert [(await task).status for task in waiting] == ["created", "created", "created"]


async def stored_first(core: Core, peers: Waiting) -> str:
    """A live revision of one domain and a stored one of another; from then on the peers hang."""
    first = await core.publish(DOMAIN, core.dye(DOMAIN, 0.1))
    await core.publish(OTHER, activate=False)
    peers.done.clear()
    return first.revision


async def test_uploads_behind_a_hung_worker_keep_nobody_out(random_run: Run) -> None:
    """Law: publishes that wait for other workers are answered 202 and hold no place that the next upload needs."""
    settings: dict[str, Any] = {"cold_wait_ms": 60_000, "deadline_ms": 60_000, "publish_wait_ms": 2000}
    peers = Waiting()
    async with espalier(random_run, publish=[], peers=peers, **settings) as live:
        peers.done.clear()
        answers = await asyncio.gather(*(live.publish(name, adapter(random_run, name)) for name in (DOMAIN, OTHER)))
        third = await live.publish("theme-3", adapter(random_run, "theme-3"))
        assert [answer.status_code for answer in (*answers, third)] == [202, 202, 202]
        peers.done.set()


async def test_a_worker_that_was_given_damaged_bytes_has_not_applied(random_run: Run) -> None:
    """Law: a worker has applied a change when it serves what the record names, not when it has read the record."""
    async with opened(random_run, ManualClock(), peers=(peers := Waiting())) as core:
        await core.publish(DOMAIN, core.dye(DOMAIN, 0.1))
        newer = core.dye(DOMAIN, 0.4)
        record = await core.put_live(DOMAIN, newer)
        core.backend.damaged.add(digest(newer))
        assert peers.refresh is not None
        for _ in range(2):
            with pytest.raises(DigestMismatch):
                await peers.refresh(DOMAIN, record.generation)
        core.backend.damaged.clear()
        await peers.refresh(DOMAIN, record.generation)
        assert (await core.score(DOMAIN, strict=True)).served.revision == digest(newer)


async def test_a_repeated_publish_names_the_generation_of_its_revision(random_run: Run) -> None:
    """Law: `unchanged` comes with the record's generation, also where the domain has no room in memory."""
    async with opened(random_run, memory_bytes=1) as core:
        first = await core.publish(DOMAIN)
        second = await core.publish(DOMAIN)
        assert (second.status, second.generation) == ("unchanged", first.generation)
