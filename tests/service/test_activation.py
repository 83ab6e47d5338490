"""Laws of a change that was made: this replica and its other workers score by it on return, whoever came between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from adapters_store.errors import StoreUnavailable
from benchmarks.forge import Run, digest
from service.peers import Refresh
from tests.service.clockwork import turns_until
from tests.service.core import Core, opened

DOMAIN = "theme-1"


@pytest.fixture
async def core(random_run: Run) -> AsyncIterator[Core]:
    async with opened(random_run) as opened_core:
        yield opened_core


async def test_concurrent_publishes_of_one_domain_end_with_the_records_winner(core: Core) -> None:
    """Whoever wrote the record last is who scores, here as in the store."""
    bodies = [core.dye(DOMAIN, 0.1 * i) for i in range(6)]
    for first, second in zip(bodies[::2], bodies[1::2], strict=True):
        await asyncio.gather(core.publish(DOMAIN, first), core.publish(DOMAIN, second))
        record = await core.store.domain(DOMAIN)
        assert record is not None
        assert record.live is not None
        result = await core.score(DOMAIN, strict=True)
        assert (result.served.revision, result.served.generation) == (record.live.revision, record.generation)


async def test_publishing_into_a_restored_store_is_scored_on_return(core: Core) -> None:
    """`created` means scored here, also where a backup took the record to a generation below the applied one."""
    await core.publish(DOMAIN, core.dye(DOMAIN, 0.1))
    backup = await core.backend.read_record(f"domain/{DOMAIN}")
    assert backup is not None
    for i in range(2, 5):
        await core.publish(DOMAIN, core.dye(DOMAIN, 0.1 * i))
    core.backend.restore(f"domain/{DOMAIN}", backup)
    body = core.dye(DOMAIN, 0.9)
    published = await core.publish(DOMAIN, body)
    assert (published.status, published.generation) == ("created", backup.record["generation"] + 1)
    result = await core.score(DOMAIN, strict=True)
    assert (result.served.revision, result.served.generation) == (digest(body), published.generation)


async def test_a_publish_that_another_look_overtook_is_scored_on_return(core: Core) -> None:
    """A look that read the record before a restore and landed during the publish does not win over the publish."""
    await core.publish(DOMAIN, core.dye(DOMAIN, 0.1))
    backup = await core.backend.read_record(f"domain/{DOMAIN}")
    assert backup is not None
    for i in range(2, 5):
        await core.publish(DOMAIN, core.dye(DOMAIN, 0.1 * i))
    stale = await core.store.domain(DOMAIN)
    assert stale is not None
    core.backend.restore(f"domain/{DOMAIN}", backup)
    core.backend.meanwhile = lambda: core.replica.domains.apply(DOMAIN, stale, core.replica.slots.get(DOMAIN))
    body = core.dye(DOMAIN, 0.9)
    published = await core.publish(DOMAIN, body)
    result = await core.score(DOMAIN, strict=True)
    assert (result.served.revision, result.served.generation) == (digest(body), published.generation)


class Waiting:
    """Peers that answer when told, and keep what they were asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []
        self.refresh: Refresh | None = None
        self.done = asyncio.Event()
        self.done.set()

    async def start(self, refresh: Refresh) -> None:
        """See Peers."""
        self.refresh = refresh

    async def applied(self, domain: str, generation: int) -> None:
        """See Peers."""
        self.asked.append((domain, generation))
        await self.done.wait()

    async def stop(self) -> None:
        """See Peers."""


async def test_every_change_waits_for_the_other_workers(random_run: Run) -> None:
    """Law: after the flip here a change returns once the peers have applied that generation, and not before."""
    async with opened(random_run, peers=(peers := Waiting())) as core:
        publisher = core.replica.publisher
        first = await core.publish(DOMAIN, core.dye(DOMAIN, 0.1))
        peers.done.clear()
        publishing = asyncio.create_task(core.publish(DOMAIN, core.dye(DOMAIN, 0.2)))
        await turns_until(lambda: len(peers.asked) == 2)
        assert (await core.score(DOMAIN)).served.revision == digest(core.dye(DOMAIN, 0.2))
        assert not publishing.done()
        peers.done.set()
        second = await publishing
        assert peers.asked == [(DOMAIN, first.generation), (DOMAIN, second.generation)]
        await publisher.set_alias(DOMAIN, "canary", first.revision, 5.0, by="test")
        await publisher.clear_alias(DOMAIN, "canary", by="test")
        await publisher.rollback(DOMAIN, second.revision, by="test")
        await publisher.delete(DOMAIN, by="test")
        assert [generation for _, generation in peers.asked] == [1, 2, 3, 4, 5, 6]


async def test_a_worker_that_is_told_of_a_change_reaches_it(random_run: Run) -> None:
    """Law: what the peers call brings this worker to that generation, or raises; older records are not enough."""
    async with opened(random_run, peers=(peers := Waiting())) as core:
        await core.publish(DOMAIN)
        record = await core.put_live(DOMAIN, core.dye(DOMAIN, 0.4))
        assert peers.refresh is not None
        await peers.refresh(DOMAIN, record.generation)
        assert (await core.score(DOMAIN)).served.generation == record.generation
        with pytest.raises(StoreUnavailable, match="generation"):
            await peers.refresh(DOMAIN, record.generation + 1)
