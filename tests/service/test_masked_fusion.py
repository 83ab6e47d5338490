"""Laws of a domain without an adapter: auxiliary adapters score it, weighed by their fusion, its own one masked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sized
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapters_store.errors import MissingPin
from adapters_store.records import DomainRecord
from benchmarks.forge import Run, digest, forge
from benchmarks.oracle_files import AdapterFile
from benchmarks.oracle_masked import masked_score
from service.errors import Unavailable
from service.scorer import ScoreResult
from tests.factory import Sizes, make_fusion
from tests.service.clockwork import ManualClock, turns_until
from tests.service.core import Core, assert_scores, filled, opened

DOMAIN = "theme-1"  # no test of these publishes it
SEGMENTS, SHELVES = ("segment-a", "segment-b"), ("shelf-x", "shelf-y")


class Live:
    """What this test made live of auxiliary adapters, as the oracle reads it.

    Args:
        core: where.
    """

    def __init__(self, core: Core) -> None:
        self.core = core
        self.files: dict[str, AdapterFile] = {}  # by revision
        self.fusions: dict[str, AdapterFile] = {}

    async def fusion(self, seed: int | None = None) -> str:
        """Store a fusion, the run's own without a seed; its revision."""
        core = self.core
        body = (core.run.folder / "fusion.safetensors").read_bytes()
        if seed is not None:
            body = make_fusion(core.oracle, np.random.default_rng(seed), Sizes(by_item=True))
        self.fusions[digest(body)] = AdapterFile(body)
        return await core.store.put(body)

    def body(self, domain: str, fusion: str | None, shift: float = 0.0) -> bytes:
        """An auxiliary adapter that pins a fusion, told apart by its first shift."""

        def edit(tensors: dict[str, Any], manifest: dict[str, Any]) -> None:
            manifest["fusion"] = fusion
            tensors["tower.0.shift"] = tensors["tower.0.shift"] + np.float32(shift)

        body = forge(self.core.body(domain), edit, self.core.oracle, {}, None)
        self.files[digest(body)] = AdapterFile(body)
        return body

    async def put(self, domain: str, fusion: str | None, shift: float = 0.0) -> DomainRecord:
        """Make one live by another writer: the store alone hears of it."""
        return await self.core.put_live(domain, self.body(domain, fusion, shift))

    async def put_all(self, fusion: str | None) -> None:
        """Make one of every domain live but segment-c, which stays without an adapter."""
        for domain in (*SEGMENTS, *SHELVES):
            await self.put(domain, fusion)

    def assert_named(self, result: ScoreResult, user: str, items: list[str] | None = None) -> None:
        """The scores are the oracle's by nothing but what the answer names."""
        core = self.core
        named = {domain: self.files[revision] for domain, revision in result.served.fuses.items()}
        expected = masked_score(core.oracle, user, DOMAIN, items or core.items[:5], named, self.fusions)
        assert_scores(result, expected)


@pytest.fixture
async def core_three(three_way_run: Run) -> AsyncIterator[Core]:
    """A replica of the run of three divisions."""
    async with opened(three_way_run) as core:
        yield core


def user_of(core: Core, segment: str | None) -> str:
    """Someone of that segment."""
    return next(user for user in core.users if core.auxiliary_of("segment", user) == segment)


def items_of(core: Core, shelf: str | None) -> list[str]:
    """Items of that shelf."""
    return [item for item in core.items if core.oracle.auxiliary_domain("shelf", "", item) == shelf][:5]


async def test_one_auxiliary_serves_by_itself(random_run: Run) -> None:
    """Law: of two divisions one is left, whose weight is 1; the answer names it, and strict refuses."""
    async with opened(random_run) as core:
        live = Live(core)
        record = await live.put("segment-b", await live.fusion())
        assert record.live is not None
        user = user_of(core, "segment-b")
        result = await core.score(DOMAIN, user_id=user)
        served = result.served
        assert (served.fallback, served.revision, served.alias) == ("auxiliary_only", None, None)
        assert served.fuses == {"segment-b": record.live.revision}
        live.assert_named(result, user)
        alone = AdapterFile(core.body("segment-b"))
        assert_scores(result, core.oracle.score(user, DOMAIN, core.items[:5], alone))
        with pytest.raises(Unavailable, match="auxiliary_only"):
            await core.score(DOMAIN, user_id=user, strict=True)
        assert core.ledger.fallbacks == {"auxiliary_only": 1}


