"""`redis+s3://bucket/prefix?redis=redis://host:6379/0`: object storage is the truth, Redis makes it fast.

Redis keeps blobs for reading and carries hints of what changed. Nothing depends on it: every byte it gives is checked,
nothing is acknowledged because of it, and what it fails to tell the truth's own feed tells some seconds later. All of
it may be lost at any moment. A Redis that fails or is slow costs one short time-out; then it is left alone for a while.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit

from adapters_store.backend import Backend, Change, Changes, Versioned, in_flight
from adapters_store.bounds import ANY_BLOB, Bound
from adapters_store.canonical import digest as digest_of
from adapters_store.errors import BadId, BlobMissing, LimitExceeded, StoreError, StoreUnavailable
from adapters_store.objects import ObjectBackend, open_objects
from adapters_store.redis import RedisBackend, open_redis
from adapters_store.timed import Told

T = TypeVar("T")

CACHE_TIMEOUT_S = 0.25
REST_S = 5.0
LARGEST_BYTES = 8 << 20
# How much a cache has to take or give in a second, beyond the time-out, and what is hashed without leaving the loop.
_CACHE_BYTES_S = 64 << 20
_HASHED_AT_ONCE = 1 << 20
_HINTS = 256


class LayeredBackend(Backend):
    """A truth with a Redis before it.

    Args:
        truth: Holds everything; the only one that is asked whether something is there.
        cache: Holds copies of blobs, and the hints.
        cache_timeout_s: What one call to the cache may take, seconds; a little more for many bytes.
        rest_s: How long the cache is not asked after it failed, seconds.
        largest_bytes: Blobs above this are not kept in the cache.
        clock: Seconds, monotonic.
        told: Called after each call to the cache, as `timed.TimedBackend` calls it: nobody else hears of its failures.
    """

    def __init__(
        self,
        truth: Backend,
        cache: RedisBackend,
        *,
        cache_timeout_s: float = CACHE_TIMEOUT_S,
        rest_s: float = REST_S,
        largest_bytes: int = LARGEST_BYTES,
        clock: Callable[[], float] = time.monotonic,
        told: Told = lambda operation, seconds, error: None,
    ) -> None:
        self._told = told
        self._truth = truth
        self._cache = cache
        self._cache_timeout_s = cache_timeout_s
        self._rest_s = rest_s
        self._largest_bytes = largest_bytes
        self._clock = clock
        self._rests_until = -float("inf")

    @property
    def truth(self) -> Backend:
        """What is behind the cache."""
        return self._truth

    async def prepare_writing(self) -> None:
        """See Backend; what Redis promises does not matter."""
        await self._truth.prepare_writing()

    async def put_blob(self, digest: str, content: bytes) -> None:
        """See Backend."""
        await self._truth.put_blob(digest, content)
        await self._keep({digest: content})

    async def put_blobs(self, blobs: Mapping[str, bytes]) -> None:
        """See Backend."""
        await self._truth.put_blobs(blobs)
        await self._keep(blobs)

    async def get_blob(self, digest: str, bound: Bound = ANY_BLOB) -> bytes:
        """See Backend; a copy that is not what its name says is replaced."""
        held = replace(bound, size_bytes=min(bound.size_bytes, self._largest_bytes))
        kept = await self._asked("get_blob", lambda: self._cache.get_blob(digest, held), self._largest_bytes)
        if kept is not None and await _is(digest, kept):
            return kept
        content = await self._truth.get_blob(digest, bound)
        if len(content) <= self._largest_bytes and await _is(digest, content):
            await self._keep({digest: content})
        return content

    async def blob_path(self, digest: str, bound: Bound = ANY_BLOB) -> Path | None:
        """See Backend."""
        return await self._truth.blob_path(digest, bound)

    async def has_blob(self, digest: str) -> bool:
        """See Backend; a copy proves nothing."""
        return await self._truth.has_blob(digest)

    async def has_blobs(self, digests: Sequence[str]) -> set[str]:
        """See Backend."""
        return await self._truth.has_blobs(digests)

    async def list_blobs(self) -> list[str]:
        """See Backend."""
        return await self._truth.list_blobs()

    async def delete_blob(self, digest: str) -> None:
        """See Backend; the copy goes first, for nobody would come back for it."""
        await self._asked("delete_blob", lambda: self._cache.delete_blob(digest))
        await self._truth.delete_blob(digest)

    async def read_record(self, key: str) -> Versioned | None:
        """See Backend."""
        return await self._truth.read_record(key)

    async def read_records(self, keys: Sequence[str]) -> dict[str, Versioned]:
        """See Backend."""
        return await self._truth.read_records(keys)

    async def compare_and_set(self, key: str, expected: int, record: Mapping[str, Any]) -> bool:
        """See Backend."""
        try:
            done = await self._truth.compare_and_set(key, expected, record)
        except StoreUnavailable:
            await self._hint([key])  # it may have happened
            raise
        await self._hint([key] if done else [])
        return done

    async def compare_and_set_many(self, changes: Sequence[Change]) -> list[bool]:
        """See Backend."""
        done = await self._truth.compare_and_set_many(changes)
        await self._hint([change.key for change, written in zip(changes, done, strict=True) if written])
        return done

    async def confirm(self, keys: Sequence[str]) -> None:
        """See Backend."""
        await self._truth.confirm(keys)

    async def delete_record(self, key: str, expected: int) -> bool:
        """See Backend."""
        done = await self._truth.delete_record(key, expected)
        await self._hint([key] if done else [])
        return done

    async def list_records(self, prefix: str, after: str = "", limit: int | None = None) -> list[str]:
        """See Backend."""
        return await self._truth.list_records(prefix, after, limit)

    async def versions(self, prefix: str) -> dict[str, str]:
        """See Backend."""
        return await self._truth.versions(prefix)

    async def changes(self, position: str | None, wait_s: float) -> Changes:
        """See Backend; whichever tells first, a hint or the truth's own feed.

        A hint comes after the write that it tells of, so reading behind it finds what was written. Hints that were lost
        need no re-sync: the truth's feed misses nothing, it is only slower.
        """
        truth_at, _, hints_at = (position or "").rpartition("|")
        if not hints_at:
            # asked before the truth is: a change between the two is told twice rather than not at all
            newest = await self._asked("changes", lambda: self._cache.changes(None, 0))
            hints_at = newest.position if newest else ""
        if not truth_at:
            told = await self._truth.changes(None, wait_s)
            return Changes(told.keys, f"{told.position}|{hints_at}", told.resync)
        by_truth = asyncio.create_task(self._truth.changes(truth_at, wait_s))
        by_hint = asyncio.create_task(self._hinted(hints_at, wait_s))
        try:
            await asyncio.wait((by_truth, by_hint), return_when=asyncio.FIRST_COMPLETED)
            if by_hint.done() and not by_hint.result().keys:
                hints_at = by_hint.result().position
                await asyncio.wait((by_truth,))
            truth = by_truth.result() if by_truth.done() else Changes(frozenset(), truth_at)
            hints = by_hint.result() if by_hint.done() else Changes(frozenset(), hints_at)
            return Changes(truth.keys | hints.keys, f"{truth.position}|{hints.position}", truth.resync)
        finally:
            by_truth.cancel()
            by_hint.cancel()
            await asyncio.gather(by_truth, by_hint, return_exceptions=True)

    async def close(self) -> None:
        """See Backend."""
        with suppress(StoreError, TimeoutError):
            async with asyncio.timeout(self._cache_timeout_s):
                await self._cache.close()
        await self._truth.close()

    async def _keep(self, blobs: Mapping[str, bytes]) -> None:
        fit = {name: content for name, content in blobs.items() if len(content) <= self._largest_bytes}
        if fit:
            await self._asked("put_blobs", lambda: self._cache.put_blobs(fit), sum(map(len, fit.values())))

    async def _hint(self, keys: Sequence[str]) -> None:
        for start in range(0, len(keys), _HINTS):
            part = keys[start : start + _HINTS]
            await self._asked("hint", partial(in_flight, part, self._cache.hint))

    async def _hinted(self, position: str, wait_s: float) -> Changes:
        """What Redis tells, if it tells anything; it may come back or start anew while this waits."""
        loop = asyncio.get_running_loop()
        end = loop.time() + wait_s
        while (left := end - loop.time()) > 0:
            if not position:
                await asyncio.sleep(min(left, self._rest_s))
            told = await self._asked("changes", partial(self._cache.changes, position or None, left), more_s=left)
            position = told.position if told else ""
            if told and told.keys:
                return Changes(told.keys, position)
        return Changes(frozenset(), position)

    async def _asked(
        self, operation: str, ask: Callable[[], Awaitable[T]], size_bytes: int = 0, more_s: float = 0.0
    ) -> T | None:
        """What the cache answers, or None: where it has nothing, fails, is slow, or rests."""
        began = self._clock()
        if began < self._rests_until:
            return None
        try:
            async with asyncio.timeout(self._cache_timeout_s + size_bytes / _CACHE_BYTES_S + more_s):
                answer = await ask()
        except (BlobMissing, LimitExceeded):  # larger than any copy that was made here: none of ours
            self._told(operation, self._clock() - began, None)
            return None
        except (StoreError, TimeoutError) as error:
            self._told(operation, self._clock() - began, StoreUnavailable(str(error)))
            self._rests_until = self._clock() + self._rest_s
            return None
        self._told(operation, self._clock() - began, None)
        return answer


def open_layered(url: str, *, timeout_s: float, told: Told = lambda operation, seconds, error: None) -> LayeredBackend:
    """Open an object store with a Redis before it; nothing is connected yet.

    Args:
        url: `redis+s3://bucket/prefix?redis=redis://host:6379/0&endpoint=...`: the URL of an object store, and in
            `redis` that of a Redis (percent-encoded where it has options of its own). redis+gs and redis+az alike;
            rediss+s3 and the like insist on TLS to the Redis.
        timeout_s: Of the object store; Redis has a shorter one.
        told: Called after each call to Redis.

    Returns:
        The backend; the caller closes it.

    Raises:
        BadId: The URL cannot be used; the message says why.
    """
    objects, redis = _layers_of(url)
    truth = open_objects(objects, timeout_s=timeout_s)
    cache = open_redis(redis, timeout_s=min(timeout_s, CACHE_TIMEOUT_S), as_cache=True)
    return LayeredBackend(truth, cache, told=told)


def open_truth(url: str, *, timeout_s: float) -> ObjectBackend:
    """Open the object store alone, for who must not be told what a cache holds; nothing is connected yet.

    Args:
        url: As for `open_layered`.
        timeout_s: As for `open_layered`.

    Returns:
        The backend; the caller closes it.

    Raises:
        BadId: As `open_layered`.
    """
    return open_objects(_layers_of(url)[0], timeout_s=timeout_s)


def _layers_of(url: str) -> tuple[str, str]:
    """The URLs of the object store and of the Redis."""
    try:
        parts = urlsplit(url)
    except ValueError:  # its text may quote a password
        raise BadId("this is no store URL: check the name of the bucket") from None
    first, _, scheme = parts.scheme.partition("+")
    if first not in ("redis", "rediss") or scheme not in ("s3", "gs", "az"):
        raise BadId("a store with a Redis before it is named redis+s3://bucket/prefix?redis=redis://host:6379/0")
    options = parse_qsl(parts.query, keep_blank_values=True)
    caches = [value for name, value in options if name == "redis"]
    kinds = {"rediss"} if first == "rediss" else {"redis", "rediss"}
    if len(caches) != 1 or caches[0].partition("://")[0].partition("+")[0] not in kinds:
        raise BadId(f"a {parts.scheme}:// URL names its Redis once, as redis={first}://host:6379/0")
    others = urlencode([(name, value) for name, value in options if name != "redis"])
    return parts._replace(scheme=scheme, query=others).geturl(), caches[0]


async def _is(name: str, content: bytes) -> bool:
    if len(content) <= _HASHED_AT_ONCE:
        return digest_of(content) == name
    return await asyncio.to_thread(digest_of, content) == name
