"""/metrics and /adapters/{domain}/stats of a running service: what happens is counted where it is said to be."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from adapters_store.records import seconds_of
from benchmarks.forge import Run
from service.stores import kind_of
from tests.service.live import Live, adapter, espalier

PATIENT: dict[str, object] = {"cold_wait_ms": 60_000, "deadline_ms": 60_000, "publish_wait_ms": 60_000}
BODY: dict[str, Any] = {"user_id": 7, "domain_id": "theme-1", "item_ids": ["item-1", "item-2", "item-3"]}


async def scored(live: Live, **changes: Any) -> None:
    """A request that is answered."""
    answer = await live.client.post("/score", json=BODY | changes)
    assert answer.status_code == 200, answer.text


async def scraped(live: Live) -> dict[str, float]:
    """Sample with the values of its labels -> value."""
    answer = await live.client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        sample.name + "".join(f"/{value}" for _, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


async def stats(live: Live, domain: str) -> dict[str, Any]:
    """Counts of a domain."""
    answer = await live.client.get(f"/adapters/{domain}/stats")
    assert answer.status_code == 200, answer.text
    counts: dict[str, Any] = answer.json()
    return counts


async def test_every_scored_request_is_counted_once_by_domain(random_run: Run) -> None:
    """Law: domains that are known have counts and series of their own; an id that nobody knows is `other`."""
    async with espalier(random_run, **PATIENT) as live:
        for _ in range(3):
            await scored(live)
        await scored(live, domain_id="theme-2", item_ids=["item-1"])
        await scored(live, domain_id="made-up")
        shown = await scraped(live)
        counts, nobody = await stats(live, "theme-1"), await stats(live, "made-up")
    assert (shown["espalier_domain_requests_total/theme-1"], shown["espalier_domain_rows_total/theme-1"]) == (3, 9)
    assert (shown["espalier_domain_requests_total/theme-2"], shown["espalier_domain_rows_total/theme-2"]) == (1, 1)
    assert (shown["espalier_domain_requests_total/other"], shown["espalier_domain_fallbacks_total/other"]) == (1, 1)
    assert not any(name.endswith("/made-up") for name in shown)
    assert shown["espalier_score_count"] == shown["espalier_rows_total"] == 13
    assert shown["espalier_request_seconds_count//score"] == 5
    assert shown["espalier_queue_limit_rows"] == 65_536
    assert seconds_of(counts.pop("since")) is not None
    assert counts == {
        "domain": "theme-1",
        "requests": 3,
        "rows": 9,
        "canary_requests": 0,
        "canary_rows": 0,
        "fallbacks": {},
        "exact": True,
    }
    assert (nobody["requests"], nobody["exact"]) == (1, True)


async def test_counts_of_what_is_no_domain_id_are_refused(random_run: Run) -> None:
    """Law: an id that cannot be one is 422, a query parameter that does not exist too."""
    async with espalier(random_run) as live:
        assert (await live.client.get("/adapters/..x/stats")).status_code == 422
        assert (await live.client.get("/adapters/theme-1/stats", params={"since": 1})).status_code == 422


async def test_a_swap_is_timed_and_a_first_load_is_not(random_run: Run) -> None:
    """Law: only a domain that served already and is scored by another revision counts, once for each flip.

    Who wrote the record itself has it propagated, and read nothing.
    """
    async with espalier(random_run, **PATIENT) as live:
        await scored(live)
        cold = await scraped(live)
        answer = await live.publish("theme-1", adapter(random_run, "theme-1", "avg"))
        assert answer.status_code == 201, answer.text
        own = await scraped(live)
        revision = await live.store.put(adapter(random_run, "theme-1", "single"))
        record = await live.store.set_live("theme-1", "theme", revision, by="someone else")
        await live.replica.loader.reach("theme-1", record.generation)
        shown = await scraped(live)
    swaps = [each["espalier_swap_seconds_count"] for each in (cold, own, shown)]
    propagated = [each["espalier_propagation_seconds_count"] for each in (cold, own, shown)]
    assert (swaps, propagated) == ([0, 0, 1], [0, 1, 2])


async def test_scores_are_kept_apart_while_a_canary_runs(random_run: Run) -> None:
    """Law: its users' rows are the canary's, others' are live's; without a canary neither moves."""
    async with espalier(random_run, **PATIENT) as live:
        await scored(live)
        revision = await live.store.put(adapter(random_run, "theme-1", "avg"))
        path = "/adapters/theme-1/aliases/canary"
        before = await scraped(live)
        await live.client.put(path, json={"revision": revision, "percent": 100})
        await scored(live)
        inside, counts = await scraped(live), await stats(live, "theme-1")
        await live.client.put(path, json={"revision": revision, "percent": 0.0001})
        await scored(live)
        outside = await scraped(live)
    seen = [
        (shown["espalier_canary_score_count"], shown["espalier_live_score_count"])
        for shown in (before, inside, outside)
    ]
    assert seen == [(0, 0), (3, 0), (3, 3)]
    assert (counts["canary_requests"], counts["canary_rows"], counts["requests"]) == (1, 3, 2)


async def test_the_age_of_what_scored_is_that_of_its_manifest(random_run: Run) -> None:
    """Law: one observation for each request that an adapter scored whose manifest says when it was made."""
    async with espalier(random_run, **PATIENT) as live:
        await scored(live)
        slot = live.replica.slots.get("theme-1")
        assert slot is not None
        made = (await live.client.get(f"/adapters/theme-1/revisions/{slot.revision}")).json()["manifest"]["created_at"]
        await scored(live, domain_id="made-up")
        shown = await scraped(live)
    assert slot.made_s == (None if made is None else seconds_of(made))
    assert shown["espalier_adapter_age_seconds_count"] == (slot.made_s is not None)


async def test_a_feed_that_is_followed_has_an_age(random_run: Run) -> None:
    """Law: there is no age without a feed."""
    async with espalier(random_run) as live:
        assert 0 <= (await scraped(live))["espalier_feed_age_seconds"] < 60
    async with espalier(random_run, feed=False) as live:
        assert "espalier_feed_age_seconds" not in await scraped(live)


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("file:///var/lib/espalier", "file"),
        ("rediss+sentinel://me:secret@host/name", "redis"),
        ("redis+cluster://host", "redis"),
        ("s3://bucket/prefix", "s3"),
        ("rediss+gs://bucket?redis=rediss%3A%2F%2Fhost", "redis+gs"),
    ],
)
def test_a_store_is_named_by_its_kind_alone(url: str, kind: str) -> None:
    """Law: no part of an address becomes a label."""
    assert kind_of(url) == kind
