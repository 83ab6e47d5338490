"""The contract of a backend, as tests. A new backend subclasses `BackendContract` and gives it one fixture.

class TestNovel(BackendContract):
    @pytest.fixture
    def open_backend(self): ...   # () -> Backend; each call opens the same empty store once more, as another client

A backend that polls for changes is opened with a pace of hundredths of a second. A fixture may be asynchronous and
close what it opened.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from adapters_store.backend import Backend, Change
from adapters_store.bounds import Bound
from adapters_store.canonical import digest
from adapters_store.errors import BlobMissing, LimitExceeded

Open = Callable[[], Backend]

# How long a feed may take to tell of a change, and how often it is asked: a bound, nothing waits for it to pass.
FEED_S = 5.0
ASKED = 200


def record(generation: int, **more: Any) -> dict[str, Any]:
    return {"generation": generation, **more}


async def version_of(client: Backend, key: str) -> str:
    """The version of a record that is there."""
    held = await client.read_record(key)
    assert held is not None
    return held.version


async def content_of(client: Backend, key: str) -> dict[str, Any] | None:
    """A record without its version."""
    held = await client.read_record(key)
    return None if held is None else held.record


async def told(client: Backend, position: str, keys: set[str]) -> str:
    """Follow a feed until it has named all these keys; the position behind them."""
    missing = set(keys)
    for _ in range(ASKED):
        answer = await client.changes(position, FEED_S)
        assert not answer.resync
        position = answer.position
        missing -= answer.keys
        if not missing:
            return position
    raise AssertionError(f"the feed never told of {missing}")


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

    async def test_blob_above_its_bound_is_refused_by_name(self, one: Backend, other: Backend) -> None:
        """Law: whatever a store has under a digest, no more than the bound is given; digest, limit, source are named.

        What just fits comes whole.
        """
        name, content = digest(b"small"), bytes(range(256)) * 40
        await one.put_blob(name, content)
        for fits in (len(content), len(content) + 1, 2**40):
            assert await other.get_blob(name, Bound(fits, "setting largest")) == content
        for less in (len(content) - 1, 1, 0):
            with pytest.raises(LimitExceeded, match=f"{name} is larger than the {less} bytes that setting largest"):
                await other.get_blob(name, Bound(less, "setting largest"))
            with pytest.raises(BlobMissing):
                await other.get_blob(digest(b"absent"), Bound(less, "setting largest"))
        assert await other.get_blob(name) == content

    async def test_path_of_a_blob_above_its_bound_is_not_given(self, one: Backend) -> None:
        """Law: what would be mapped is held to the bound as what is read."""
        await one.put_blob(digest(b"mapped"), b"mapped")
        if await one.blob_path(digest(b"mapped"), Bound(6, "setting largest")) is not None:
            with pytest.raises(LimitExceeded, match="than the 5 bytes that setting largest allows"):
                await one.blob_path(digest(b"mapped"), Bound(5, "setting largest"))

    async def test_putting_a_blob_again_changes_nothing(self, one: Backend, other: Backend) -> None:
        """Law: storing is idempotent, also from many clients at once."""
        name = digest(b"same")
        await asyncio.gather(*(client.put_blob(name, b"same") for client in [one, other] * 8))
        assert await one.get_blob(name) == b"same"
        assert await one.list_blobs() == [name]

    async def test_absent_record_is_none(self, one: Backend) -> None:
        """Law: a record that nobody wrote is None, not an error."""
        assert await content_of(one, "domain/a") is None

    async def test_record_is_replaced_only_at_the_generation_that_was_read(self, one: Backend, other: Backend) -> None:
        """Law: compare-and-set succeeds at the current generation alone, and tells."""
        assert not await one.compare_and_set("domain/a", 1, record(2))
        assert await one.compare_and_set("domain/a", 0, record(1, x="é", deep={"list": [1, None, 2.5]}))
        assert not await other.compare_and_set("domain/a", 0, record(1, x="lost"))
        assert await content_of(other, "domain/a") == record(1, x="é", deep={"list": [1, None, 2.5]})
        assert await other.compare_and_set("domain/a", 1, record(2, x="next"))
        assert not await one.compare_and_set("domain/a", 1, record(2, x="lost"))
        assert not await one.compare_and_set("domain/a", 3, record(4, x="lost"))
        assert await content_of(one, "domain/a") == record(2, x="next")

    async def test_what_a_caller_does_to_its_record_stays_with_it(self, one: Backend) -> None:
        """Law: a record handed in or out is a copy."""
        mine = record(1, names=["a"])
        await one.compare_and_set("domain/a", 0, mine)
        mine["names"].append("b")
        read = await one.read_record("domain/a")
        assert read is not None
        assert read.record == record(1, names=["a"])
        read.record["names"].append("c")
        assert await content_of(one, "domain/a") == record(1, names=["a"])

    async def test_of_all_who_race_one_wins(self, one: Backend, other: Backend) -> None:
        """Law: of many writers at one generation exactly one succeeds, and its record is the one that stays."""
        for generation in range(5):
            writers = [(client, i) for i, client in enumerate([one, other] * 4)]
            won = await asyncio.gather(
                *(c.compare_and_set("domain/a", generation, record(generation + 1, by=i)) for c, i in writers)
            )
            assert sum(won) == 1
            assert await content_of(one, "domain/a") == record(generation + 1, by=won.index(True))

    async def test_no_increment_is_lost(self, one: Backend, other: Backend) -> None:
        """Law: read, add one, compare-and-set, retry: the sum is exact."""

        async def increment(client: Backend, times: int) -> None:
            for _ in range(times):
                while True:
                    held = await content_of(client, "domain/a") or record(0)
                    if await client.compare_and_set("domain/a", held["generation"], record(held["generation"] + 1)):
                        break

        await asyncio.gather(*(increment(client, 10) for client in [one, other] * 2))
        assert await content_of(one, "domain/a") == record(40)

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

    async def test_versions_show_every_change(self, one: Backend, other: Backend) -> None:
        """Law: a replica that compares versions sees each change of another client, however soon it follows the last.

        The version of a listing is that of reading.
        """
        assert await other.versions("domain/") == {}
        assert await one.compare_and_set("backbone", 0, record(1))
        seen = set()
        for generation in range(20):
            assert await one.compare_and_set("domain/a", generation, record(generation + 1))
            versions = await other.versions("domain/")
            assert versions == {"domain/a": await version_of(one, "domain/a")}
            seen |= set(versions.values())
        assert len(seen) == 20
        assert await one.compare_and_set("domain/b:1", 0, record(1))
        assert set(await other.versions("domain/")) == {"domain/a", "domain/b:1"}
        assert set(await other.versions("")) == {"backbone", "domain/a", "domain/b:1"}

    async def test_other_content_at_the_same_generation_has_another_version(self, one: Backend, other: Backend) -> None:
        """Law: a version tells content apart, not generations: a record that was restored from a backup is noticed."""
        assert await one.compare_and_set("domain/a", 0, record(1, of="before"))
        before = await version_of(other, "domain/a")
        assert await one.delete_record("domain/a", 1)
        assert await one.compare_and_set("domain/a", 0, record(1, of="after"))
        assert await version_of(other, "domain/a") != before
        assert await other.versions("domain/") == {"domain/a": await version_of(one, "domain/a")}

    async def test_what_was_acknowledged_is_confirmed(self, one: Backend, other: Backend) -> None:
        """Law: confirming what every client sees changes nothing."""
        assert await one.compare_and_set("domain/a", 0, record(1))
        began = await other.versions("")
        await other.confirm(["domain/a", "domain/absent"])
        assert await other.versions("") == began

    async def test_deleted_record_is_gone_and_may_begin_anew(self, one: Backend, other: Backend) -> None:
        """Law: a record is removed only at the generation that was read; then it is absent for all."""
        assert not await one.delete_record("replica/a", 1)
        assert await one.compare_and_set("replica/a", 0, record(1))
        assert not await other.delete_record("replica/a", 2)
        assert await content_of(one, "replica/a") == record(1)
        assert await other.delete_record("replica/a", 1)
        assert await one.read_record("replica/a") is None
        assert await one.list_records("replica/") == []
        assert await one.versions("replica/") == {}
        assert await one.compare_and_set("replica/a", 0, record(1))

    async def test_deleted_blob_is_gone(self, one: Backend, other: Backend) -> None:
        """Law: deleting removes this blob alone; an absent one is no error; it may be put again."""
        await one.put_blobs({digest(content): content for content in (b"x", b"y")})
        await other.delete_blob(digest(b"x"))
        await other.delete_blob(digest(b"x"))
        assert not await one.has_blob(digest(b"x"))
        assert await one.list_blobs() == [digest(b"y")]
        with pytest.raises(BlobMissing):
            await one.get_blob(digest(b"x"))
        await one.put_blob(digest(b"x"), b"x")
        assert await other.get_blob(digest(b"x")) == b"x"

    async def test_many_blobs_are_put_and_asked_for_at_once(self, one: Backend, other: Backend) -> None:
        """Law: bulk methods do what the single ones do, for none and for more than are kept in flight."""
        blobs = {digest(content): content for content in (b"%d" % i for i in range(100))}
        await one.put_blobs({})
        await one.put_blobs(blobs)
        assert await other.has_blobs([]) == set()
        assert await other.has_blobs([*blobs, digest(b"absent")]) == set(blobs)
        assert await other.list_blobs() == sorted(blobs)
        for name in list(blobs)[::10]:
            assert await other.get_blob(name) == blobs[name]

    async def test_many_records_are_changed_and_read_at_once(self, one: Backend, other: Backend) -> None:
        """Law: each of many conditional writes stands for itself, and the answers come in order."""
        assert await one.compare_and_set_many([]) == []
        assert await one.read_records([]) == {}
        assert await one.compare_and_set("domain/7", 0, record(1, by="first"))
        keys = [f"domain/{i}" for i in range(100)]
        done = await other.compare_and_set_many([Change(key, 0, record(1, by="second")) for key in keys])
        assert done == [key != "domain/7" for key in keys]
        found = await one.read_records([*keys, "domain/absent"])
        assert set(found) == set(keys)
        assert {key for key in keys if found[key].record["by"] == "first"} == {"domain/7"}
        assert {key: held.version for key, held in found.items()} == await one.versions("domain/")

    async def test_feed_tells_what_changed_behind_a_position(self, one: Backend, other: Backend) -> None:
        """Law: from any position of its own a feed names every record that was written or removed since."""
        assert await one.compare_and_set("domain/a", 0, record(1))
        began = await other.changes(None, 60.0)
        assert began.resync
        assert await one.compare_and_set("domain/b", 0, record(1))
        assert await one.compare_and_set("domain/a", 1, record(2))
        await told(other, began.position, {"domain/a", "domain/b"})
        assert await one.compare_and_set("backbone", 0, record(1))
        assert await one.compare_and_set("replica/a", 0, record(1))
        behind = await told(other, began.position, {"domain/a", "domain/b", "backbone", "replica/a"})
        assert await one.delete_record("replica/a", 1)
        await told(other, behind, {"replica/a"})

    async def test_feed_wakes_one_who_waits(self, one: Backend, other: Backend) -> None:
        """Law: a change that comes while someone waits ends the waiting; without one it ends after `wait_s`."""
        began = await other.changes(None, 0.0)
        behind = await other.changes(began.position, 0.05)
        assert not behind.resync
        waiting = asyncio.create_task(told(other, behind.position, {"domain/a"}))
        await asyncio.sleep(0)
        assert await one.compare_and_set("domain/a", 0, record(1))
        await asyncio.wait_for(waiting, FEED_S)

    @pytest.mark.parametrize("position", ["", "x", ":", "x:1", "1-1", "0", "-", "9" * 40, "é|\n"])
    async def test_feed_resyncs_from_a_position_that_is_none_of_its_own(self, one: Backend, position: str) -> None:
        """Law: from a foreign or spoilt position a feed says that it cannot tell, at once, and where to go on."""
        assert await one.compare_and_set("domain/a", 0, record(1))
        answer = await asyncio.wait_for(one.changes(position, 60.0), FEED_S)
        assert answer.resync
        assert await one.compare_and_set("domain/b", 0, record(1))
        await told(one, answer.position, {"domain/b"})

    async def test_follower_of_the_feed_misses_nothing_of_many_writers(self, one: Backend, other: Backend) -> None:
        """Law: whoever compares everything once and then reads what the feed names ends with what is stored."""
        held: dict[str, str] = {}
        stop = asyncio.Event()

        async def read(keys: set[str] | frozenset[str]) -> None:
            found = await other.read_records(sorted(keys))
            held.update({key: one.version for key, one in found.items()})

        async def follow() -> None:
            position: str | None = None
            while not stop.is_set() or held != await other.versions(""):
                answer = await other.changes(position, 0.05)
                position = answer.position
                await read(set(await other.versions("")) if answer.resync else answer.keys)

        async def write(me: int) -> None:
            for i in range(12):
                key = f"domain/{(me * 5 + i) % 7}"
                generation = (await content_of(one, key) or record(0))["generation"]
                await one.compare_and_set(key, generation, record(generation + 1, by=me))

        following = asyncio.create_task(follow())
        await asyncio.gather(*(write(me) for me in range(4)))
        stop.set()
        await asyncio.wait_for(following, 4 * FEED_S)
        assert held == await one.versions("")

    async def test_path_of_a_blob_is_a_file_with_its_bytes(self, one: Backend) -> None:
        """Law: where a backend has local files, a blob's file holds its bytes, and an absent blob is missing."""
        await one.put_blob(digest(b"mapped"), b"mapped")
        path = await one.blob_path(digest(b"mapped"))
        if path is not None:
            assert path.read_bytes() == b"mapped"
            with pytest.raises(BlobMissing):
                await one.blob_path(digest(b"absent"))

    async def test_store_of_the_contract_may_be_written(self, one: Backend) -> None:
        """Law: a store that keeps the contract is not refused, however often it is asked."""
        await one.prepare_writing()
        await one.prepare_writing()
        assert await one.list_blobs() == []
        assert await one.versions("") == {}

    async def test_closing_lets_go(self, one: Backend, other: Backend) -> None:
        """Law: one client's closing is nothing to another."""
        await one.put_blob(digest(b"x"), b"x")
        await one.close()
        assert await other.has_blob(digest(b"x"))
