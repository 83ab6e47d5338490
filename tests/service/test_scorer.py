"""Laws of scoring one request: the oracle's probabilities, honest names, nothing late and nothing non-finite."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import numpy as np
import pytest

from adapters_store.folding import fold_backbone
from benchmarks.forge import Run, digest
from benchmarks.oracle_files import AdapterFile
from service.engines.onnx import OnnxEngine
from service.errors import (
    DeadlineExceeded,
    EngineFailed,
    InvalidContext,
    TooManyItems,
    Unavailable,
    UnknownEntities,
)
from service.replica import Replica
from service.replica_config import ReplicaConfig
from service.scorer import Fallback
from service.serving import Serving
from service.tables import CurrentTables, FeatureTables
from service.threads import WorkerThread
from tests.factory import THEMES
from tests.service.clockwork import ManualClock, quiet, turns_until
from tests.service.core import Core, assert_scores, opened

DOMAIN = "theme-1"


@pytest.fixture
async def core(random_run: Run) -> AsyncIterator[Core]:
    async with opened(random_run) as opened_core:
        yield opened_core


async def test_concurrent_requests_of_all_domains_equal_the_oracle(three_way_run: Run) -> None:
    """Requests for every domain, batched together and split by the items' division, each equal the oracle alone."""
    async with opened(three_way_run) as core:
        for domain in THEMES:
            await core.publish(domain)
        rng = np.random.default_rng(0)
        draws = [
            (str(rng.choice(THEMES)), str(rng.choice(core.users)), [str(i) for i in rng.choice(core.items, 12)])
            for _ in range(60)
        ]
        results = await asyncio.gather(*(core.score(domain, items, user_id=user) for domain, user, items in draws))
        for (domain, user, items), result in zip(draws, results, strict=True):
            assert result.served.fallback is None
            assert_scores(result, core.expected(domain, core.body(domain), user, items))


async def test_a_response_names_exactly_what_scored(core: Core) -> None:
    """Backbone, revision, alias, generation, pins and feature tables are those of the artifacts that were used."""
    published = await core.publish(DOMAIN)
    result = await core.score(DOMAIN, request_id="abc")
    served = result.served
    files = {entry["name"]: entry["sha256"] for entry in core.oracle.manifest["files"]}
    assert (served.revision, served.alias, served.generation) == (published.revision, "live", published.generation)
    assert served.fuses == {domain: digest(core.body(domain)) for domain in core.auxiliaries}
    assert served.features == {"users": files["users.safetensors"], "items": files["items.safetensors"]}
    assert (result.domain_id, result.request_id, result.unknown_user, list(result.unknown_items)) == (
        DOMAIN,
        "abc",
        False,
        [],
    )


async def test_unknown_users_and_items_score_on_row_0_and_are_reported(core: Core) -> None:
    """What the tables do not hold is scored as out of vocabulary, as the oracle does, and named by position."""
    body = core.body(DOMAIN)
    await core.publish(DOMAIN)
    items = [core.items[0], "stranger", core.items[1], "007"]
    result = await core.score(DOMAIN, items, user_id="nobody")
    assert result.unknown_user
    assert list(result.unknown_items) == [1, 3]
    assert_scores(result, core.expected(DOMAIN, body, "nobody", items))
    with pytest.raises(UnknownEntities, match=r"user_id is unknown; items at positions 1, 3"):
        await core.score(DOMAIN, items, user_id="nobody", strict=True)


async def test_an_integer_id_equals_its_decimal_string(core: Core) -> None:
    """7 and "7" are one user."""
    await core.publish(DOMAIN)
    by_text, by_number = await core.score(DOMAIN, user_id="7"), await core.score(DOMAIN, user_id=7)
    assert by_text.scores.tolist() == by_number.scores.tolist()
    assert not by_number.unknown_user


async def test_context_reaches_the_fields_it_names(core: Core) -> None:
    """Context values change scores as the oracle says; a value of the wrong type is refused by its field's name."""
    body = core.body(DOMAIN)
    await core.publish(DOMAIN)
    context = {"hour": 13, "age_days": 55.5}
    result = await core.score(DOMAIN, context=context)
    adapter = AdapterFile(body)
    user, items = core.users[0], core.items[:5]
    assert_scores(result, core.oracle.score(user, DOMAIN, items, adapter, core.auxiliaries, core.fusion, context))
    with pytest.raises(InvalidContext, match="age_days"):
        await core.score(DOMAIN, context={"age_days": "old"})


async def test_too_many_items_are_refused(random_run: Run) -> None:
    """More items than max_items never reach the queue."""
    async with opened(random_run, max_items=3) as core:
        with pytest.raises(TooManyItems, match="at most 3"):
            await core.score(DOMAIN, core.items[:4])


async def test_no_items_are_no_scores(core: Core) -> None:
    """An empty list of items has an empty list of scores."""
    await core.publish(DOMAIN)
    result = await core.replica.scorer.score(core.request(DOMAIN, []))
    assert result.scores.shape == (0,)
    assert result.served.fallback is None


