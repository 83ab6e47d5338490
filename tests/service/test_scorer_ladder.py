"""The fallback ladder, rung by rung: what scores, what the response names, and what strict makes of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from adapters_store.errors import BadId
from benchmarks.forge import Run, digest
from benchmarks.oracle_files import AdapterFile
from service.errors import AuxiliaryDomain, Unavailable, UnknownDomain
from service.scorer import Fallback
from tests.service.clockwork import ManualClock, quiet
from tests.service.core import Core, assert_scores, opened

DOMAIN = "theme-1"


@pytest.fixture
async def core(random_run: Run) -> AsyncIterator[Core]:
    async with opened(random_run) as opened_core:
        yield opened_core


async def never_published(core: Core) -> str:
    return DOMAIN


async def deleted(core: Core) -> str:
    await core.publish(DOMAIN)
    await core.replica.publisher.delete(DOMAIN, by="test")
    return DOMAIN


async def refused(core: Core) -> str:
    await core.put_live(DOMAIN, core.broken(DOMAIN))
    return DOMAIN


async def store_away(core: Core) -> str:
    await core.put_live(DOMAIN)
    core.backend.away = True
    return DOMAIN


async def blob_lost(core: Core) -> str:
    record = await core.put_live(DOMAIN)
    assert record.live is not None
    core.backend.lost.add(record.live.revision)
    return DOMAIN


async def unheard_of(core: Core) -> str:
    return "theme-of-nobody"


LADDER: list[tuple[Callable[[Core], Awaitable[str]], Fallback, type[Exception]]] = [
    (never_published, "no_adapter", Unavailable),
    (deleted, "no_adapter", Unavailable),
    (refused, "adapter_rejected", Unavailable),
    (store_away, "store_unavailable", Unavailable),
    (blob_lost, "store_unavailable", Unavailable),
    (unheard_of, "unknown_domain", UnknownDomain),
]


@pytest.mark.parametrize(("arrange", "fallback", "refusal"), LADDER)
async def test_without_any_adapter_the_backbone_scores_and_says_why(
    core: Core, arrange: Callable[[Core], Awaitable[str]], fallback: Fallback, refusal: type[Exception]
) -> None:
    """The last rung always answers, names no revision and gives the reason; strict refuses instead."""
    domain = await arrange(core)
    result = await core.score(domain)
    served = result.served
    assert (served.fallback, served.revision, served.alias, served.fuses) == (fallback, None, None, {})
    assert served.backbone == core.replica.backbone_revision
    assert_scores(result, core.expected(domain, None))
    assert core.ledger.fallbacks == {fallback: 1}
    with pytest.raises(refusal):
        await core.score(domain, strict=True)


@pytest.mark.parametrize("arrange", [never_published, deleted, refused, blob_lost])
async def test_auxiliary_adapters_score_where_the_domain_has_none(
    core: Core, arrange: Callable[[Core], Awaitable[str]]
) -> None:
    """A user in an auxiliary domain with a live adapter is scored by it alone; another user by the backbone."""
    user = next(user for user in core.users if core.auxiliary_of("segment", user) == "segment-b")
    other = next(user for user in core.users if core.auxiliary_of("segment", user) == "segment-a")
    record = await core.put_live("segment-b")
    assert record.live is not None
    domain = await arrange(core)
    result = await core.score(domain, user_id=user)
    assert result.served.fallback == "auxiliary_only"
    assert (result.served.revision, result.served.fuses) == (None, {"segment-b": record.live.revision})
    alone = AdapterFile(core.body("segment-b"))
    assert_scores(result, core.oracle.score(user, domain, core.items[:5], alone))
    with pytest.raises(Unavailable):
        await core.score(domain, user_id=user, strict=True)
    result = await core.score(domain, user_id=other)
    assert result.served.fallback != "auxiliary_only"
    assert_scores(result, core.expected(domain, None, other))


async def test_auxiliary_only_follows_the_auxiliary_record(core: Core) -> None:
    """A newer live auxiliary revision, or its deletion, is what scores after the next look at the records."""
    user = next(user for user in core.users if core.auxiliary_of("segment", user) == "segment-b")
    await core.put_live("segment-b")
    await core.score(DOMAIN, user_id=user)
    newer = core.dye("segment-b", 0.7)  # of which calibration is a natural adapter's to give: only the tensors count
    await core.publish("segment-b", newer)
    result = await core.score(DOMAIN, user_id=user)
    assert result.served.fuses == {"segment-b": digest(newer)}
    alone = AdapterFile(newer)
    alone.manifest["calibration"] = None
    assert_scores(result, core.oracle.score(user, DOMAIN, core.items[:5], alone))
    await core.store.delete("segment-b", "someone")
    await core.replica.watcher.reconcile()
    assert (await core.score(DOMAIN, user_id=user)).served.fallback == "no_adapter"


async def test_a_refused_auxiliary_revision_counts_as_absent(core: Core) -> None:
    """An auxiliary adapter that this replica refuses scores nothing, and is verified once."""
    user = next(user for user in core.users if core.auxiliary_of("segment", user) == "segment-b")
    await core.put_live("segment-b", core.broken("segment-b"))
    for _ in range(3):
        assert (await core.score(DOMAIN, user_id=user)).served.fallback == "no_adapter"
    assert len(core.ledger.rejections) == 1


@pytest.mark.parametrize("fault", ["lost", "damaged"])
async def test_a_lost_auxiliary_blob_is_not_asked_for_by_every_request(random_run: Run, fault: str) -> None:
    """What the store lost or damaged is asked for once a second, refuses no revision, and serves once it is back."""
    async with opened(random_run, clock := ManualClock()) as core:
        user = next(user for user in core.users if core.auxiliary_of("segment", user) == "segment-b")
        record = await core.put_live("segment-b")
        assert record.live is not None
        getattr(core.backend, fault).add(record.live.revision)
        for _ in range(5):
            assert (await core.score(DOMAIN, user_id=user)).served.fallback == "no_adapter"
        # one question to the store, which reads damaged bytes three times: they may have been damaged on their way
        assert core.backend.reads[record.live.revision] == (3 if fault == "damaged" else 1)
        assert core.ledger.rejections == []
        await core.store.put(core.body("segment-b"))
        await clock.advance(1.5)
        assert (await core.score(DOMAIN, user_id=user)).served.fuses == {"segment-b": record.live.revision}


async def test_auxiliaries_ask_no_store_that_just_failed(random_run: Run) -> None:
    """A record that could not be read is a failure for auxiliary adapters too: nothing more is asked for a while."""
    async with opened(random_run, clock := ManualClock()) as core:
        user = next(user for user in core.users if core.auxiliary_of("segment", user) == "segment-b")
        await core.put_live("segment-b")
        core.backend.away = True
        core.backend.reads.clear()
        for _ in range(5):
            assert (await core.score(DOMAIN, user_id=user)).served.fallback == "store_unavailable"
        assert dict(core.backend.reads) == {f"domain/{DOMAIN}": 1}
        core.backend.away = False
        await clock.advance(1.5)
        assert (await core.score(DOMAIN, user_id=user)).served.fallback == "auxiliary_only"


async def test_items_in_several_auxiliary_domains_are_scored_each_by_its_own(three_way_run: Run) -> None:
    """auxiliary_only splits a request by the items' division as a fused adapter does, and names all that scored."""
    async with opened(three_way_run) as core:
        for domain in ("shelf-x", "shelf-y"):
            await core.put_live(domain)
        items = core.items[:40]
        result = await core.score(DOMAIN, items)
        assert set(result.served.fuses) == {"shelf-x", "shelf-y"}
        for i, item in enumerate(items):
            shelf = core.oracle.auxiliary_domain("shelf", core.users[0], item)
            alone = None if shelf is None else AdapterFile(core.body(shelf))
            assert abs(result.scores[i] - core.oracle.score(core.users[0], DOMAIN, [item], alone)[0]) < 2e-6


