"""Deltas and id overlays through a replica: published, swapped, counted, and honest about who is unknown."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import pytest

from benchmarks.forge import Run, digest
from benchmarks.oracle_files import AdapterFile
from service.errors import UnknownEntities
from tests.deltas import ITEMS, USERS, make_delta, make_overlaid_lora, random_deltas, random_overlay
from tests.factory import THEMES
from tests.service.clockwork import quiet
from tests.service.core import Core, assert_scores, opened
from tests.service.live import espalier

DOMAIN = THEMES[1]
NEW_USER, NEW_ITEM = "nobody", "brand new"  # of the overlay alone
ASKED = ["item-5", NEW_ITEM, "stranger", "item-2"]


@pytest.fixture
async def core(dense_run: Run) -> AsyncIterator[Core]:
    async with opened(dense_run) as opened_core:
        yield opened_core


@pytest.fixture(scope="module")
def delta(dense_run: Run) -> bytes:
    rng = np.random.default_rng(0)
    tensors = random_deltas(dense_run.oracle, rng, np.float16, tables=("item_id", "tags"))
    return make_delta(dense_run, rng, DOMAIN, tensors)


@pytest.fixture(scope="module")
def overlaid(dense_run: Run) -> bytes:
    rng = np.random.default_rng(1)
    deltas = random_deltas(dense_run.oracle, rng)
    return make_delta(dense_run, rng, DOMAIN, deltas | random_overlay(dense_run.oracle, rng))


@pytest.fixture(scope="module")
def lora(dense_run: Run) -> bytes:
    rng = np.random.default_rng(2)
    return make_overlaid_lora(dense_run, rng, DOMAIN, random_overlay(dense_run.oracle, rng))


async def test_every_kind_is_swapped_like_any_adapter(core: Core, delta: bytes, overlaid: bytes, lora: bytes) -> None:
    """Law: after each publish the next score is the oracle's of the new revision, whatever kind followed which."""
    fused = core.body(DOMAIN)
    for body in (fused, delta, overlaid, fused, lora, overlaid, delta):
        published = await core.publish(DOMAIN, body)
        result = await core.score(DOMAIN, ASKED, user_id=NEW_USER)
        assert (result.served.revision, result.served.fallback) == (published.revision, None)
        assert_scores(result, core.expected(DOMAIN, body, NEW_USER, ASKED))


async def test_many_domains_of_all_kinds_at_once_equal_the_oracle(
    core: Core, dense_run: Run, delta: bytes, lora: bytes
) -> None:
    """Law: requests of domains with and without overlays and deltas, batched together, each get their own scores."""
    rng = np.random.default_rng(3)
    fresh = make_delta(dense_run, rng, "theme-new", random_overlay(dense_run.oracle, rng))
    bodies = {THEMES[0]: core.body(THEMES[0]), DOMAIN: delta, THEMES[3]: core.body(THEMES[3]), "theme-new": fresh}
    for domain, body in bodies.items():
        await core.publish(domain, body)
    users = [*map(str, USERS), *core.users]
    items = [*map(str, ITEMS), "stranger", *core.items]
    draws = [
        (str(rng.choice(list(bodies))), str(rng.choice(users)), [str(i) for i in rng.choice(items, 10)])
        for _ in range(60)
    ]
    results = await asyncio.gather(*(core.score(domain, some, user_id=user) for domain, user, some in draws))
    for (domain, user, some), result in zip(draws, results, strict=True):
        assert result.served.fallback is None
        assert_scores(result, core.expected(domain, bodies[domain], user, some))
    assert max(len(batch) for batch in core.engine.batches) > 1


async def test_an_id_of_the_overlay_is_not_unknown(core: Core, overlaid: bytes) -> None:
    """Law: unknown is who is scored on row 0: the backbone reports what it lacks, an overlay's domain the rest."""
    before = await core.score(DOMAIN, ASKED, user_id=NEW_USER)
    assert before.served.fallback == "no_adapter"
    assert (before.unknown_user, list(before.unknown_items)) == (True, [1, 2])
    await core.publish(DOMAIN, overlaid)
    after = await core.score(DOMAIN, ASKED, user_id=NEW_USER)
    assert (after.unknown_user, list(after.unknown_items)) == (False, [2])
    known = [ASKED[0], ASKED[1], ASKED[3]]
    assert list((await core.score(DOMAIN, known, user_id=NEW_USER, strict=True)).unknown_items) == []
    with pytest.raises(UnknownEntities, match="positions 2"):
        await core.score(DOMAIN, ASKED, user_id=NEW_USER, strict=True)
    other = await core.score(THEMES[0], ASKED, user_id=NEW_USER)
    assert (other.unknown_user, list(other.unknown_items)) == (True, [1, 2])


