"""Publishing over HTTP: digests, conditions, statuses, bounds, and the audit of each change."""

from __future__ import annotations

import asyncio
import base64
import gc
import hashlib
import tracemalloc
from typing import Any

import httpx

from benchmarks.forge import Run, digest
from tests.service.live import Live, adapter, espalier, exchange, listening

SCORE: dict[str, Any] = {"user_id": 7, "domain_id": "theme-1", "item_ids": ["item-1"]}
PATIENT: dict[str, object] = {"cold_wait_ms": 60_000, "deadline_ms": 60_000, "publish_wait_ms": 60_000}


async def serving(live: Live, domain: str = "theme-1") -> str | None:
    """The revision that scores a domain."""
    reply = (await live.client.post("/score", json=SCORE | {"domain_id": domain})).json()
    revision: str | None = reply["served"]["revision"]
    return revision


async def audited(live: Live, lines: int) -> None:
    """Until so many audit lines stand in the log: behind a 202 nothing else tells of the end."""
    for _ in range(30_000):
        if len(live.audit) >= lines:
            return
        await asyncio.sleep(0.001)
    raise AssertionError(f"no more than {len(live.audit)} audit lines came")


async def test_after_a_201_the_next_score_uses_the_new_revision(random_run: Run) -> None:
    """The reply names revision and generation, its ETag the record's state, and the promise holds at once."""
    body = adapter(random_run, "theme-1", "avg")
    async with espalier(random_run, **PATIENT) as live:
        answer = await live.publish("theme-1", body)
        assert await serving(live) == digest(body)
    assert answer.status_code == 201
    assert answer.json() == {"domain": "theme-1", "revision": digest(body), "generation": 2, "status": "created"}
    assert answer.headers["etag"] == '"2.0"'


async def test_publishing_what_is_live_changes_nothing_whatever_the_condition(random_run: Run) -> None:
    """A repeated publish is answered 200 before If-Match is looked at."""
    body = adapter(random_run, "theme-1")
    async with espalier(random_run, **PATIENT) as live:
        answer = await live.publish("theme-1", body, headers={"If-Match": '"99.0"'})
    assert (answer.status_code, answer.json()["status"], answer.json()["generation"]) == (200, "unchanged", 1)


async def test_a_content_digest_names_the_body_too(random_run: Run) -> None:
    """RFC 9530 in place of ?revision=."""
    body = adapter(random_run, "theme-1", "avg")
    stated = f"sha-512=:AAAA:, sha-256=:{base64.b64encode(hashlib.sha256(body).digest()).decode()}:"
    async with espalier(random_run, **PATIENT) as live:
        answer = await live.client.post("/adapters/theme-1", content=body, headers={"Content-Digest": stated})
    assert (answer.status_code, answer.json()["revision"]) == (201, digest(body))


UNNAMED: list[tuple[dict[str, str], dict[str, str], int]] = [
    ({}, {}, 422),
    ({"revision": "a" * 64}, {}, 422),
    ({"revision": "A" * 64}, {}, 422),
    ({"revision": "abc"}, {}, 422),
    ({}, {"Content-Digest": "sha-256=:AAAA:"}, 400),
    ({}, {"Content-Digest": "md5=:AAAA:"}, 400),
    ({"revision": "a" * 64}, {"Content-Digest": f"sha-256=:{base64.b64encode(bytes(32)).decode()}:"}, 422),
    ({"revison": "a" * 64}, {}, 422),
]


async def test_a_body_that_is_not_named_by_its_digest_is_refused(random_run: Run) -> None:
    """No digest, another's, or none at all: nothing is stored under a name that it does not have."""
    body = adapter(random_run, "theme-1", "avg")
    async with espalier(random_run) as live:
        for params, headers, status in UNNAMED:
            answer = await live.client.post("/adapters/theme-1", content=body, params=params, headers=headers)
            assert answer.status_code == status, (params, headers)
        assert not await live.store.has(digest(body))


async def test_an_unknown_query_parameter_is_refused_with_the_near_one(random_run: Run) -> None:
    """A misspelt dry_run must not publish."""
    async with espalier(random_run) as live:
        answer = await live.publish("theme-1", adapter(random_run, "theme-1", "avg"), params={"dryrun": "true"})
    assert answer.status_code == 422
    assert "did you mean 'dry_run'" in answer.json()["detail"]


