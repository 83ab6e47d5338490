"""What a store far away can cost is bounded."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest

from adapters_store.backend import Backend, Change, Changes, Versioned
from adapters_store.bounds import ANY_BLOB, Bound
from adapters_store.canonical import digest
from adapters_store.errors import BlobMissing, MalformedRecord, StoreRefused, StoreUnavailable
from adapters_store.guarded import GuardedBackend
from adapters_store.memory import MemoryBackend
from tests.adapters_store.contract import BackendContract, Open, record

TINY = {"pause_s": 0.001, "breaker_failures": 1000}


class Ailing(MemoryBackend):
    """A memory store that fails or stalls when told to, after the call had its effect, and counts calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.failures = 0
        self.stalled = False
        self.refusing = False

    async def prepare_writing(self) -> None:
        """See Backend."""
        self.calls["prepare_writing"] += 1
        if self.refusing:
            raise StoreRefused("it may evict")

    async def put_blob(self, digest: str, content: bytes) -> None:
        """See Backend."""
        await super().put_blob(digest, content)
        await self._ail("put_blob")

    async def get_blob(self, digest: str, bound: Bound = ANY_BLOB) -> bytes:
        """See Backend."""
        await self._ail("get_blob")
        return await super().get_blob(digest, bound)

    async def read_record(self, key: str) -> Versioned | None:
        """See Backend."""
        await self._ail("read_record")
        if key == "broken":
            raise MalformedRecord("record 'broken' is no JSON")
        return await super().read_record(key)

    async def compare_and_set(self, key: str, expected: int, record: Mapping[str, Any]) -> bool:
        """See Backend."""
        done = await super().compare_and_set(key, expected, record)
        await self._ail("compare_and_set")
        return done

    async def delete_record(self, key: str, expected: int) -> bool:
        """See Backend."""
        done = await super().delete_record(key, expected)
        await self._ail("delete_record")
        return done

    async def delete_blob(self, digest: str) -> None:
        """See Backend."""
        await super().delete_blob(digest)
        await self._ail("delete_blob")

    async def changes(self, position: str | None, wait_s: float) -> Changes:
        """See Backend."""
        await self._ail("changes")
        return await super().changes(position, wait_s)

    async def _ail(self, call: str) -> None:
        self.calls[call] += 1
        if self.stalled:
            await asyncio.Event().wait()
        if self.failures:
            self.failures -= 1
            raise StoreUnavailable("connection reset")


class TestGuarded(BackendContract):
    """A guard changes nothing of a store that is well."""

    @pytest.fixture
    def open_backend(self) -> Open:
        """Guards around one object."""
        inner = MemoryBackend()
        return lambda: GuardedBackend(inner)


async def test_what_is_safe_is_tried_again() -> None:
    """Law: reading and storing a blob survive failures, up to the number of attempts."""
    inner = Ailing()
    guarded = GuardedBackend(inner, attempts=3, **TINY)
    inner.failures = 2
    await guarded.put_blob(digest(b"x"), b"x")
    inner.failures = 2
    assert await guarded.get_blob(digest(b"x")) == b"x"
    inner.failures = 2
    assert await guarded.read_record("domain/a") is None
    assert inner.calls == {"prepare_writing": 1, "put_blob": 3, "get_blob": 3, "read_record": 3}
    inner.failures = 3
    with pytest.raises(StoreUnavailable, match="connection reset"):
        await guarded.read_record("domain/a")


WRITES: dict[str, Callable[[Backend], Awaitable[object]]] = {
    "compare_and_set": lambda backend: backend.compare_and_set("domain/a", 1, record(2)),
    "compare_and_set_many": lambda backend: backend.compare_and_set_many([Change("domain/a", 1, record(2))]),
    "delete_record": lambda backend: backend.delete_record("domain/a", 1),
    "delete_blob": lambda backend: backend.delete_blob(digest(b"x")),
}


@pytest.mark.parametrize("name", WRITES)
async def test_a_write_that_cannot_be_repeated_is_sent_once(name: str) -> None:
    """Law: whatever fails, a compare-and-set or a deletion reaches the store at most once, and the failure is told."""
    inner = Ailing()
    await inner.compare_and_set("domain/a", 0, record(1))
    guarded = GuardedBackend(inner, **TINY)
    inner.calls.clear()
    inner.failures = 1
    with pytest.raises(StoreUnavailable):
        await WRITES[name](guarded)
    assert inner.calls == {"prepare_writing": 1, name.removesuffix("_many"): 1}


async def test_waiting_is_bounded_whatever_stalls() -> None:
    """Law: a store that answers nothing costs the bound, once for all attempts, and says so."""
    inner = Ailing()
    inner.stalled = True
    guarded = GuardedBackend(inner, deadline_s=0.05, bulk_s=0.05, fetch_s=0.05, **TINY)
    loop = asyncio.get_running_loop()
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: guarded.read_record("domain/a"),
        lambda: guarded.get_blob(digest(b"x")),
        lambda: guarded.put_blob(digest(b"x"), b"x"),
        lambda: guarded.compare_and_set("domain/a", 0, record(1)),
        lambda: guarded.changes("position", 0.05),
    ]
    for call in calls:
        began = loop.time()
        with pytest.raises(StoreUnavailable, match="did not answer within"):
            await call()
        assert loop.time() - began < 5.0
    assert inner.calls["read_record"] == 1


