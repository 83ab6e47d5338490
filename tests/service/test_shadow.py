"""Laws of the shadow: it is compared, and changes no byte of a response, whatever it does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import asdict

import numpy as np
import pytest

from benchmarks.forge import Run, digest
from service.shadow import rank_correlation
from tests.service.clockwork import quiet, turns_until
from tests.service.core import Core, opened

DOMAIN = "theme-1"


@pytest.fixture
async def core(random_run: Run) -> AsyncIterator[Core]:
    async with opened(random_run) as opened_core:
        yield opened_core


async def with_shadow(core: Core, shadow: bytes, percent: float = 100.0) -> bytes:
    """A live revision, and a shadow published through the replica; the live body."""
    live = core.dye(DOMAIN, 0.1)
    await core.publish(DOMAIN, live)
    await core.publish(DOMAIN, shadow, activate=False)
    await core.replica.publisher.set_alias(DOMAIN, "shadow", digest(shadow), percent, by="test")
    return live


async def test_a_shadow_changes_no_byte_of_a_response(core: Core) -> None:
    """Law: with a shadow on every request scores and names are those without it, and it is compared each time."""
    live, shadow = core.dye(DOMAIN, 0.1), core.dye(DOMAIN, 0.9)
    await core.publish(DOMAIN, live)
    plain = [await core.score(DOMAIN, user_id=user) for user in core.users[:8]]
    await core.publish(DOMAIN, shadow, activate=False)
    await core.replica.publisher.set_alias(DOMAIN, "shadow", digest(shadow), 100.0, by="test")
    shadowed = [await core.score(DOMAIN, user_id=user) for user in core.users[:8]]
    for one, other in zip(plain, shadowed, strict=True):
        assert one.scores.tobytes() == other.scores.tobytes()
        assert {**asdict(one.served), "generation": 0} == {**asdict(other.served), "generation": 0}
    await quiet()
    assert len(core.ledger.compared) == 8
    for user, (differences, correlation) in zip(core.users, core.ledger.compared, strict=False):
        expected = core.expected(DOMAIN, shadow, user) - core.expected(DOMAIN, live, user)
        np.testing.assert_allclose(differences, expected, atol=4e-6)
        assert correlation is not None
    assert core.ledger.dropped == 0


async def test_it_rides_in_the_same_batch(core: Core) -> None:
    """Law: the shadow's rows are in the batch of their request, and its slot is leased until the batch is done."""
    await with_shadow(core, core.dye(DOMAIN, 0.9))
    core.engine.batches.clear()
    request = asyncio.create_task(core.score(DOMAIN))
    slot = core.replica.slots.get(DOMAIN, "shadow")
    assert slot is not None
    await turns_until(lambda: slot.leases == 1)
    await request
    await quiet()
    assert [len(batch) for batch in core.engine.batches] == [2]
    assert slot.leases == 0


async def test_only_its_percent_is_shadowed(random_run: Run) -> None:
    """Law: about percent of the requests are scored by the shadow too."""
    async with opened(random_run) as core:
        await with_shadow(core, core.dye(DOMAIN, 0.9), percent=30.0)
        for _ in range(8):
            await asyncio.gather(*(core.score(DOMAIN, core.items[:2]) for _ in range(25)))
        await quiet()
        assert 25 <= len(core.ledger.compared) + core.ledger.dropped <= 100


async def test_an_engine_that_fails_with_the_shadow_answers_without(core: Core) -> None:
    """Law: the batch is run again without shadows; three failures in a row set the shadow aside, and say so."""
    shadow = core.dye(DOMAIN, 0.9)
    await with_shadow(core, shadow)
    prepared = core.replica.slots.get(DOMAIN, "shadow")
    assert prepared is not None
    core.engine.failing = list(prepared.combinations.values())
    for _ in range(3):
        result = await core.score(DOMAIN, strict=True)
        assert result.served.alias == "live"
        await quiet()
    assert (core.ledger.dropped, core.ledger.compared) == (3, [])
    state = await core.replica.publisher.state(DOMAIN)
    assert "as a shadow" in state.rejected[digest(shadow)]
    assert state.prepared == ()
    assert (await core.score(DOMAIN)).served.fallback is None
    assert core.ledger.dropped == 3


async def test_a_non_finite_shadow_is_dropped(core: Core) -> None:
    """Law: a shadow that overflows costs nothing but its comparison."""
    await with_shadow(core, core.dye(DOMAIN, 1e308, slope=1e308))
    result = await core.score(DOMAIN, strict=True)
    await quiet()
    assert np.isfinite(result.scores).all()
    assert (core.ledger.dropped, core.ledger.compared) == (1, [])


async def test_a_canarys_requests_are_not_shadowed(core: Core) -> None:
    """Law: what is compared is live with the shadow; a request that the canary scores is not."""
    await with_shadow(core, core.dye(DOMAIN, 0.9))
    canary = core.dye(DOMAIN, -0.9)
    await core.publish(DOMAIN, canary, activate=False)
    await core.replica.publisher.set_alias(DOMAIN, "canary", digest(canary), 100.0, by="test")
    assert (await core.score(DOMAIN)).served.alias == "canary"
    await quiet()
    assert (core.ledger.dropped, core.ledger.compared) == (0, [])


async def test_half_a_queue_drops_shadows(random_run: Run) -> None:
    """Law: while at least half of the queue's rows wait, requests are not shadowed; the drop is counted."""
    async with opened(random_run, queue_rows=40) as core:
        await with_shadow(core, core.dye(DOMAIN, 0.9))
        core.engine.batches.clear()
        requests = [asyncio.create_task(core.score(DOMAIN, core.items[:10])) for _ in range(4)]
        await asyncio.gather(*requests)
        await quiet()
        assert core.ledger.dropped == 2
        assert sum(len(batch) for batch in core.engine.batches) == 6


def test_rank_correlation_is_spearmans() -> None:
    """Law: 1 for the same order, -1 for the reverse, ties at their average rank, None where there is no order."""
    rng = np.random.default_rng(0)
    a = rng.normal(size=50)
    assert rank_correlation(a, np.exp(a)) == pytest.approx(1.0)
    assert rank_correlation(a, -a) == pytest.approx(-1.0)
    # ranks (1, 2.5, 2.5, 4) against (1, 2, 3, 4): 4.5 / sqrt(4.5 * 5)
    tied = rank_correlation(np.array([1.0, 2.0, 2.0, 3.0]), np.array([1.0, 2.0, 3.0, 4.0]))
    assert tied == pytest.approx(4.5 / np.sqrt(4.5 * 5))
    assert rank_correlation(np.ones(3), a[:3]) is None
    assert rank_correlation(a[:1], a[:1]) is None