async def test_two_auxiliaries_are_weighed_by_the_fusion_that_they_pin(three_way_run: Run) -> None:
    """Law: of three divisions two are left; each row is fused over those of its domains that have an adapter."""
    async with opened(three_way_run) as core:
        live = Live(core)
        await live.put_all(await live.fusion())
        items = core.items[:40]
        for segment in (*SEGMENTS, "segment-c", None):
            user = user_of(core, segment)
            result = await core.score(DOMAIN, items, user_id=user)
            wanted = {segment, *SHELVES} - {"segment-c", None}
            assert (result.served.fallback, set(result.served.fuses)) == ("auxiliary_only", wanted)
            live.assert_named(result, user, items)
            with pytest.raises(Unavailable, match="auxiliary_only"):
                await core.score(DOMAIN, items, user_id=user, strict=True)
        user = user_of(core, "segment-a")
        named = {one.manifest["domain"]: AdapterFile(core.body(one.manifest["domain"])) for one in live.files.values()}
        average = masked_score(core.oracle, user, DOMAIN, items, named)
        result = await core.score(DOMAIN, items, user_id=user)
        assert np.abs(result.scores - average).max() > 1e-3  # by the weights alone


@pytest.mark.parametrize("pinned", ["none", "one", "two"])
async def test_without_one_fusion_they_count_alike(three_way_run: Run, pinned: str) -> None:
    """Law: where not all pin the same fusion no weights are of all of them: their average scores."""
    async with opened(three_way_run) as core:
        live = Live(core)
        first = None if pinned == "none" else await live.fusion()
        second = await live.fusion(7) if pinned == "two" else None
        await live.put("segment-a", first)
        await live.put("shelf-x", second)
        user, items = user_of(core, "segment-a"), items_of(core, "shelf-x")
        result = await core.score(DOMAIN, items, user_id=user)
        assert set(result.served.fuses) == {"segment-a", "shelf-x"}
        live.assert_named(result, user, items)


async def test_every_answer_is_of_the_revisions_that_it_names(three_way_run: Run) -> None:
    """Law: while auxiliaries and their fusion change, no answer mixes two revisions, and the last one is the newest."""
    async with opened(three_way_run) as core:
        live = Live(core)
        first, second = await live.fusion(), await live.fusion(7)
        await live.put_all(first)
        user, items = user_of(core, "segment-a"), core.items[:30]
        answers: dict[frozenset[tuple[str, str]], list[ScoreResult]] = {}  # by what they say of auxiliaries

        async def ask() -> None:
            while len(answers) < 4:
                result = await core.score(DOMAIN, items, user_id=user)
                answers.setdefault(frozenset(result.served.fuses.items()), []).append(result)

        asking = [asyncio.create_task(ask()) for _ in range(3)]
        newest = {}
        for number, domain in enumerate(("segment-a", *SHELVES), start=1):
            await turns_until(partial(holds, answers, number))
            body = live.body(domain, second, shift=0.3)
            newest[domain] = digest(body)
            await core.publish(domain, body)
        await asyncio.gather(*asking)
        for found in answers.values():
            assert {result.served.fallback for result in found} == {"auxiliary_only"}
            live.assert_named(found[0], user, items)
            for result in found:
                np.testing.assert_allclose(result.scores, found[0].scores, rtol=0, atol=1e-6)
        assert dict((await core.score(DOMAIN, items, user_id=user)).served.fuses) == newest


def holds(found: Sized, number: int) -> bool:
    """Whether there are so many by now."""
    return len(found) >= number


async def test_no_answer_is_scored_by_some_of_what_should_score_it(three_way_run: Run) -> None:
    """Law: where one of a request's adapters cannot be had the backbone scores all of it; the others serve others."""
    async with opened(three_way_run) as core:
        live = Live(core)
        await live.put_all(await live.fusion())
        record = await core.store.domain("shelf-y")
        assert record is not None
        assert record.live is not None
        core.backend.lost.add(record.live.revision)
        user = user_of(core, "segment-a")
        both = [*items_of(core, "shelf-x"), *items_of(core, "shelf-y")]
        result = await core.score(DOMAIN, both, user_id=user)
        assert (result.served.fallback, result.served.fuses) == ("no_adapter", {})
        live.assert_named(result, user, both)
        result = await core.score(DOMAIN, items_of(core, "shelf-x"), user_id=user)
        assert set(result.served.fuses) == {"segment-a", "shelf-x"}
        live.assert_named(result, user, items_of(core, "shelf-x"))


async def test_combinations_stay_within_the_bound(three_way_run: Run) -> None:
    """Law: combinations are evicted like any adapter, the one asked for longest ago first, and loaded once more."""
    async with opened(three_way_run) as core:
        each = await size_of(core, Live(core), "segment-a", "shelf-x")
    async with opened(three_way_run, memory_bytes=int(2.5 * each)) as core:
        live = Live(core)
        await live.put_all(await live.fusion())
        for _ in range(2):
            for segment, shelf in zip((*SEGMENTS, "segment-a"), (*SHELVES, "shelf-y"), strict=True):
                user, items = user_of(core, segment), items_of(core, shelf)
                result = await core.score(DOMAIN, items, user_id=user)
                assert set(result.served.fuses) == {segment, shelf}
                live.assert_named(result, user, items)
                assert core.replica.slots.nbytes <= int(2.5 * each)
        assert len(core.replica.slots) == 2
        await core.publish("theme-2", core.body("theme-2", "single"))
        await core.score("theme-2", strict=True)
        assert core.replica.slots.nbytes <= int(2.5 * each)