async def test_pauses_between_attempts_count_towards_the_bound() -> None:
    """Law: the bound is on the sum of attempts and pauses."""
    inner = Ailing()
    inner.failures = 10**6
    guarded = GuardedBackend(inner, deadline_s=0.5, attempts=1000, pause_s=0.02, breaker_failures=10**6)
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(StoreUnavailable):
        await guarded.read_record("domain/a")
    assert loop.time() - began < 5.0
    assert 1 < inner.calls["read_record"] < 20


async def test_breaker_opens_on_a_dead_store_and_closes_on_one_that_is_back() -> None:
    """Law: after failures in a row calls fail without reaching the store; after a while one gets through and heals."""
    inner = Ailing()
    guarded = GuardedBackend(inner, attempts=1, pause_s=0.001, breaker_failures=3, breaker_s=0.5)
    inner.failures = 3
    for _ in range(3):
        with pytest.raises(StoreUnavailable, match="connection reset"):
            await guarded.read_record("domain/a")
    with pytest.raises(StoreUnavailable, match="left alone for a moment"):
        await guarded.compare_and_set("domain/a", 0, record(1))
    with pytest.raises(StoreUnavailable, match="left alone for a moment"):
        await guarded.read_record("domain/a")
    assert inner.calls["read_record"] == 3
    assert inner.calls["compare_and_set"] == 0
    async with asyncio.timeout(5):
        while True:
            try:
                assert await guarded.read_record("domain/a") is None
                break
            except StoreUnavailable:
                await asyncio.sleep(0.01)
    inner.failures = 2
    for _ in range(2):  # closed again: counted from the beginning
        with pytest.raises(StoreUnavailable, match="connection reset"):
            await guarded.read_record("domain/a")
    assert await guarded.read_record("domain/a") is None


async def test_only_what_the_store_fails_at_opens_the_breaker() -> None:
    """Law: refusals, absent blobs, callers who give up and a failing feed leave the breaker as it is."""
    inner = Ailing()
    guarded = GuardedBackend(inner, attempts=1, pause_s=0.001, breaker_failures=2, breaker_s=60.0)
    for _ in range(4):
        with pytest.raises(BlobMissing):
            await guarded.get_blob(digest(b"x"))
        with pytest.raises(MalformedRecord):
            await guarded.read_record("broken")
        inner.failures = 1
        with pytest.raises(StoreUnavailable, match="connection reset"):
            await guarded.changes(None, 0.0)
        inner.stalled = True
        task = asyncio.create_task(guarded.read_record("domain/a"))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        inner.stalled = False
    assert await guarded.read_record("domain/a") is None


async def test_a_caller_who_gives_up_does_not_heal_the_breaker() -> None:
    """Law: a cancelled call says nothing, neither for nor against the store."""
    inner = Ailing()
    guarded = GuardedBackend(inner, attempts=1, pause_s=0.001, breaker_failures=2, breaker_s=60.0)
    for _ in range(2):
        inner.stalled = True
        task = asyncio.create_task(guarded.read_record("domain/a"))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        inner.stalled, inner.failures = False, 1
        with pytest.raises(StoreUnavailable, match="connection reset"):
            await guarded.read_record("domain/a")
    with pytest.raises(StoreUnavailable, match="left alone"):
        await guarded.read_record("domain/a")


async def test_store_that_may_not_be_written_is_read_only() -> None:
    """Law: no write goes out before the store was asked; a refusal is told each time, and reading goes on."""
    inner = Ailing()
    inner.refusing = True
    guarded = GuardedBackend(inner, **TINY)
    for write in (*WRITES.values(), lambda backend: backend.put_blob(digest(b"x"), b"x")):
        with pytest.raises(StoreRefused, match="it may evict"):
            await write(guarded)
    assert set(inner.calls) == {"prepare_writing"}
    assert await guarded.read_record("domain/a") is None
    inner.refusing = False
    assert await guarded.compare_and_set("domain/a", 0, record(1))
    asked = inner.calls["prepare_writing"]
    assert await guarded.compare_and_set("domain/a", 1, record(2))
    assert inner.calls["prepare_writing"] == asked


async def test_who_waits_for_the_first_question_waits_once() -> None:
    """Law: however many write first to a store that does not answer, all fail with the one question that was asked."""

    class Asked(Ailing):
        """Answers when it is let."""

        def __init__(self) -> None:
            super().__init__()
            self.asked, self.let = asyncio.Event(), asyncio.Event()

        async def prepare_writing(self) -> None:
            """See Backend."""
            await super().prepare_writing()
            self.asked.set()
            await self.let.wait()
            raise StoreUnavailable("connection reset")

    inner = Asked()
    guarded = GuardedBackend(inner, **TINY)
    writers = [asyncio.create_task(guarded.compare_and_set("domain/a", 0, record(1))) for _ in range(20)]
    await inner.asked.wait()
    writers[0].cancel()  # who gives up takes the answer from nobody
    inner.let.set()
    outcomes = await asyncio.gather(*writers, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes[1:]} == {StoreUnavailable}
    assert inner.calls == {"prepare_writing": 1}
    with pytest.raises(StoreUnavailable):
        await guarded.compare_and_set("domain/a", 0, record(1))
    assert inner.calls == {"prepare_writing": 2}
