"""Laws of the canary: a fixed share of the users, the same on every replica; until it is prepared live serves."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator

import pytest

from adapters_store.backend import Versioned
from adapters_store.errors import DomainUnknown, GoldenMismatch, RecordConflict
from adapters_store.records import Condition, ReleasePointer
from adapters_store.releases import Release, flipped
from adapters_store.transitions import condemned
from benchmarks.forge import Run, digest
from service.canary import in_canary
from service.domains import Trial
from service.errors import DivisionMismatch, NeverTried
from tests.service.core import Core, assert_scores, opened

DOMAIN = "theme-1"
SALT = "0123456789abcdef"


@pytest.fixture
async def core(random_run: Run) -> AsyncIterator[Core]:
    async with opened(random_run) as opened_core:
        yield opened_core


async def with_canary(core: Core, percent: float = 100.0) -> tuple[bytes, bytes]:
    """A live revision and a canary, both published through the replica; their bodies."""
    live, canary = core.dye(DOMAIN, 0.1), core.dye(DOMAIN, 0.9)
    await core.publish(DOMAIN, live)
    await core.publish(DOMAIN, canary, activate=False)
    await core.replica.publisher.set_alias(DOMAIN, "canary", digest(canary), percent, by="test")
    return live, canary


def test_five_percent_of_100_000_users_and_the_same_at_ten() -> None:
    """Law: a canary of 5% has 5 +- 0.3% of 100,000 users, and at 10% has all of them still."""
    users = range(100_000)
    five = {user for user in users if in_canary(SALT, user, 5.0)}
    ten = {user for user in users if in_canary(SALT, user, 10.0)}
    assert abs(len(five) / 1000 - 5.0) <= 0.3
    assert abs(len(ten) / 1000 - 10.0) <= 0.3
    assert five < ten
    assert all(in_canary(SALT, user, 100.0) for user in range(1000))


def test_the_bucket_is_as_documented() -> None:
    """Law: the bucket is the first 8 bytes of sha256(salt NUL user) over 2**64; 7 and "7" are one user."""
    for user in ("7", "user-x", "é"):
        raw = hashlib.sha256(f"{SALT}\0{user}".encode()).digest()
        bucket = int.from_bytes(raw[:8], "big") / 2**64 * 100
        assert in_canary(SALT, user, bucket + 1e-6)
        assert not in_canary(SALT, user, bucket - 1e-6)
    assert all(in_canary(SALT, user, 30.0) == in_canary(SALT, str(user), 30.0) for user in range(100))


async def test_its_users_are_scored_by_it_and_all_others_by_live(core: Core) -> None:
    """Law: a response is by the canary, and says so, exactly for its users; the fallback is null for both."""
    live, canary = await with_canary(core, 50.0)
    record = await core.store.domain(DOMAIN)
    assert record is not None
    assert record.canary is not None
    seen = set()
    for user in core.users:
        result = await core.score(DOMAIN, user_id=user, strict=True)
        inside = in_canary(record.canary.salt, user, 50.0)
        body = canary if inside else live
        assert result.served.alias == ("canary" if inside else "live")
        assert (result.served.revision, result.served.fallback) == (digest(body), None)
        assert result.served.generation == record.generation
        assert_scores(result, core.expected(DOMAIN, body, user))
        seen.add(inside)
    assert seen == {True, False}
    inside = sum(in_canary(record.canary.salt, user, 50.0) for user in core.users)
    assert core.ledger.canary_rows == 5 * inside


async def test_two_replicas_and_a_restarted_one_agree(random_run: Run, core: Core) -> None:
    """Law: the salt is in the record, so every replica has the same users, and at a higher percent keeps them."""
    await with_canary(core, 30.0)

    async def chosen(one: Core) -> set[str]:
        return {user for user in core.users if (await one.score(DOMAIN, user_id=user)).served.alias == "canary"}

    before = await chosen(core)
    async with opened(random_run, on=core.backend) as other:
        await other.replica.loader.refresh(DOMAIN)
        assert await chosen(other) == before
        await core.store.set_canary(DOMAIN, digest(core.dye(DOMAIN, 0.9)), 60.0, "test")
        await other.replica.watcher.reconcile()
        assert await chosen(other) > before


async def test_a_canary_that_is_not_prepared_is_served_by_live(core: Core) -> None:
    """Law: while the canary's blob cannot be had live scores its users, says live, and is no fallback; it heals."""
    live = core.dye(DOMAIN, 0.1)
    await core.publish(DOMAIN, live)
    canary = core.dye(DOMAIN, 0.9)
    await core.store.set_canary(DOMAIN, await core.store.put(canary), 100.0, "test")
    core.backend.lost.add(digest(canary))
    with pytest.raises(Exception, match="no blob"):
        await core.replica.watcher.reconcile()
    result = await core.score(DOMAIN, strict=True)
    assert (result.served.revision, result.served.alias) == (digest(live), "live")
    core.backend.lost.clear()
    await core.replica.watcher.reconcile()
    assert (await core.score(DOMAIN)).served.alias == "canary"


