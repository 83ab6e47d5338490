"""The contract of a backend, as tests. A new backend subclasses `BackendContract` and gives it two fixtures.

class TestNovel(BackendContract):
    @pytest.fixture
    def open_backend(self): ...   # () -> Backend; each call opens the same store once more, as another client
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from adapters_store.backend import Backend
from adapters_store.canonical import digest
from adapters_store.errors import BlobMissing

Open = Callable[[], Backend]


def record(generation: int, **more: Any) -> dict[str, Any]:
    return {"generation": generation, **more}


class BackendContract:
    """What holds for every backend, for one client and for two."""

    @pytest.fixture
    def open_backend(self) -> Open:
        """() -> Backend; each call opens the same store once more."""
        raise NotImplementedError("a backend's test class says how to open it")

    @pytest.fixture
    def one(self, open_backend: Open) -> Backend:
        """A client."""
        return open_backend()

    @pytest.fixture
    def other(self, open_backend: Open, one: Backend) -> Backend:
        """Another client of the same store."""
        return open_backend()

    async def test_blob_that_was_put_is_there_for_all(self, one: Backend, other: Backend) -> None:
        """Law: bytes come back exactly, empty and large ones too, for every client."""
        contents = [b"", b"\0\xff" * 10, bytes(range(256)) * 4096]
        for content in contents:
            assert not await other.has_blob(digest(content))
            await one.put_blob(digest(content), content)
            assert await other.has_blob(digest(content))
            assert await other.get_blob(digest(content)) == content
        assert await other.list_blobs() == sorted(digest(content) for content in contents)

    async def test_absent_blob_is_missing_by_name(self, one: Backend) -> None:
        """Law: an absent blob is `BlobMissing` with its digest."""
        assert await one.list_blobs() == []
        with pytest.raises(BlobMissing, match="ab" * 32):
            await one.get_blob("ab" * 32)

    async def test_putting_a_blob_again_changes_nothing(self, one: Backend, other: Backend) -> None:
        """Law: storing is idempotent, also from many clients at once."""
        name = digest(b"same")
        await asyncio.gather(*(client.put_blob(name, b"same") for client in [one, other] * 8))
        assert await one.get_blob(name) == b"same"
        assert await one.list_blobs() == [name]

    async def test_absent_record_is_none(self, one: Backend) -> None:
        """Law: a record that nobody wrote is None, not an error."""
        assert await one.read_record("domain/a") is None

    async def test_record_is_replaced_only_at_the_generation_that_was_read(self, one: Backend, other: Backend) -> None:
        """Law: compare-and-set succeeds at the current generation alone, and tells."""
        assert not await one.compare_and_set("domain/a", 1, record(2))
        assert await one.compare_and_set("domain/a", 0, record(1, x="é", deep={"list": [1, None, 2.5]}))
        assert not await other.compare_and_set("domain/a", 0, record(1, x="lost"))
        assert await other.read_record("domain/a") == record(1, x="é", deep={"list": [1, None, 2.5]})
        assert await other.compare_and_set("domain/a", 1, record(2, x="next"))
        assert not await one.compare_and_set("domain/a", 1, record(2, x="lost"))
        assert not await one.compare_and_set("domain/a", 3, record(4, x="lost"))
        assert await one.read_record("domain/a") == record(2, x="next")

    async def test_what_a_caller_does_to_its_record_stays_with_it(self, one: Backend) -> None:
        """Law: a record handed in or out is a copy."""
        mine = record(1, names=["a"])
        await one.compare_and_set("domain/a", 0, mine)
        mine["names"].append("b")
        read = await one.read_record("domain/a")
        assert read == record(1, names=["a"])
        read["names"].append("c")
        assert await one.read_record("domain/a") == record(1, names=["a"])

    async def test_of_all_who_race_one_wins(self, one: Backend, other: Backend) -> None:
        """Law: of many writers at one generation exactly one succeeds, and its record is the one that stays."""
        for generation in range(5):
            writers = [(client, i) for i, client in enumerate([one, other] * 4)]
            won = await asyncio.gather(
                *(c.compare_and_set("domain/a", generation, record(generation + 1, by=i)) for c, i in writers)
            )
            assert sum(won) == 1
            assert await one.read_record("domain/a") == record(generation + 1, by=won.index(True))

    async def test_no_increment_is_lost(self, one: Backend, other: Backend) -> None:
        """Law: read, add one, compare-and-set, retry: the sum is exact."""

        async def increment(client: Backend, times: int) -> None:
            for _ in range(times):
                while True:
                    held = await client.read_record("domain/a") or record(0)
                    if await client.compare_and_set("domain/a", held["generation"], record(held["generation"] + 1)):
                        break

        await asyncio.gather(*(increment(client, 10) for client in [one, other] * 2))
        assert await one.read_record("domain/a") == record(40)

    async def test_keys_are_listed_in_order_and_in_pages(self, one: Backend, other: Backend) -> None:
        """Law: pages follow each other in the order of keys, and end."""
        names = ["a", "B", "a-1", "a.1", "a:1", "a=1", "a_1", "zz", "Z", "0", "x" * 128]
        for name in names:
            assert await one.compare_and_set(f"domain/{name}", 0, record(1))
        assert await one.compare_and_set("backbone", 0, record(1))
        expected = sorted(f"domain/{name}" for name in names)
        assert await other.list_records("domain/") == expected
        pages, after = [], ""
        while page := await other.list_records("domain/", after, 3):
            pages += page
            after = page[-1]
            assert len(page) <= 3
        assert pages == expected
        assert await other.list_records("novel/") == []

    async def test_generations_show_every_change(self, one: Backend, other: Backend) -> None:
        """Law: a watcher that polls sees each change of another client, however soon it follows the last one."""
        assert await other.generations("domain/") == {}
        assert await one.compare_and_set("backbone", 0, record(1))
        for generation in range(30):
            assert await one.compare_and_set("domain/a", generation, record(generation + 1))
            assert await other.generations("domain/") == {"domain/a": generation + 1}
        assert await one.compare_and_set("domain/b:1", 0, record(1))
        assert await other.generations("domain/") == {"domain/a": 30, "domain/b:1": 1}

    async def test_closing_lets_go(self, one: Backend, other: Backend) -> None:
        """Law: one client's closing is nothing to another."""
        await one.put_blob(digest(b"x"), b"x")
        await one.close()
        assert await other.has_blob(digest(b"x"))
