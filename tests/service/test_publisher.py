"""Laws of publishing: verified before stored, stored before live, live here before it returns."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from adapters_store.artifact import encode_adapter
from adapters_store.errors import (
    ArtifactError,
    GoldenMismatch,
    LimitExceeded,
    MalformedArtifact,
    MissingPin,
    RecordConflict,
    StoreUnavailable,
    WrongDomain,
)
from adapters_store.manifest import AdapterManifest
from adapters_store.records import Condition
from adapters_store.tensors import TensorLimits
from benchmarks.forge import Run, digest
from benchmarks.oracle_files import read_safetensors
from service.errors import BodyMismatch, DivisionMismatch, PublishBusy
from tests.service.clockwork import quiet
from tests.service.core import Core, assert_scores, opened

DOMAIN = "theme-1"


@pytest.fixture
async def core(random_run: Run) -> AsyncIterator[Core]:
    async with opened(random_run) as opened_core:
        yield opened_core


async def test_the_next_score_after_a_publish_is_by_the_new_revision(core: Core) -> None:
    """When publish returns `created` the replica already scores with it; the store has blob and record."""
    for intercept in (0.1, -0.4):
        body = core.dye(DOMAIN, intercept)
        published = await core.publish(DOMAIN, body)
        assert (published.status, published.revision) == ("created", digest(body))
        result = await core.score(DOMAIN, strict=True)
        assert (result.served.revision, result.served.generation) == (published.revision, published.generation)
        assert_scores(result, core.expected(DOMAIN, body))
    assert await core.store.get(digest(body)) == body
    assert core.ledger.activations[-1] == (DOMAIN, digest(body), 2)


async def test_publishing_what_is_live_changes_nothing_whatever_the_condition(core: Core) -> None:
    """Already live: `unchanged`, with the generation as it is, before If-Match or create-only is looked at."""
    first = await core.publish(DOMAIN)
    again = await core.publish(DOMAIN, if_generation=77, create_only=True)
    assert (again.status, again.generation) == ("unchanged", first.generation)


async def test_publishing_what_is_live_brings_a_lagging_replica_to_it(core: Core) -> None:
    """`unchanged` too means that this replica scores with it on return."""
    body = core.dye(DOMAIN, 0.9)
    await core.publish(DOMAIN)
    record = await core.put_live(DOMAIN, body)
    assert (await core.publish(DOMAIN, body)).status == "unchanged"
    assert (await core.score(DOMAIN)).served.generation == record.generation


async def test_publishing_a_live_revision_that_the_store_lost_heals_it(core: Core) -> None:
    """A blob that is gone is stored again by publishing the same bytes, and serves where it could not."""
    record = await core.put_live(DOMAIN)
    assert record.live is not None
    core.backend.lost.add(record.live.revision)
    assert (await core.score(DOMAIN)).served.fallback == "store_unavailable"
    assert (await core.publish(DOMAIN)).status == "unchanged"
    assert (await core.score(DOMAIN)).served.revision == record.live.revision


async def test_a_stored_revision_becomes_live_by_publishing_it_again(core: Core) -> None:
    """activate=False stores and changes no score; the same body published plainly then becomes live."""
    before = await core.publish(DOMAIN)
    body = core.dye(DOMAIN, 0.2)
    stored = await core.publish(DOMAIN, body, activate=False)
    assert (stored.status, stored.generation) == ("stored", before.generation)
    assert (await core.score(DOMAIN)).served.revision == before.revision
    assert (await core.publish(DOMAIN, body)).status == "created"
    assert (await core.score(DOMAIN)).served.revision == digest(body)


async def test_a_dry_run_leaves_no_trace(core: Core) -> None:
    """dry_run verifies only: nothing is stored, no record, no slot; and it refuses what a publish would."""
    assert (await core.publish(DOMAIN, dry_run=True)).status == "verified"
    assert not await core.store.has(digest(core.body(DOMAIN)))
    assert await core.store.domain(DOMAIN) is None
    with pytest.raises(GoldenMismatch):
        await core.publish(DOMAIN, core.broken(DOMAIN), dry_run=True)


async def test_a_refused_artifact_is_not_stored_and_changes_no_score(core: Core) -> None:
    """Verification comes first: after a refusal the live revision serves and the store never saw the bytes."""
    live = await core.publish(DOMAIN)
    for body in (core.broken(DOMAIN), core.body(DOMAIN)[:-9], b"\x80\x04pickle"):
        with pytest.raises(ArtifactError):
            await core.publish(DOMAIN, body)
        assert not await core.store.has(digest(body))
    assert (await core.score(DOMAIN, strict=True)).served.revision == live.revision


async def test_the_body_must_be_what_it_is_called(core: Core) -> None:
    """A digest that is not the body's is refused before anything is decoded."""
    with pytest.raises(BodyMismatch, match="sha256"):
        await core.publish(DOMAIN, claimed_digest="0" * 64)


async def test_another_domains_adapter_is_refused(core: Core) -> None:
    """The manifest's domain is the one in the path."""
    with pytest.raises(WrongDomain, match="theme-2"):
        await core.publish(DOMAIN, core.body("theme-2"))


async def test_a_domain_does_not_change_its_division(core: Core) -> None:
    """A domain of one division takes no adapter of another, and a dry run says so too."""
    await core.store.set_live("theme-9", "segment", await core.store.put(b"any"), "someone")
    with pytest.raises(DivisionMismatch, match=r"'theme'.*'segment'"):
        await core.publish("theme-9", core.renamed(DOMAIN, "theme-9"), dry_run=True)