async def test_a_replica_counts_what_an_overlay_keeps(core: Core, dense_run: Run) -> None:
    """Law: the bound on memory sees an overlay's rows and index; a swap gives them back."""
    rng = np.random.default_rng(4)
    large = {"user": list(range(1000, 9000))}
    body = make_overlaid_lora(dense_run, rng, DOMAIN, random_overlay(dense_run.oracle, rng, sides=large))
    await core.publish(DOMAIN)
    small = core.replica.slots.nbytes
    await core.publish(DOMAIN, body)
    assert core.replica.slots.nbytes > 8000 * (4 * 2 + 8)  # rows of float16, ids of eight bytes
    await core.publish(DOMAIN)
    assert core.replica.slots.nbytes == small


async def test_a_shadow_with_an_overlay_is_scored_by_it(core: Core, overlaid: bytes) -> None:
    """Law: a shadow's rows are looked up in its own overlay, and the response still says what live lacks."""
    await core.publish(DOMAIN)
    await core.publish(DOMAIN, overlaid, activate=False)
    await core.replica.publisher.set_alias(DOMAIN, "shadow", digest(overlaid), 100.0, by="test")
    result = await core.score(DOMAIN, ASKED, user_id=NEW_USER)
    assert (result.unknown_user, list(result.unknown_items)) == (True, [1, 2])
    await quiet()
    ((differences, _),) = core.ledger.compared
    expected = core.expected(DOMAIN, overlaid, NEW_USER, ASKED) - core.expected(
        DOMAIN, core.body(DOMAIN), NEW_USER, ASKED
    )
    np.testing.assert_allclose(differences, expected, rtol=0, atol=4e-6)


async def test_a_delta_is_published_over_http(dense_run: Run, delta: bytes, overlaid: bytes) -> None:
    """Law: POST /adapters takes deltas and overlays as it takes any adapter, and the reply's scores are theirs."""
    patient: dict[str, object] = {"cold_wait_ms": 60_000, "deadline_ms": 60_000, "publish_wait_ms": 60_000}
    request = {"user_id": NEW_USER, "domain_id": DOMAIN, "item_ids": ASKED}
    async with espalier(dense_run, **patient) as live:
        for body in (delta, overlaid):
            answer = await live.publish(DOMAIN, body)
            assert (answer.status_code, answer.json()["revision"]) == (201, digest(body))
            reply = (await live.client.post("/score", json=request)).json()
            assert reply["served"]["revision"] == digest(body)
            expected = dense_run.oracle.score(NEW_USER, DOMAIN, ASKED, AdapterFile(body))
            np.testing.assert_allclose(reply["scores"], expected, rtol=0, atol=2e-6)
        kinds = (await live.client.get(f"/adapters/{DOMAIN}/revisions/{digest(delta)}")).json()
        assert kinds["manifest"]["kind"] == "delta"


async def test_a_delta_for_a_bundle_without_its_graph_is_refused_over_http(random_run: Run) -> None:
    """Law: 422, the reason names the missing graph, and what served keeps serving."""
    rng = np.random.default_rng(5)
    deltas = random_deltas(random_run.oracle, rng)
    body = make_delta(random_run, rng, DOMAIN, deltas)
    async with espalier(random_run, cold_wait_ms=60_000, publish_wait_ms=60_000) as live:
        answer = await live.publish(DOMAIN, body)
        assert answer.status_code == 422
        assert "scoring_dense.onnx" in answer.json()["detail"]
        reply = (await live.client.post("/score", json={"user_id": 1, "domain_id": DOMAIN, "item_ids": ASKED})).json()
        assert reply["served"]["revision"] == digest(
            (random_run.folder / "adapters" / f"{DOMAIN}.safetensors").read_bytes()
        )
