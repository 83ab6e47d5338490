"""Aliases over HTTP: canary, shadow, what is frozen, what a release makes live, and the conditions of each change."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx

from adapters_store.releases import Release
from benchmarks.forge import Run, digest
from tests.service.live import Live, adapter, espalier

SCORE: dict[str, Any] = {"user_id": 7, "domain_id": "theme-1", "item_ids": ["item-1", "item-2"]}
PATIENT: dict[str, object] = {"cold_wait_ms": 60_000, "deadline_ms": 60_000, "publish_wait_ms": 60_000}
CANARY = "/adapters/theme-1/aliases/canary"
SHADOW = "/adapters/theme-1/aliases/shadow"


async def score(live: Live) -> httpx.Response:
    """Two items for one user, answered under a request id that does not change."""
    return await live.client.post("/score", json=SCORE, headers={"X-Request-Id": "same"})


async def served(live: Live) -> tuple[str | None, str | None]:
    """Alias and revision that score."""
    reply = (await score(live)).json()["served"]
    return reply["alias"], reply["revision"]


async def audited(live: Live, lines: int) -> None:
    """Until so many audit lines stand in the log: behind a 202 nothing else tells of the end."""
    for _ in range(30_000):
        if len(live.audit) >= lines:
            return
        await asyncio.sleep(0.001)
    raise AssertionError(f"no more than {len(live.audit)} audit lines came")


async def stored(live: Live, run: Run, mode: str = "avg") -> str:
    """Another revision of theme-1, in the store only."""
    return await live.store.put(adapter(run, "theme-1", mode))


async def test_a_canary_of_everyone_scores_everyone_until_it_is_cleared(random_run: Run) -> None:
    """Law: after the 200 the next request of a user inside is the canary's and says so; after DELETE it is live's."""
    async with espalier(random_run, **PATIENT) as live:
        revision = await stored(live, random_run)
        answer = await live.client.put(CANARY, json={"revision": revision, "percent": 100})
        inside = await served(live)
        shown = (await live.client.get("/adapters/theme-1")).json()
        cleared = await live.client.delete(CANARY)
        after = await served(live)
    assert (answer.status_code, answer.json()["status"], answer.headers["etag"]) == (200, "created", '"2.0"')
    assert inside == ("canary", revision)
    assert shown["canary"] == {"revision": revision, "percent": 100.0}
    assert (cleared.status_code, cleared.json()["canary"], cleared.headers["etag"]) == (200, None, '"3.0"')
    assert after == ("live", digest(adapter(random_run, "theme-1")))


async def test_moving_the_percent_keeps_the_salt_and_no_reader_sees_it(random_run: Run) -> None:
    """Law: the same users stay inside while the share grows; another revision draws anew."""
    async with espalier(random_run, **PATIENT) as live:
        first, second = await stored(live, random_run), await stored(live, random_run, "add")
        salts = []
        for revision, percent in ((first, 5), (first, 10), (second, 10)):
            await live.client.put(CANARY, json={"revision": revision, "percent": percent})
            record = await live.store.domain("theme-1")
            assert record is not None
            assert record.canary is not None
            salts.append(record.canary.salt)
        texts = [(await live.client.get(path)).text for path in ("/adapters", "/adapters/theme-1")]
    assert salts[0] == salts[1] != salts[2]
    assert not any(salt in text for salt in salts for text in texts)


async def test_a_shadow_changes_no_byte_of_a_reply(random_run: Run) -> None:
    """Law: with and without a shadow of all requests the reply is the same, byte for byte."""
    async with espalier(random_run, **PATIENT) as live:
        revision = await stored(live, random_run)
        await score(live)
        before = (await score(live)).json()
        answer = await live.client.put(SHADOW, json={"revision": revision, "percent": 100})
        during = await score(live)
        shown = (await live.client.get("/adapters/theme-1")).json()
        cleared = await live.client.delete(SHADOW)
    assert answer.status_code == 200
    # the record's generation is of the record, which setting the shadow moved
    before["served"]["generation"] = 2
    assert during.json() == before
    assert (shown["shadow"], cleared.json()["shadow"]) == ({"revision": revision, "percent": 100.0}, None)


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("canary", {"revision": "a" * 64}, "percent is missing"),
    ("shadow", {"revision": "a" * 64}, "percent is missing"),
    ("canary", {"revision": "a" * 64, "percent": 0}, "percent"),
    ("canary", {"revision": "a" * 64, "percent": 100.5}, "percent"),
    ("shadow", {"revision": "a" * 64, "percent": "5"}, "percent"),
    ("live", {"revision": "a" * 64, "percent": 5}, "percent belongs to canary and shadow"),
    ("canary", {"revision": "a" * 64, "percnt": 5}, "did you mean 'percent'"),
    ("previous", {"revision": "a" * 64}, "live or canary or shadow"),
]


async def test_an_alias_that_cannot_be_set_is_refused(random_run: Run) -> None:
    """Law: a share that is none, or for an alias without one, is 422 and names the field; what is not stored is 404."""
    async with espalier(random_run) as live:
        for alias, body, named in REFUSED:
            answer = await live.client.put(f"/adapters/theme-1/aliases/{alias}", json=body)
            assert answer.status_code == 422, (alias, body)
            assert named in answer.json()["detail"], answer.text
        absent = await live.client.put(CANARY, json={"revision": "a" * 64, "percent": 5})
        no_live = await live.client.delete("/adapters/theme-1/aliases/live")
        none = await live.client.delete("/adapters/nobody/aliases/canary")
    assert (absent.status_code, none.status_code) == (404, 404)
    assert (no_live.status_code, "roll the domain back" in no_live.json()["detail"]) == (422, True)


async def test_a_broken_canary_is_refused_before_anyone_meets_it(random_run: Run) -> None:
    """Law: a revision that this replica cannot serve never becomes an alias."""
    async with espalier(random_run, **PATIENT) as live:
        other = await live.store.put(adapter(random_run, "theme-2", "avg"))
        for alias in ("canary", "shadow"):
            answer = await live.client.put(f"/adapters/theme-1/aliases/{alias}", json={"revision": other, "percent": 5})
            assert (answer.status_code, answer.json()["type"]) == (422, "urn:espalier:problem:wrong-domain")
        record = await live.store.domain("theme-1")
    assert record is not None
    assert (record.canary, record.shadow, record.generation) == (None, None, 1)


async def test_frozen_domains_take_no_change_but_a_rollback(random_run: Run) -> None:
    """Law: 423 names who froze it and why; rolling back stays open, and thawing opens the rest."""
    body = adapter(random_run, "theme-1", "avg")
    async with espalier(random_run, **PATIENT) as live:
        await live.publish("theme-1", body)
        await live.store.freeze("theme-1", "ops", "incident 7")
        revision = await stored(live, random_run, "add")
        put = await live.client.put("/adapters/theme-1/aliases/live", json={"revision": revision})
        canary = await live.client.put(CANARY, json={"revision": revision, "percent": 5})
        shown = (await live.client.get("/adapters/theme-1")).json()
        back = await live.client.post("/adapters/theme-1/rollback", json={"from": digest(body)})
        await live.store.thaw("theme-1", "ops")
        thawed = await live.client.put(CANARY, json={"revision": revision, "percent": 5})
    for answer in (put, canary):
        assert (answer.status_code, answer.json()["type"]) == (423, "urn:espalier:problem:frozen")
        assert "incident 7" in answer.json()["detail"]
    assert (shown["frozen"]["by"], shown["frozen"]["reason"]) == ("ops", "incident 7")
    assert (back.status_code, thawed.status_code) == (200, 200)


async def test_a_release_moves_the_etag_and_what_is_live(random_run: Run) -> None:
    """Law: the ETag names record and pointer; a flip between reading and writing is a lost race, and is shown."""
    async with espalier(random_run, **PATIENT) as live:
        revision = await stored(live, random_run)
        read = await live.client.get("/adapters/theme-1")
        release = await live.store.put_release(Release(divisions={"theme": {"theme-1": revision}}))
        await live.store.stage(release, "test")
        await live.store.flip(release, "test", min_staged=0)
        put = {"json": {"revision": await stored(live, random_run, "add"), "percent": 5}}
        lost = await live.client.put(CANARY, **put, headers={"If-Match": read.headers["etag"]})
        now = await live.client.get("/adapters/theme-1")
        history = await live.client.get("/adapters/theme-1/revisions")
        older = await live.client.put(CANARY, **put, headers={"If-Match": '"1"'})
        won = await live.client.put(CANARY, **put, headers={"If-Match": older.headers["etag"]})
    assert (read.headers["etag"], now.headers["etag"], older.headers["etag"]) == ('"1.0"', '"1.1"', '"2.1"')
    assert (lost.status_code, older.status_code, won.status_code) == (412, 200, 200)
    assert (now.json()["effective_live"], now.json()["pointer"]) == (revision, 1)
    assert now.json()["live"]["revision"] == digest(adapter(random_run, "theme-1"))
    assert [entry["alias"] for entry in history.json()["revisions"]] == ["release", "live"]


async def test_every_alias_change_leaves_an_audit_line(random_run: Run) -> None:
    """Law: who set or cleared which alias, to which revision and share, and what was refused."""
    async with espalier(random_run, **PATIENT) as live:
        revision = await stored(live, random_run)
        await live.client.put(CANARY, json={"revision": revision, "percent": 5})
        await live.client.delete(CANARY)
        await live.client.put(SHADOW, json={"revision": "a" * 64, "percent": 5})
        lines = live.audit
    assert [(line["action"], line["outcome"]) for line in lines] == [
        ("set_canary", "created"),
        ("clear_canary", "cleared"),
        ("set_shadow", "BlobMissing"),
    ]
    assert (lines[0]["revision"], lines[0]["percent"], lines[0]["by"]) == (revision, 5, "admin")


async def test_a_change_that_takes_longer_than_it_may_answers_202_and_still_happens(random_run: Run) -> None:
    """Law: each changing route waits a bounded time; what it began goes on, and the audit tells how it ended."""
    async with espalier(random_run, cold_wait_ms=60_000, deadline_ms=60_000, publish_wait_ms=0) as live:
        revision = await stored(live, random_run)
        for method, path, body in (
            ("PUT", "aliases/canary", {"revision": revision, "percent": 5}),
            ("DELETE", "aliases/canary", None),
            ("PUT", "aliases/live", {"revision": revision}),
            ("POST", "rollback", {"from": revision}),
        ):
            ended = len(live.audit)
            answer = await live.client.request(method, f"/adapters/theme-1/{path}", json=body)
            await audited(live, ended + 1)
            assert (answer.status_code, answer.json()["status"]) == (202, "pending"), path
    assert [line["outcome"] for line in live.audit] == ["created", "cleared", "created", "rolled_back"]