async def test_a_missing_pin_is_named(core: Core) -> None:
    """An adapter whose auxiliary or fusion was never stored is refused with domain and revision of the pin."""
    pin = digest(core.body("segment-b"))
    core.backend.lost.add(pin)
    with pytest.raises(MissingPin, match=f"{pin}.*segment-b"):
        await core.publish(DOMAIN)


async def test_more_pins_than_can_be_folded_are_refused_unread(core: Core) -> None:
    """The number of pins is held to the limit on combinations before the store is asked for the first of them."""
    tensors, manifest = read_safetensors(core.body(DOMAIN))
    fuses = {f"segment-{i}": f"{i:064x}" for i in range(TensorLimits().combinations)}
    manifest = {**manifest, "fuses": {**manifest["fuses"], **fuses}}
    body = encode_adapter(AdapterManifest.model_validate(manifest), tensors)
    core.backend.reads.clear()
    with pytest.raises(LimitExceeded, match="combinations"):
        await core.publish(DOMAIN, body)
    assert set(core.backend.reads) == {f"domain/{DOMAIN}", "release"}


async def test_a_pin_that_is_no_adapter_is_named(core: Core) -> None:
    """A pin that names other bytes is refused as such, not as a fault of the adapter's own form."""
    fusion = digest((core.run.folder / "fusion.safetensors").read_bytes())
    body = core.repinned(DOMAIN, "segment-b", fusion)
    with pytest.raises(ArtifactError, match=f"fuses pins revision {fusion} of domain 'segment-b'"):
        await core.publish(DOMAIN, body)


async def test_conditions_decide_who_wins(core: Core) -> None:
    """if_generation and create_only lose with RecordConflict; what served keeps serving."""
    first = await core.publish(DOMAIN, create_only=True)
    for condition in ({"create_only": True}, {"if_generation": 99}):
        with pytest.raises(RecordConflict):
            await core.publish(DOMAIN, core.dye(DOMAIN, 0.3), **condition)
    assert (await core.score(DOMAIN)).served.revision == first.revision
    assert first.generation is not None
    won = await core.publish(DOMAIN, core.dye(DOMAIN, 0.3), if_generation=first.generation)
    assert won.generation == first.generation + 1


@pytest.mark.parametrize("option", [{"activate": False}, {"dry_run": True}])
async def test_what_moves_no_record_is_held_to_its_condition_too(core: Core, option: dict[str, bool]) -> None:
    """Law: storing and trying lose as the change would lose, before anything is stored, and win as it would win."""
    body = core.dye(DOMAIN, 0.3)
    with pytest.raises(RecordConflict, match="has generation 0, not 1"):
        await core.publish(DOMAIN, body, if_generation=1, **option)
    assert (await core.publish(DOMAIN, dry_run=True, if_generation=0, create_only=True)).status == "verified"
    first = await core.publish(DOMAIN)
    assert first.generation is not None
    lost: list[dict[str, Any]] = [
        {"create_only": True},
        {"if_generation": first.generation + 1},
        {"if_generation": Condition(first.generation, first.pointer + 1)},
    ]
    for condition in lost:
        with pytest.raises(RecordConflict):
            await core.publish(DOMAIN, body, **option, **condition)
    assert not await core.store.has(digest(body))
    won = await core.publish(DOMAIN, body, if_generation=Condition(first.generation, first.pointer), **option)
    assert (won.status, won.generation) == ("verified" if "dry_run" in option else "stored", first.generation)
    again = await core.publish(DOMAIN, if_generation=99, create_only=True, **option)
    assert (again.status, again.generation) == ("verified" if "dry_run" in option else "unchanged", first.generation)


async def test_publishes_in_flight_are_bounded(core: Core) -> None:
    """A third publish at once is told to come back; the two in flight are unharmed and free their places."""
    core.backend.open.clear()
    two = [asyncio.create_task(core.publish(domain)) for domain in ("theme-1", "theme-2")]
    await quiet()
    await asyncio.to_thread(lambda: None)
    with pytest.raises(PublishBusy) as busy:
        await core.publish("theme-3")
    assert busy.value.retry_after_s > 0
    core.backend.open.set()
    assert [(await task).status for task in two] == ["created", "created"]
    assert (await core.publish("theme-3")).status == "created"


async def test_a_store_that_is_away_takes_no_publish(core: Core) -> None:
    """The failure is told, and what serves keeps serving."""
    live = await core.publish(DOMAIN)
    core.backend.away = True
    with pytest.raises(StoreUnavailable):
        await core.publish(DOMAIN, core.dye(DOMAIN, 0.2))
    assert (await core.score(DOMAIN)).served.revision == live.revision


async def test_a_fusion_is_verified_stored_once_and_not_live_anywhere(core: Core) -> None:
    """Publishing a fusion again is `unchanged`; an adapter is no fusion."""
    body = (core.run.folder / "fusion.safetensors").read_bytes()
    core.backend.lost.add(digest(body))
    publisher = core.replica.publisher
    statuses = [(await publisher.publish_fusion(body, claimed_digest=digest(body), by="test")).status for _ in range(2)]
    assert statuses == ["created", "unchanged"]
    adapter = core.body(DOMAIN)
    with pytest.raises(MalformedArtifact):
        await publisher.publish_fusion(adapter, claimed_digest=digest(adapter), by="test")


async def test_a_blob_that_was_being_deleted_is_put_once_more(core: Core) -> None:
    """Law: a publish that garbage collection crossed stores its bytes again and succeeds; its pins are named."""
    body = core.dye(DOMAIN, 0.2)
    condemned = iter([True, False])

    def cross() -> None:
        if next(condemned, False):
            core.backend.lost.add(digest(body))

    core.backend.stored = cross
    published = await core.publish(DOMAIN, body)
    assert (published.status, (await core.score(DOMAIN, strict=True)).served.revision) == ("created", digest(body))