async def test_a_cold_domain_waits_a_bounded_time(random_run: Run) -> None:
    """A load that takes longer than cold_wait_ms is not waited for: `loading` now, live later."""
    async with opened(random_run, clock := ManualClock(), cold_wait_ms=200.0) as core:
        record = await core.put_live(DOMAIN)
        core.backend.open.clear()
        waiting = asyncio.create_task(core.score(DOMAIN))
        await clock.advance(0.199)
        assert not waiting.done()
        await clock.advance(0.001)
        assert (await waiting).served.fallback == "loading"
        core.backend.open.set()
        await core.replica.loader.refresh(DOMAIN)
        result = await core.score(DOMAIN)
        assert record.live is not None
        assert (result.served.revision, result.served.fallback) == (record.live.revision, None)


async def test_no_cold_wait_is_longer_than_the_deadline(random_run: Run) -> None:
    """A request whose deadline is nearer than cold_wait_ms stops waiting at its deadline."""
    async with opened(random_run, clock := ManualClock(), cold_wait_ms=200.0) as core:
        core.backend.open.clear()
        waiting = asyncio.create_task(core.score(DOMAIN, deadline=clock.now() + 0.05))
        await quiet()
        await clock.advance(0.05)
        with pytest.raises(Exception, match="deadline"):
            await waiting