async def test_a_refused_canary_is_reported_and_changes_no_score(core: Core) -> None:
    """Law: a canary that this replica refuses is named in the domain's state; live serves as if it were not there."""
    live = core.dye(DOMAIN, 0.1)
    await core.publish(DOMAIN, live)
    bad = core.broken(DOMAIN)
    await core.store.set_canary(DOMAIN, await core.store.put(bad), 100.0, "test")
    await core.replica.watcher.reconcile()
    result = await core.score(DOMAIN, strict=True)
    assert (result.served.revision, result.served.alias) == (digest(live), "live")
    state = await core.replica.publisher.state(DOMAIN)
    assert "golden row" in state.rejected[digest(bad)]
    assert state.prepared == ()
    assert await core.replica.watcher.reconcile() == 0


async def test_a_canary_is_verified_before_the_record_moves(core: Core) -> None:
    """Law: set_alias refuses what this replica cannot reproduce, an unknown domain and the live revision itself."""
    live = await core.publish(DOMAIN, core.dye(DOMAIN, 0.1))
    publisher = core.replica.publisher
    bad = await core.store.put(core.broken(DOMAIN))
    with pytest.raises(GoldenMismatch):
        await publisher.set_alias(DOMAIN, "canary", bad, 5.0, by="test")
    with pytest.raises(RecordConflict):
        await publisher.set_alias(DOMAIN, "canary", live.revision, 5.0, by="test")
    other = await core.store.put(core.body("theme-2"))
    with pytest.raises(DomainUnknown):
        await publisher.set_alias("theme-2", "canary", other, 5.0, by="test")
    with pytest.raises(ValueError, match="percent"):
        await publisher.set_alias(DOMAIN, "live", live.revision, 5.0, by="test")
    record = await core.store.domain(DOMAIN)
    assert record is not None
    assert record.generation == live.generation


async def test_promoting_a_canary_loads_nothing(core: Core) -> None:
    """Law: the canary's slot becomes live by one flip; its users and all others are then served by it, as live."""
    _, canary = await with_canary(core, 50.0)
    reads = core.backend.reads[digest(canary)]
    slot = core.replica.slots.get(DOMAIN, "canary")
    await core.store.set_live(DOMAIN, "theme", digest(canary), "someone")
    await core.replica.watcher.reconcile()
    assert core.replica.slots.get(DOMAIN) is slot
    assert core.replica.slots.get(DOMAIN, "canary") is None
    assert core.backend.reads[digest(canary)] == reads
    assert {(await core.score(DOMAIN, user_id=user)).served.alias for user in core.users[:10]} == {"live"}


async def test_clearing_the_canary_ends_it_at_once(core: Core) -> None:
    """Law: after clear_alias every user is served by live again, and the canary's memory is given back."""
    live, _ = await with_canary(core)
    assert (await core.score(DOMAIN)).served.alias == "canary"
    await core.replica.publisher.clear_alias(DOMAIN, "canary", by="test")
    result = await core.score(DOMAIN)
    assert (result.served.alias, result.served.revision) == ("live", digest(live))
    assert core.ledger.residents[-1] == 1


async def test_a_canary_that_gives_a_non_finite_logit_is_set_aside(core: Core) -> None:
    """Law: the request is re-scored by the backbone, its canary is refused here, and live serves from then on."""
    live = core.dye(DOMAIN, 0.1)
    await core.publish(DOMAIN, live)
    overflowing = core.dye(DOMAIN, 1e308, slope=1e308)
    await core.publish(DOMAIN, overflowing, activate=False)
    await core.replica.publisher.set_alias(DOMAIN, "canary", digest(overflowing), 100.0, by="test")
    assert (await core.score(DOMAIN)).served.fallback == "adapter_rejected"
    result = await core.score(DOMAIN)
    assert (result.served.revision, result.served.alias, result.served.fallback) == (digest(live), "live", None)
    assert digest(overflowing) in (await core.replica.publisher.state(DOMAIN)).rejected


