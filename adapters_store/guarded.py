"""Bounds what a store far away can cost: total waiting, retries where they are safe, and a breaker for a dead one."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import stamina
from purgatory import AsyncCircuitBreakerFactory
from purgatory.domain.model import OpenedState

from adapters_store.backend import Backend, Change, Changes, Versioned
from adapters_store.bounds import ANY_BLOB, Bound
from adapters_store.errors import StoreUnavailable

T = TypeVar("T")

_CIRCUIT = "store"
_PROMISED_S = 60.0
_SLOWEST_BYTES_S = 2**20
# An attempt ends a little before the call does, so that it is the attempt that fails and the breaker hears of it.
_ATTEMPT_SHARE = 0.98


class GuardedBackend(Backend):
    """Another backend, with bounds.

    What may be repeated (reading, and storing a blob under its digest) is tried again after a failure, with growing
    jittered pauses. A compare-and-set or a deletion is sent once: a second one could answer for the first. The store is
    asked whether it may be written before the first write goes out, and again after a failure or a minute.

    Args:
        inner: Where calls go.
        deadline_s: Longest time that a call about single records or blobs' presence takes, retries included, seconds.
        bulk_s: The same for a call about many records or a listing, and for storing blobs, there with time for their
            bytes on a slow line on top.
        fetch_s: The same for fetching a blob, whose size nobody knows before; a store that falls silent fails sooner,
            by its own time-out.
        attempts: How often at most something safe is tried.
        pause_s: First pause between attempts, seconds; it doubles.
        breaker_failures: So many failures in a row open the breaker: calls then fail at once.
        breaker_s: So long, seconds, until one is let through again.
    """

    def __init__(
        self,
        inner: Backend,
        *,
        deadline_s: float = 5.0,
        bulk_s: float = 60.0,
        fetch_s: float = 600.0,
        attempts: int = 3,
        pause_s: float = 0.05,
        breaker_failures: int = 8,
        breaker_s: float = 2.0,
    ) -> None:
        self._inner = inner
        self._deadline_s = deadline_s
        self._bulk_s = bulk_s
        self._fetch_s = fetch_s
        self._attempts = attempts
        self._pause_s = pause_s
        self._breakers = AsyncCircuitBreakerFactory(breaker_failures, breaker_s)
        self._preparing: asyncio.Task[None] | None = None
        self._promised_until = -math.inf

    @property
    def inner(self) -> Backend:
        """Where calls go."""
        return self._inner

    async def prepare_writing(self) -> None:
        """See Backend; an answer holds for a minute, or until a call fails: another server may have taken over.

        Who comes while the store is being asked waits for the same answer.
        """
        if asyncio.get_running_loop().time() < self._promised_until:
            return
        if self._preparing is None:
            self._preparing = asyncio.create_task(self._prepare())
            # it goes on without the one who began it, perhaps to nobody's hearing
            self._preparing.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.shield(self._preparing)

    async def put_blob(self, digest: str, content: bytes) -> None:
        """See Backend."""
        await self.prepare_writing()
        await self._repeated(lambda: self._inner.put_blob(digest, content), self._sending_s(len(content)))

    async def put_blobs(self, blobs: Mapping[str, bytes]) -> None:
        """See Backend."""
        await self.prepare_writing()
        size = sum(map(len, blobs.values()))
        await self._repeated(lambda: self._inner.put_blobs(blobs), self._sending_s(size))

    async def get_blob(self, digest: str, bound: Bound = ANY_BLOB) -> bytes:
        """See Backend."""
        return await self._repeated(lambda: self._inner.get_blob(digest, bound), self._fetch_s)

    async def blob_path(self, digest: str, bound: Bound = ANY_BLOB) -> Path | None:
        """See Backend."""
        return await self._repeated(lambda: self._inner.blob_path(digest, bound), self._fetch_s)

    async def has_blob(self, digest: str) -> bool:
        """See Backend."""
        return await self._repeated(lambda: self._inner.has_blob(digest), self._deadline_s)

    async def has_blobs(self, digests: Sequence[str]) -> set[str]:
        """See Backend."""
        return await self._repeated(lambda: self._inner.has_blobs(digests), self._bulk_s)

    async def list_blobs(self) -> list[str]:
        """See Backend."""
        return await self._repeated(self._inner.list_blobs, self._bulk_s)

    async def delete_blob(self, digest: str) -> None:
        """See Backend."""
        await self.prepare_writing()
        await self._once(lambda: self._inner.delete_blob(digest), self._deadline_s)

    async def read_record(self, key: str) -> Versioned | None:
        """See Backend."""
        return await self._repeated(lambda: self._inner.read_record(key), self._deadline_s)

    async def read_records(self, keys: Sequence[str]) -> dict[str, Versioned]:
        """See Backend."""
        return await self._repeated(lambda: self._inner.read_records(keys), self._bulk_s)

    async def compare_and_set(self, key: str, expected: int, record: Mapping[str, Any]) -> bool:
        """See Backend; sent once."""
        await self.prepare_writing()
        return await self._once(lambda: self._inner.compare_and_set(key, expected, record), self._deadline_s)

    async def compare_and_set_many(self, changes: Sequence[Change]) -> list[bool]:
        """See Backend; sent once."""
        await self.prepare_writing()
        return await self._once(lambda: self._inner.compare_and_set_many(changes), self._bulk_s)

    async def confirm(self, keys: Sequence[str]) -> None:
        """See Backend."""
        await self._repeated(lambda: self._inner.confirm(keys), self._deadline_s)

    async def delete_record(self, key: str, expected: int) -> bool:
        """See Backend; sent once."""
        await self.prepare_writing()
        return await self._once(lambda: self._inner.delete_record(key, expected), self._deadline_s)

    async def list_records(self, prefix: str, after: str = "", limit: int | None = None) -> list[str]:
        """See Backend."""
        return await self._repeated(lambda: self._inner.list_records(prefix, after, limit), self._bulk_s)

    async def versions(self, prefix: str) -> dict[str, str]:
        """See Backend."""
        return await self._repeated(lambda: self._inner.versions(prefix), self._bulk_s)

    async def changes(self, position: str | None, wait_s: float) -> Changes:
        """See Backend; bounded by the waiting asked for and a call's deadline, and nothing to the breaker."""
        try:
            return await _bounded(lambda: self._inner.changes(position, wait_s), wait_s + self._bulk_s)
        except StoreUnavailable:
            self._promised_until = -math.inf
            raise

    async def close(self) -> None:
        """See Backend."""
        if self._preparing is not None:
            self._preparing.cancel()
        await self._inner.close()

    async def _prepare(self) -> None:
        try:
            await self._once(self._inner.prepare_writing, self._bulk_s)
            self._promised_until = asyncio.get_running_loop().time() + _PROMISED_S
        finally:
            self._preparing = None

    def _sending_s(self, size_bytes: int) -> float:
        return self._bulk_s + size_bytes / _SLOWEST_BYTES_S

    async def _repeated(self, work: Callable[[], Awaitable[T]], limit_s: float) -> T:
        """Try what is safe to repeat, within one bound for all attempts and pauses."""
        until = asyncio.get_running_loop().time() + limit_s

        async def attempts() -> T:
            async for attempt in stamina.retry_context(
                on=_may_pass,
                attempts=self._attempts,
                timeout=None,
                wait_initial=self._pause_s,
                wait_max=limit_s,
                wait_jitter=self._pause_s,
            ):
                with attempt:
                    left = until - asyncio.get_running_loop().time()
                    return await self._counted(work, left * _ATTEMPT_SHARE)
            raise AssertionError("stamina raises what the last attempt raised")

        try:
            return await _bounded(attempts, limit_s)
        except _Open as error:
            raise StoreUnavailable(str(error)) from None

    async def _once(self, work: Callable[[], Awaitable[T]], limit_s: float) -> T:
        try:
            return await self._counted(work, limit_s)
        except _Open as error:
            raise StoreUnavailable(str(error)) from None

    async def _counted(self, work: Callable[[], Awaitable[T]], limit_s: float) -> T:
        """One attempt, whose failure the breaker counts; one that the caller gives up says nothing of the store."""
        breaker = await self._breakers.get_breaker(_CIRCUIT)
        try:
            breaker.context.handle_new_request()
        except OpenedState:
            raise _Open("the store failed several times in a row and is left alone for a moment: try again") from None
        try:
            result = await _bounded(work, limit_s)
        except StoreUnavailable as error:
            self._promised_until = -math.inf
            await self._tell(error)
            raise
        except Exception:
            await self._tell(None)  # it answered, if only to refuse
            raise
        await self._tell(None)
        return result

    async def _tell(self, failure: StoreUnavailable | None) -> None:
        try:
            async with await self._breakers.get_breaker(_CIRCUIT):
                if failure is not None:
                    raise failure
        except (StoreUnavailable, OpenedState):  # others may have opened it since
            return


class _Open(Exception):
    """The breaker lets nothing through."""


def _may_pass(error: Exception) -> bool:
    return isinstance(error, StoreUnavailable)


async def _bounded(work: Callable[[], Awaitable[T]], limit_s: float) -> T:
    try:
        async with asyncio.timeout(limit_s):
            return await work()
    except TimeoutError:
        raise StoreUnavailable(f"the store did not answer within {limit_s:.3g} s") from None
