"""Reading adapters over HTTP: listing with a cursor, one domain, its revisions."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from benchmarks.forge import Run, digest
from tests.service.live import Live, adapter, espalier

pytestmark = pytest.mark.asyncio(loop_scope="module")

PUBLISHED = ["segment-a", "segment-b", "segment-c", "theme-1", "theme-2", "theme-3"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def live(random_run: Run) -> AsyncIterator[Live]:
    """A service whose theme-4 was never published."""
    async with espalier(random_run, publish=PUBLISHED, cold_wait_ms=60_000, deadline_ms=60_000) as opened:
        yield opened


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 6, 100])
async def test_a_cursor_visits_every_domain_once_in_order(live: Live, limit: int) -> None:
    """Following `next` to the end lists all of them, whatever the page's size."""
    seen, after = [], ""
    while after is not None:
        page = (await live.client.get("/adapters", params={"after": after, "limit": limit})).json()
        assert 1 <= len(page["adapters"]) <= limit
        seen += [entry["domain"] for entry in page["adapters"]]
        after = page["next"]
    assert seen == PUBLISHED


@pytest.mark.parametrize("params", [{"limit": 0}, {"limit": 1001}, {"limit": "all"}, {"after": "-"}, {"befor": "x"}])
async def test_a_page_that_cannot_be_is_refused(live: Live, params: dict[str, str]) -> None:
    """Bounds and ids are checked."""
    assert (await live.client.get("/adapters", params=params)).status_code == 422


async def test_a_domain_shows_its_record_and_what_serves_here(live: Live, random_run: Run) -> None:
    """Cold until the first score; then the slot stands beside the record."""
    cold = (await live.client.get("/adapters/theme-1")).json()
    await live.client.post("/score", json={"user_id": 7, "domain_id": "theme-1", "item_ids": ["item-1"]})
    answer = await live.client.get("/adapters/theme-1")
    warm = answer.json()
    revision = digest(adapter(random_run, "theme-1"))
    assert answer.headers["etag"] == '"1.0"'
    assert (cold["resident"], cold["live"]["revision"]) == (None, revision)
    assert (warm["resident"]["revision"], warm["resident"]["generation"]) == (revision, 1)
    assert warm["resident"]["size_bytes"] > 0
    assert set(warm["resident"]["fuses"]) == {"segment-a", "segment-b", "segment-c"}


async def test_a_refused_revision_is_shown_with_its_reason(random_run: Run) -> None:
    """The store may name what this replica cannot serve: the domain says which and why."""
    async with espalier(random_run, cold_wait_ms=60_000, deadline_ms=60_000) as live:
        broken = await live.store.put(b"nothing that loads")
        await live.store.set_live("theme-2", "theme", broken, by="someone")
        reply = await live.client.post("/score", json={"user_id": 7, "domain_id": "theme-2", "item_ids": ["item-1"]})
        shown = (await live.client.get("/adapters/theme-2")).json()
    assert reply.json()["served"]["fallback"] == "adapter_rejected"
    assert shown["rejection"]["revision"] == broken
    assert shown["rejection"]["reason"]


async def test_an_unreadable_record_shows_its_error_and_hides_no_other(random_run: Run) -> None:
    """Law: a record of a newer build is one row with its reason, one domain without ETag, and no failure."""
    async with espalier(random_run) as live:
        await live.store.backend.compare_and_set("domain/theme-2", 1, {"generation": 2, "schema": 2})
        page = (await live.client.get("/adapters")).json()["adapters"]
        answer = await live.client.get("/adapters/theme-2")
        history = await live.client.get("/adapters/theme-2/revisions")
        changed = await live.client.delete("/adapters/theme-2")
    assert [entry["domain"] for entry in page if entry["error"]] == ["theme-2"]
    assert sum(entry["effective_live"] is not None for entry in page) == len(page) - 1
    assert (answer.status_code, "schema 2" in answer.json()["error"]) == (200, True)
    assert "etag" not in answer.headers
    assert (history.status_code, changed.status_code) == (500, 503)
    assert "schema 2" in changed.json()["detail"]


async def test_a_domain_of_the_bundle_without_a_record_is_known(live: Live) -> None:
    """Nothing published is a state, not an error; it has no ETag."""
    answer = await live.client.get("/adapters/theme-4")
    assert (answer.status_code, answer.json()["generation"], answer.json()["live"]) == (200, None, None)
    assert "etag" not in answer.headers
    assert (await live.client.get("/adapters/theme-4/revisions")).status_code == 404


async def test_unknown_domains_and_revisions_are_404(live: Live, random_run: Run) -> None:
    """Whatever nobody has is not found; another domain's revision is not this one's."""
    other = digest(adapter(random_run, "theme-2"))
    paths = ("nobody", "nobody/revisions", f"theme-1/revisions/{'a' * 64}", f"theme-1/revisions/{other}")
    for path in paths:
        assert (await live.client.get(f"/adapters/{path}")).status_code == 404, path
    assert (await live.client.get("/adapters/theme-1/revisions/abc")).status_code == 422


async def test_a_revision_shows_its_manifest_and_never_changes(live: Live, random_run: Run) -> None:
    """The manifest as its artifact carries it; its ETag is the revision."""
    revision = digest(adapter(random_run, "theme-1"))
    answer = await live.client.get(f"/adapters/theme-1/revisions/{revision}")
    manifest = answer.json()["manifest"]
    assert (manifest["domain"], manifest["mode"], manifest["schema"]) == ("theme-1", "attention", 1)
    assert answer.headers["etag"] == f'"{revision}"'
