"""Laws of the switches: the backbone alone scores while they say so, at once, and nothing is forgotten by it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from adapters_store.errors import Frozen
from benchmarks.forge import Run
from service.errors import AuxiliaryDomain, Unavailable
from tests.service.clockwork import quiet, turns_until
from tests.service.core import Core, assert_scores, opened

DOMAIN = "theme-1"


@pytest.fixture
async def core(random_run: Run) -> AsyncIterator[Core]:
    async with opened(random_run) as opened_core:
        yield opened_core


async def test_adapters_only_backbone_switches_every_adapter_off_and_on(core: Core) -> None:
    """Law: on: every request is scored by the backbone, as switched_off, strict is refused; off: as before, at once."""
    published = await core.publish(DOMAIN)
    await core.store.switch_backbone_only(True, "someone")
    await core.replica.switches.follow()
    core.backend.reads.clear()
    for domain in (DOMAIN, "theme-2", "nobody-knows"):
        result = await core.score(domain)
        assert (result.served.revision, result.served.alias, result.served.fallback) == (None, None, "switched_off")
        assert_scores(result, core.expected(domain, None))
        with pytest.raises(Unavailable, match="switched_off"):
            await core.score(domain, strict=True)
    with pytest.raises(AuxiliaryDomain):
        await core.score("segment-a")
    assert not core.backend.reads
    await core.store.switch_backbone_only(False, "someone")
    await core.replica.watcher.reconcile()
    result = await core.score(DOMAIN, strict=True)
    assert (result.served.revision, result.served.fallback) == (published.revision, None)
    assert core.ledger.switched == [False, True, False]


async def test_a_replica_starts_with_the_switch_as_it_stands(random_run: Run, core: Core) -> None:
    """Law: the switch is read before the first request."""
    await core.put_live(DOMAIN)
    await core.store.switch_backbone_only(True, "someone")
    async with opened(random_run, on=core.backend) as other:
        assert (await other.score(DOMAIN)).served.fallback == "switched_off"


async def test_a_look_that_was_answered_late_switches_nothing_back(core: Core) -> None:
    """Law: of two looks at the switches the later one holds, in whatever order their answers come."""
    await core.put_live(DOMAIN)
    await core.store.freeze(None, "operator", "an incident")
    core.backend.held = "switches"
    first = asyncio.create_task(core.replica.switches.follow())
    await turns_until(lambda: core.backend.reading is not None)
    core.backend.held = None
    await core.store.switch_backbone_only(True, "operator")
    second = asyncio.create_task(core.replica.switches.follow())
    await quiet()
    assert core.backend.reading is not None
    core.backend.reading.set_result(None)
    await asyncio.gather(first, second)
    assert (await core.score(DOMAIN)).served.fallback == "switched_off"


async def test_what_is_frozen_takes_no_publish_but_a_roll_back(core: Core) -> None:
    """Law: frozen refuses publishes and trials with by whom and why; scores and rolling back go on."""
    first = await core.publish(DOMAIN, core.dye(DOMAIN, 0.1))
    second = await core.publish(DOMAIN, core.dye(DOMAIN, 0.2))
    await core.store.freeze(None, "operator", "an incident")
    with pytest.raises(Frozen, match="an incident"):
        await core.publish(DOMAIN, core.dye(DOMAIN, 0.3))
    with pytest.raises(Frozen):
        await core.replica.publisher.set_alias(DOMAIN, "canary", first.revision, 5.0, by="test")
    assert (await core.score(DOMAIN, strict=True)).served.revision == second.revision
    await core.replica.publisher.rollback(DOMAIN, second.revision, by="test")
    assert (await core.score(DOMAIN, strict=True)).served.revision == first.revision