async def test_a_slot_that_was_freed_while_the_record_moved_never_scores(core: Core) -> None:
    """Law: a canary that was in memory when it was asked for is prepared anew if it had to go before it was set."""
    old, new = core.dye(DOMAIN, 0.1), core.dye(DOMAIN, 0.9)
    await core.publish(DOMAIN, old)
    release = await core.store.put_release(Release(divisions={"theme": {DOMAIN: await core.store.put(new)}}))
    await core.store.flip(release, "test", min_staged=0)
    await core.replica.releases.follow()
    await core.replica.loader.refresh(DOMAIN)
    assert core.replica.slots.get(DOMAIN, "kept") is not None
    core.backend.meanwhile = lambda: core.replica.slots.drop(DOMAIN, "kept")
    await core.replica.publisher.set_alias(DOMAIN, "canary", digest(old), 100.0, by="test")
    result = await core.score(DOMAIN, strict=True)
    assert (result.served.alias, result.served.revision) == ("canary", digest(old))
    assert_scores(result, core.expected(DOMAIN, old))


async def test_what_a_flip_brought_meanwhile_is_not_in_its_etag(core: Core) -> None:
    """Law: the pointer named with a canary is one from before the change, so that a condition on it tells of a flip."""
    await core.publish(DOMAIN, core.dye(DOMAIN, 0.1))
    canary, new = [await core.store.put(core.dye(DOMAIN, dye)) for dye in (0.5, 0.9)]
    release = await core.store.put_release(Release(divisions={"theme": {DOMAIN: new}}))
    pointer = Versioned(flipped(ReleasePointer(), release, "someone", 0.0).model_dump(mode="json"), "flipped")
    core.backend.meanwhile = lambda: core.backend.restore("release", pointer)
    published = await core.replica.publisher.set_alias(DOMAIN, "canary", canary, 5.0, by="test")
    assert published.generation is not None
    seen = Condition(published.generation, published.pointer)
    with pytest.raises(RecordConflict, match="pointer"):
        await core.replica.publisher.clear_alias(DOMAIN, "canary", by="test", if_generation=seen)


@pytest.mark.parametrize("alias", ["canary", "shadow"])
@pytest.mark.parametrize("resident", [False, True])
async def test_what_it_pins_is_needed_and_spared(core: Core, alias: Trial, resident: bool) -> None:
    """Law: setting a canary or shadow takes garbage collection's mark off its fusion, as making it live does."""
    body, newer = core.dye(DOMAIN, 0.1), core.dye(DOMAIN, 0.2)
    await core.publish(DOMAIN, body)
    await core.publish(DOMAIN, newer)
    if resident:
        await core.replica.publisher.set_alias(
            DOMAIN, "shadow" if alias == "canary" else "canary", digest(body), 5.0, by="test"
        )
    fusion = digest((core.run.folder / "fusion.safetensors").read_bytes())
    await core.store.change_marks("garbage", lambda record: condemned(record, [fusion], 0.0))
    await core.replica.publisher.set_alias(DOMAIN, alias, digest(body), 5.0, by="test")
    held = await core.backend.read_record("garbage")
    assert held is not None
    assert held.record["condemned"] == {}


@pytest.mark.parametrize("alias", ["canary", "shadow"])
async def test_a_trial_of_an_auxiliary_domain_is_refused(core: Core, alias: Trial) -> None:
    """Law: nobody is scored by an auxiliary domain's canary or shadow, so none is set: whether the bundle lists the
    domain or only the store knows it."""
    for domain, body in (("segment-a", core.body("segment-a")), ("novel", core.renamed("segment-a", "novel"))):
        await core.publish(domain, body)
        before = await core.store.domain(domain)
        with pytest.raises(NeverTried, match=f"{domain!r} belongs to the auxiliary division 'segment'.*{alias}"):
            await core.replica.publisher.set_alias(domain, alias, digest(body), 5.0, by="test")
        assert await core.store.domain(domain) == before


async def test_a_canary_of_another_division_is_refused(core: Core) -> None:
    """Law: a domain's canary is of its division, as its live revision is."""
    await core.publish(DOMAIN, core.dye(DOMAIN, 0.1))
    held = await core.backend.read_record(f"domain/{DOMAIN}")
    assert held is not None
    core.backend.restore(f"domain/{DOMAIN}", Versioned({**held.record, "division": "other"}, "moved"))
    revision = await core.store.put(core.dye(DOMAIN, 0.9))
    with pytest.raises(DivisionMismatch):
        await core.replica.publisher.set_alias(DOMAIN, "canary", revision, 5.0, by="test")