async def size_of(core: Core, live: Live, segment: str, shelf: str) -> int:
    """Memory of one prepared combination."""
    fusion = await live.fusion()
    await live.put(segment, fusion)
    await live.put(shelf, fusion)
    await core.score(DOMAIN, items_of(core, shelf), user_id=user_of(core, segment))
    return core.replica.slots.nbytes


async def test_a_restart_without_the_store_serves_the_same(three_way_run: Run, tmp_path: Path) -> None:
    """Law: what scored alone is on this disk with its fusion, and counts as in use there."""
    backend, cache = await filled(three_way_run), tmp_path / "cache"
    async with opened(three_way_run, on=backend, cache=cache) as core:
        live = Live(core)
        await live.put_all(await live.fusion())
        user, items = user_of(core, "segment-a"), core.items[:30]
        before = await core.score(DOMAIN, items, user_id=user)
        live.assert_named(before, user, items)
        needed = {*before.served.fuses.values(), *live.fusions}
        assert {name for place in core.replica.slots for name in core.replica.slots.blobs(place)} == needed
    backend.away = True
    async with opened(three_way_run, on=backend, cache=cache) as core:
        after = await core.score(DOMAIN, items, user_id=user)
        assert (after.served.fallback, after.served.fuses) == ("auxiliary_only", before.served.fuses)
        assert after.scores.tolist() == before.scores.tolist()


async def test_an_auxiliary_that_stands_alone_keeps_its_fusion_on_the_disk(random_run: Run) -> None:
    """Law: what an adapter pins is read with it, so it counts as in use though it weighs nothing."""
    async with opened(random_run) as core:
        live = Live(core)
        record = await live.put("segment-b", fusion := await live.fusion())
        assert record.live is not None
        await core.score(DOMAIN, user_id=user_of(core, "segment-b"))
        (place,) = core.replica.slots
        assert set(core.replica.slots.blobs(place)) == {record.live.revision, fusion}


async def test_a_lost_fusion_refuses_no_revision(three_way_run: Run) -> None:
    """Law: an adapter whose fusion the store lost is the store's fault: the backbone scores until it is back."""
    async with opened(three_way_run, clock := ManualClock()) as core:
        live = Live(core)
        fusion = await live.fusion()
        await live.put_all(fusion)
        core.backend.lost.add(fusion)
        user = user_of(core, "segment-a")
        result = await core.score(DOMAIN, user_id=user)
        assert (result.served.fallback, result.served.fuses) == ("no_adapter", {})
        live.assert_named(result, user)
        assert core.ledger.rejections == []
        await live.fusion()
        await clock.advance(1.5)
        assert (await core.score(DOMAIN, user_id=user)).served.fallback == "auxiliary_only"


async def test_a_fusion_is_stored_before_what_pins_it(core_three: Core) -> None:
    """Law: an auxiliary adapter whose fusion was never stored is refused with the pin's revision."""
    live, absent = Live(core_three), "0" * 64
    with pytest.raises(MissingPin, match=f"fusion pins revision {absent}.*publish it first"):
        await core_three.publish("segment-a", live.body("segment-a", absent))


@pytest.mark.parametrize("mode", ["attention", "avg"])
async def test_a_natural_adapter_ignores_what_its_pins_pin(core_three: Core, mode: str) -> None:
    """Law: a fused adapter is weighed by its own fusion, whatever its auxiliary adapters pin."""
    live = Live(core_three)
    other = await live.fusion(7)
    repinned = live.body("segment-a", other)
    await core_three.store.put(repinned)

    def edit(tensors: dict[str, Any], manifest: dict[str, Any]) -> None:
        manifest["fuses"] = {**manifest["fuses"], "segment-a": digest(repinned)}

    auxiliaries: Mapping[str, AdapterFile] = core_three.auxiliaries | {"segment-a": AdapterFile(repinned)}
    fusion = core_three.fusion if mode == "attention" else None
    body = forge(core_three.body("theme-2", mode), edit, core_three.oracle, auxiliaries, fusion)
    await core_three.publish("theme-2", body)
    user, items = user_of(core_three, "segment-a"), core_three.items[:20]
    result = await core_three.score("theme-2", items, user_id=user, strict=True)
    expected = core_three.oracle.score(user, "theme-2", items, AdapterFile(body), auxiliaries, core_three.fusion)
    assert_scores(result, expected)


async def test_an_unknown_domain_is_the_backbones(core_three: Core) -> None:
    """Law: an id that nobody knows may be mistyped: the answer says unknown_domain, and no auxiliary hides it."""
    live = Live(core_three)
    await live.put_all(await live.fusion())
    user = user_of(core_three, "segment-a")
    result = await core_three.score("theme-of-nobody", user_id=user)
    assert (result.served.fallback, result.served.fuses) == ("unknown_domain", {})
    assert_scores(result, core_three.expected("theme-of-nobody", None, user))