CONDITIONS: list[tuple[dict[str, str], int]] = [
    ({"If-Match": '"2.0"'}, 412),
    ({"If-Match": '"1.1"'}, 412),
    ({"If-Match": "1.0"}, 400),
    ({"If-Match": 'W/"1.0"'}, 412),
    ({"If-Match": 'W/"1"'}, 412),
    ({"If-Match": '"2"'}, 412),
    ({"If-Match": '"1."'}, 400),
    ({"If-Match": "*"}, 400),
    ({"If-Match": '"1.0", "2.0"'}, 400),
    ({"If-None-Match": "*"}, 412),
    ({"If-None-Match": '"1.0"'}, 400),
    ({"If-None-Match": "*", "If-Match": '"1.0"'}, 400),
    ({"If-Match": '"1.0"'}, 201),
]


async def test_a_condition_holds_or_nothing_changes(random_run: Run) -> None:
    """If-Match names the record's state; a lost race is 412, and only a 201 moves what serves."""
    body = adapter(random_run, "theme-1", "avg")
    async with espalier(random_run, **PATIENT) as live:
        for headers, status in CONDITIONS:
            answer = await live.publish("theme-1", body, headers=headers)
            assert answer.status_code == status, headers
            assert (await serving(live) == digest(body)) is (status == 201), headers


async def test_a_condition_on_what_is_only_stored_or_tried_is_honoured(random_run: Run) -> None:
    """Law: with activate=false and dry_run=true a lost condition is 412 and stores nothing; one that holds passes."""
    body = adapter(random_run, "theme-1", "avg")
    async with espalier(random_run, **PATIENT) as live:
        for option, done in (("dry_run", (200, "verified")), ("activate", (201, "stored"))):
            params = {option: "true" if option == "dry_run" else "false"}
            for headers in ({"If-Match": '"2.0"'}, {"If-Match": '"1.1"'}, {"If-None-Match": "*"}):
                answer = await live.publish("theme-1", body, params=params, headers=headers)
                assert (answer.status_code, answer.json()["type"]) == (412, "urn:espalier:problem:precondition-failed")
                assert not await live.store.has(digest(body))
            answer = await live.publish("theme-1", body, params=params, headers={"If-Match": '"1.0"'})
            assert (answer.status_code, answer.json()["status"]) == done
        assert await serving(live) == digest(adapter(random_run, "theme-1"))


async def test_a_condition_on_a_fusion_is_refused(random_run: Run) -> None:
    """Law: a fusion has no state to compare, so a condition is told to be out of place, not left unread."""
    body = (random_run.folder / "fusion.safetensors").read_bytes()
    async with espalier(random_run) as live:
        for name, value in (("If-Match", '"1.0"'), ("If-None-Match", "*")):
            answer = await live.client.post(
                "/fusions", content=body, params={"revision": digest(body)}, headers={name: value}
            )
            assert (answer.status_code, answer.json()["field"]) == (422, name)


async def test_create_only_publishes_where_nothing_is_live(random_run: Run) -> None:
    """If-None-Match: * is for the first adapter of a domain."""
    auxiliaries = ["segment-a", "segment-b", "segment-c"]
    async with espalier(random_run, publish=auxiliaries, **PATIENT) as live:
        answer = await live.publish("theme-2", adapter(random_run, "theme-2"), headers={"If-None-Match": "*"})
        assert answer.status_code == 201
        again = await live.publish("theme-2", adapter(random_run, "theme-2", "avg"), headers={"If-None-Match": "*"})
    assert again.status_code == 412


async def test_a_dry_run_only_verifies_and_activate_false_only_stores(random_run: Run) -> None:
    """What serves stays; a stored revision becomes live by PUT."""
    body = adapter(random_run, "theme-1", "avg")
    async with espalier(random_run, **PATIENT) as live:
        verified = await live.publish("theme-1", body, params={"dry_run": "true"})
        assert not await live.store.has(digest(body))
        stored = await live.publish("theme-1", body, params={"activate": "false"})
        before = await serving(live)
        put = await live.client.put("/adapters/theme-1/aliases/live", json={"revision": digest(body)})
        after = await serving(live)
    assert (verified.status_code, verified.json()["status"]) == (200, "verified")
    assert (stored.status_code, stored.json()["status"]) == (201, "stored")
    assert (put.status_code, put.headers["etag"]) == (200, '"2.0"')
    assert (before, after) == (digest(adapter(random_run, "theme-1")), digest(body))


