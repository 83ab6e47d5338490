"""Pages of domain records."""

from __future__ import annotations

import time

import pytest

from adapters_store.memory import MemoryBackend
from adapters_store.paging import Unreadable, domain_page
from adapters_store.store import AdapterStore

DOMAINS = ["a", "b", "b-1", "c"]


@pytest.fixture
async def store() -> AdapterStore:
    """Four domains; the record of b-1 is of a newer schema."""
    backend = MemoryBackend()
    opened = AdapterStore(backend, time.time)
    revision = await opened.put(b"adapter")
    for domain in DOMAINS:
        if domain != "b-1":
            await opened.set_live(domain, "theme", revision, "test")
    await backend.compare_and_set("domain/b-1", 0, {"generation": 1, "schema": 2})
    return opened


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 9])
async def test_pages_give_every_domain_once_in_order(store: AdapterStore, limit: int) -> None:
    """Law: each page goes on behind the last domain of the one before, unreadable ones included."""
    seen: list[str] = []
    while page := await domain_page(store, seen[-1] if seen else "", limit):
        assert len(page) <= limit
        seen += [row.domain for row in page]
    assert seen == DOMAINS


async def test_an_unreadable_record_says_why_and_hides_no_other(store: AdapterStore) -> None:
    """Law: only its own row is an error."""
    rows = await domain_page(store, "", 9)
    (broken,) = (row for row in rows if isinstance(row, Unreadable))
    assert broken.domain == "b-1"
    assert "schema 2" in broken.error