async def test_nothing_is_returned_after_the_deadline(random_run: Run) -> None:
    """A request whose deadline has passed gets DeadlineExceeded and no scores."""
    async with opened(random_run, clock := ManualClock()) as core:
        await core.publish(DOMAIN)
        with pytest.raises(DeadlineExceeded):
            await core.score(DOMAIN, deadline=clock.now())


async def test_a_cancelled_request_lets_its_lease_go(core: Core) -> None:
    """A client that leaves holds no slot."""
    await core.publish(DOMAIN)
    slot = core.replica.slots.get(DOMAIN)
    assert slot is not None
    request = asyncio.create_task(core.score(DOMAIN))
    await turns_until(lambda: slot.leases > 0)
    request.cancel()
    await quiet()
    assert slot.leases == 0


async def test_a_non_finite_logit_is_never_returned(core: Core) -> None:
    """The backbone re-scores the request, the slot is set aside and reported, and an earlier revision takes over."""
    sound = await core.publish(DOMAIN)
    overflowing = await core.publish(DOMAIN, core.dye(DOMAIN, 1e308, slope=1e308))
    result = await core.score(DOMAIN)
    assert (result.served.revision, result.served.fallback) == (None, "adapter_rejected")
    assert_scores(result, core.expected(DOMAIN, None))
    assert [(domain, revision) for domain, revision, _ in core.ledger.rejections] == [(DOMAIN, overflowing.revision)]
    await core.replica.loader.refresh(DOMAIN)
    result = await core.score(DOMAIN)
    assert (result.served.revision, result.served.alias) == (sound.revision, "previous")
    assert result.served.fallback == "adapter_rejected"
    state = await core.replica.publisher.state(DOMAIN)
    assert state.rejection is not None
    assert "not finite" in state.rejection.reason


async def test_strict_refuses_a_non_finite_logit(core: Core) -> None:
    """Strict gets no backbone scores in an adapter's place."""
    await core.publish(DOMAIN, core.dye(DOMAIN, 1e308, slope=1e308))
    with pytest.raises(Unavailable):
        await core.score(DOMAIN, strict=True)


async def test_rows_that_the_backbone_cannot_score_are_an_error(core: Core) -> None:
    """Where even the backbone overflows there are no scores to return, and no adapter is blamed."""
    await core.publish(DOMAIN, core.dye(DOMAIN, 1e308, slope=1e308))
    backbone = await core.store.bundle(core.replica.backbone_revision)
    folded = fold_backbone(backbone)
    modules = {name: replace(one, norm_shift=one.norm_shift + np.inf) for name, one in folded.modules.items()}
    engine = OnnxEngine(backbone)
    prepared = engine.prepare(replace(folded, modules=modules))
    overflowing = Replica(
        core.store,
        Serving(backbone, engine, prepared, CurrentTables(FeatureTables(backbone))),
        OnnxEngine,
        (WorkerThread("engine"), WorkerThread("loader"), WorkerThread("backbone")),
        config=ReplicaConfig(),
        observer=core.ledger,
        clock=core.clock,
    )
    try:
        with pytest.raises(EngineFailed, match="not finite"):
            await overflowing.scorer.score(core.request(DOMAIN, core.items[:5]))
    finally:
        await overflowing.stop()
    assert core.ledger.rejections == []


async def test_no_client_can_talk_an_adapter_down(core: Core) -> None:
    """Context values at which the adapter overflows and the backbone does not cost this request its adapter only."""
    body = core.body(DOMAIN)
    published = await core.publish(DOMAIN)
    context = {"age_days": 3e39}
    result = await core.score(DOMAIN, context=context)
    assert (result.served.revision, result.served.fallback) == (None, "adapter_rejected")
    assert core.ledger.rejections == []
    result = await core.score(DOMAIN)
    assert (result.served.revision, result.served.fallback) == (published.revision, None)
    assert_scores(result, core.expected(DOMAIN, body))


async def test_probabilities_stay_in_bounds_for_any_logit(core: Core) -> None:
    """Huge logits of either sign give 1 and 0, without overflow."""
    for slope in (1e6, -1e6):
        body = core.dye(DOMAIN, 0.0, slope=slope)
        await core.publish(DOMAIN, body)
        scores = (await core.score(DOMAIN)).scores
        assert set(scores.tolist()) <= {0.0, 1.0}
        raw = core.expected(DOMAIN, core.dye(DOMAIN, 0.0))
        np.testing.assert_array_equal(scores == 1.0, (raw > 0.5) == (slope > 0))


async def test_each_fallback_is_counted_once(core: Core) -> None:
    """The observer hears one fallback for each response that left with one, and none otherwise."""
    await core.publish(DOMAIN)
    expected: dict[Fallback, int] = {"no_adapter": 2}
    await core.score(DOMAIN)
    await core.score("theme-2")
    await core.score("theme-2")
    assert core.ledger.fallbacks == expected