async def test_an_adapter_of_another_domain_is_refused(random_run: Run) -> None:
    """The manifest's domain is the path's."""
    async with espalier(random_run, **PATIENT) as live:
        for domain, kind in (("theme-2", "wrong-domain"), ("segment-a", "wrong-domain"), ("theme 1", "bad-id")):
            answer = await live.publish(domain, adapter(random_run, "theme-1", "avg"))
            assert (answer.status_code, answer.json()["type"]) == (422, f"urn:espalier:problem:{kind}")


async def test_a_broken_artifact_is_refused_and_the_live_one_keeps_serving(random_run: Run) -> None:
    """The refusal names the fault and is audited; nothing else happens."""
    whole = adapter(random_run, "theme-1", "avg")
    async with espalier(random_run, **PATIENT) as live:
        for body in (b"", b"not an artifact", whole[:-7], b"\x80\x04}" + whole):
            answer = await live.publish("theme-1", body)
            assert answer.status_code in (413, 422), answer.text
            assert answer.json()["detail"]
        assert await serving(live) == digest(adapter(random_run, "theme-1"))
    assert [line["action"] for line in live.audit] == ["publish"] * 4
    assert all(line["reason"] and line["outcome"] in ("MalformedArtifact", "LimitExceeded") for line in live.audit)


async def test_an_artifact_over_the_limit_gets_413(random_run: Run) -> None:
    """The largest artifact is a setting."""
    async with espalier(random_run, max_adapter_bytes=1000) as live:
        answer = await live.publish("theme-1", bytes(1001))
    assert answer.status_code == 413


async def test_a_refused_upload_is_let_go_of_at_once(random_run: Run) -> None:
    """Memory is bounded by the uploads in flight, not by when the garbage collector comes round."""
    body = bytes(4 << 20)
    async with espalier(random_run, **PATIENT) as live:
        await live.publish("theme-1", body)
        gc.collect()
        gc.disable()
        tracemalloc.start()
        try:
            answer = await live.publish("theme-1", body)
            # the loader thread may still be on its way out of the first call when it takes the second
            await live.publish("theme-1", b"small")
            held_bytes, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
            gc.enable()
    assert answer.status_code == 422
    assert held_bytes < len(body) / 2
    assert peak_bytes < 2 * len(body)


async def test_the_third_upload_is_told_to_come_back(random_run: Run) -> None:
    """Two uploads hold memory at most; the next is refused before its body is read, with Retry-After."""
    head = "POST /adapters/theme-1?revision={} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer admin\r\n"
    start = (head.format("a" * 64) + "Content-Length: 10\r\n\r\nabc").encode()
    async with espalier(random_run) as live, listening(live.app, live.settings) as port:
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        for _, writer in held:
            writer.write(start)
            await writer.drain()
        # served in the order of arrival on one event loop, so both hold their places by now
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            await client.get("/healthz/live")
            answer = await client.post(
                f"/adapters/theme-1?revision={'a' * 64}", content=b"x", headers={"Authorization": "Bearer admin"}
            )
        for _, writer in held:
            writer.close()
            await writer.wait_closed()
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")


async def test_a_stranger_is_refused_before_its_body_is_read(random_run: Run) -> None:
    """401 leaves although not one byte of the announced body came."""
    head = b"POST /adapters/theme-1 HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n"
    async with espalier(random_run) as live, listening(live.app, live.settings) as port:
        answer = await exchange(port, head, until=b"}")
    assert answer.startswith(b"HTTP/1.1 401")


async def test_a_publish_that_takes_longer_than_it_may_answers_202_and_still_happens(random_run: Run) -> None:
    """202 is a promise of nothing but an attempt; the audit tells how it ended."""
    body = adapter(random_run, "theme-1", "avg")
    async with espalier(random_run, cold_wait_ms=60_000, deadline_ms=60_000, publish_wait_ms=0) as live:
        answer = await live.publish("theme-1", body)
        await audited(live, 1)
        assert await serving(live) == digest(body)
    assert (answer.status_code, answer.json()["status"]) == (202, "pending")
    assert [line["outcome"] for line in live.audit] == ["created"]