async def test_min_generation_reloads_the_record_first(core: Core) -> None:
    """A client that saw a newer generation elsewhere is served by it here, without waiting for the watcher."""
    await core.publish(DOMAIN)
    newer = await core.put_live(DOMAIN, core.dye(DOMAIN, 0.4))
    assert newer.live is not None
    assert (await core.score(DOMAIN)).served.generation == newer.generation - 1
    result = await core.score(DOMAIN, min_generation=newer.generation, strict=True)
    assert (result.served.revision, result.served.generation) == (newer.live.revision, newer.generation)


async def test_a_generation_that_cannot_be_had_is_a_fallback(core: Core) -> None:
    """Asked for a generation that the store has not (loading) or cannot tell (store_unavailable), the old scores."""
    published = await core.publish(DOMAIN)
    result = await core.score(DOMAIN, min_generation=99)
    assert (result.served.revision, result.served.fallback) == (published.revision, "loading")
    core.backend.away = True
    result = await core.score(DOMAIN, min_generation=99)
    assert (result.served.revision, result.served.fallback) == (published.revision, "store_unavailable")
    with pytest.raises(Unavailable):
        await core.score(DOMAIN, min_generation=99, strict=True)


async def test_a_store_that_is_away_is_not_asked_by_every_request(random_run: Run) -> None:
    """After a failure cold requests fall back at once for a while, then ask again."""
    async with opened(random_run, clock := ManualClock()) as core:
        await core.put_live(DOMAIN)
        core.backend.away = True
        for _ in range(5):
            assert (await core.score(DOMAIN)).served.fallback == "store_unavailable"
        assert core.backend.reads[f"domain/{DOMAIN}"] == 2  # one of them by put_live
        core.backend.away = False
        await clock.advance(1.5)
        assert (await core.score(DOMAIN)).served.fallback is None


async def test_unknown_domains_are_remembered_up_to_a_bound(random_run: Run) -> None:
    """An unknown id costs one record read; only so many are remembered; a look at the records forgets them."""
    async with opened(random_run, unknown_domains=3) as core:
        for _ in range(3):
            await core.score("nobody-1")
        assert core.backend.reads["domain/nobody-1"] == 1
        for i in range(2, 6):
            await core.score(f"nobody-{i}")
        assert [core.replica.domains.is_unknown(f"nobody-{i}") for i in range(1, 6)] == [False, False, True, True, True]
        await core.replica.watcher.reconcile()
        await core.score("nobody-5")
        assert core.backend.reads["domain/nobody-5"] == 2


async def test_a_domain_that_only_the_store_knows_is_served(core: Core) -> None:
    """Adding a domain needs no new backbone: a record in a natural division is enough, and ends the memory of it."""
    assert (await core.score("theme-9")).served.fallback == "unknown_domain"

    body = core.renamed(DOMAIN, "theme-9")
    published = await core.publish("theme-9", body)
    result = await core.score("theme-9", strict=True)
    assert (result.served.revision, result.served.fallback) == (published.revision, None)
    assert_scores(result, core.expected("theme-9", body))


@pytest.mark.parametrize("domain", ["segment-a", "segment-z"])
async def test_an_auxiliary_domain_is_never_asked_for(core: Core, domain: str) -> None:
    """A domain of an auxiliary division is refused, whether the bundle lists it or only the store knows it."""
    await core.put_live(domain, core.renamed("segment-a", domain))
    with pytest.raises(AuxiliaryDomain, match="segment"):
        await core.score(domain)


async def test_a_domain_id_is_checked(core: Core) -> None:
    """What is no domain id reaches no store."""
    with pytest.raises(BadId):
        await core.score("../theme-1")