async def test_a_fusion_is_stored_once(random_run: Run) -> None:
    """Nothing becomes live by a fusion; the same bytes twice change nothing."""
    body = (random_run.folder / "fusion.safetensors").read_bytes()
    async with espalier(random_run) as live:
        again = await live.client.post("/fusions", content=body, params={"revision": digest(body)})
        broken = await live.client.post("/fusions", content=body[:-1], params={"revision": digest(body[:-1])})
    assert (again.status_code, again.json()) == (200, {"revision": digest(body), "status": "unchanged"})
    assert broken.status_code == 422


async def test_a_rollback_walks_back_once_and_says_where_to(random_run: Run) -> None:
    """It acts only if the live revision is the one named, and never returns to one rolled back from."""
    first, second = adapter(random_run, "theme-1"), adapter(random_run, "theme-1", "avg")
    async with espalier(random_run, **PATIENT) as live:
        await live.publish("theme-1", second)
        stale = await live.client.post("/adapters/theme-1/rollback", json={"from": digest(first)})
        back = await live.client.post("/adapters/theme-1/rollback", json={"from": digest(second)})
        assert await serving(live) == digest(first)
        further = await live.client.post("/adapters/theme-1/rollback", json={"from": digest(first)})
        history = (await live.client.get("/adapters/theme-1/revisions")).json()["revisions"]
    assert [answer.status_code for answer in (stale, back, further)] == [409, 200, 409]
    assert (back.json()["live"]["revision"], back.headers["etag"]) == (digest(first), '"3.0"')
    assert [(entry["alias"], entry["rolled_back"]) for entry in history] == [("live", False), ("previous", True)]


async def test_deleting_leaves_a_tombstone_and_the_generation_goes_on(random_run: Run) -> None:
    """The domain is scored without an adapter; a later publish continues the count."""
    async with espalier(random_run, **PATIENT) as live:
        lost = await live.client.delete("/adapters/theme-1", headers={"If-Match": '"7.0"'})
        gone = await live.client.delete("/adapters/theme-1", headers={"If-Match": '"1.0"'})
        assert await serving(live) is None
        again = await live.publish("theme-1", adapter(random_run, "theme-1"))
        unknown = await live.client.delete("/adapters/nobody")
    assert (lost.status_code, gone.status_code, unknown.status_code) == (412, 200, 404)
    assert (gone.json()["deleted"], gone.json()["live"], gone.json()["generation"]) == (True, None, 2)
    assert again.json()["generation"] == 3


ALIASES: list[tuple[dict[str, str], int, str]] = [
    ({"revision": "a" * 64}, 404, "a" * 64),
    ({"revision": "abc"}, 422, "revision"),
    ({"revison": "a" * 64}, 422, "did you mean 'revision'"),
    ({}, 422, "revision is missing"),
]


async def test_live_names_only_what_is_stored(random_run: Run) -> None:
    """A revision that is none, or that the store does not have, is refused by name."""
    async with espalier(random_run) as live:
        for body, status, named in ALIASES:
            answer = await live.client.put("/adapters/theme-1/aliases/live", json=body)
            assert answer.status_code == status, body
            assert named in answer.json()["detail"]


async def test_every_change_leaves_an_audit_line(random_run: Run) -> None:
    """Who, what, which revision, which request; in order."""
    body = adapter(random_run, "theme-1", "avg")
    headers = {"X-Request-Id": "by-me"}
    async with espalier(random_run, **PATIENT) as live:
        await live.publish("theme-1", body, headers=headers)
        await live.client.post("/adapters/theme-1/rollback", json={"from": digest(body)}, headers=headers)
        await live.client.delete("/adapters/theme-1", headers=headers)
    assert [(line["action"], line["outcome"]) for line in live.audit] == [
        ("publish", "created"),
        ("rollback", "rolled_back"),
        ("delete", "deleted"),
    ]
    assert {(line["by"], line["request_id"], line["domain"]) for line in live.audit} == {("admin", "by-me", "theme-1")}
    assert [line["generation"] for line in live.audit] == [2, 3, 4]
