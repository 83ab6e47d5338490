"""`redis://`, `redis+sentinel://`, `redis+cluster://`: blobs, records and their feed in Redis or Valkey.

::

    <prefix>:blob:<digest>             the bytes, or for a large one a hash {parts, bytes}, written after its parts
    <prefix>:part:<digest>:<number>    of a large blob
    <prefix>:{<tag>}:record:<key>      <version> LF <canonical JSON>; version = <generation>-<sha1>
    <prefix>:{<tag>}:versions          hash: key -> version
    <prefix>:{<tag>}:feed              stream of events, the newest 10,000
    <prefix>:{<tag>}:last              id of the newest event
    <prefix>:{<tag>}:confirmed         written to learn whether the replicas have what was written before

The tag of a record, 00 to 63, follows from its key: the four keys of a tag share a slot of a cluster, so one script
changes them together, and the tags spread over its shards. A record's version is checked whenever it is read.

A user needs the commands DEL, ECHO, EVAL, EVALSHA, EXISTS, GET, GETRANGE, HDEL, HGET, HGETALL, HKEYS, HSET, INFO, MGET,
SCAN, SET, UNLINK, WAIT, XADD and XREAD on `<prefix>:*`; in a cluster also ASKING, CLUSTER SLOTS and COMMAND.

As the truth it must be append-only and must not evict; see `RedisBackend.prepare_writing`. Redis by itself may lose
acknowledged writes with the primary's machine: `appendfsync` and `min_replicas` say how many, `redis+s3://` loses none.
"""

import asyncio
import secrets
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from adapters_store.backend import Backend, Change, Changes, Versioned
from adapters_store.bounds import ANY_BLOB, Bound
from adapters_store.errors import StoreUnavailable
from adapters_store.redis_blobs import PART_BYTES, RedisBlobs
from adapters_store.redis_cluster import ClusterLink
from adapters_store.redis_feed import (
    MARK_BITS,
    Event,
    Id,
    follow,
    format_id,
    keys_of,
    pack,
    parse_events,
    parse_id,
    unpack,
)
from adapters_store.redis_links import BATCH_COMMANDS, Command, Link, script_command
from adapters_store.redis_promises import check_promises
from adapters_store.redis_records import fits, form_stored, parse_stored
from adapters_store.redis_scripts import HINT, KEPT_EVENTS, REMOVE, REPLACE
from adapters_store.redis_single import SingleLink
from adapters_store.redis_urls import parse_redis_url

TAGS = 64

# Records, and tags whose versions, that are asked for in one go: parsing those of a large store all at once would hold
# up the event loop.
_READ = 1024
_SWEPT = 8
_TOLD = 1024  # events in one answer, over all tags
_VALUE = 11  # where in EVALSHA's arguments the record is


class RedisBackend(Backend):
    """A store in Redis; it belongs to one event loop.

    Args:
        link: The way to it.
        prefix: Of every key; kept as an attribute.
        as_cache: Nothing here has to last: neither eviction nor a missing append-only file is refused.
        part_bytes: Blobs above this are kept in parts.
        kept_events: Events that a tag's stream keeps.
    """

    def __init__(
        self,
        link: Link,
        prefix: str,
        *,
        as_cache: bool = False,
        part_bytes: int = PART_BYTES,
        kept_events: int = KEPT_EVENTS,
    ) -> None:
        self._link = link
        self.prefix = prefix
        self._as_cache = as_cache
        self._blobs = RedisBlobs(link, prefix, part_bytes)
        self._kept_events = kept_events
        self._versions = [f"{prefix}:{{{tag:02d}}}:versions" for tag in range(TAGS)]
        self._feeds = [f"{prefix}:{{{tag:02d}}}:feed" for tag in range(TAGS)]
        self._lasts = [f"{prefix}:{{{tag:02d}}}:last" for tag in range(TAGS)]

    async def prepare_writing(self) -> None:
        """See Backend; asks INFO of every primary.

        Raises:
            StoreRefused: One may evict, keeps no append-only file, or forbids INFO; what to change is named.
        """
        if self._as_cache:
            return
        await check_promises(self._link)

    async def put_blob(self, digest: str, content: bytes) -> None:
        """See Backend."""
        await self._blobs.put({digest: content})

    async def put_blobs(self, blobs: Mapping[str, bytes]) -> None:
        """See Backend."""
        await self._blobs.put(blobs)

    async def get_blob(self, digest: str, bound: Bound = ANY_BLOB) -> bytes:
        """See Backend."""
        return await self._blobs.get(digest, bound)

    async def has_blob(self, digest: str) -> bool:
        """See Backend."""
        return digest in await self._blobs.has([digest])

    async def has_blobs(self, digests: Sequence[str]) -> set[str]:
        """See Backend."""
        return await self._blobs.has(digests)

    async def list_blobs(self) -> list[str]:
        """See Backend."""
        return await self._blobs.names()

    async def delete_blob(self, digest: str) -> None:
        """See Backend."""
        await self._blobs.delete(digest)

    async def read_record(self, key: str) -> Versioned | None:
        """See Backend."""
        return (await self.read_records([key])).get(key)

    async def read_records(self, keys: Sequence[str]) -> dict[str, Versioned]:
        """See Backend; one that does not fit its version is read once more, the connection may have bent it."""
        found: dict[str, Versioned] = {}
        for start in range(0, len(keys), _READ):
            values = await self._values(keys[start : start + _READ])
            values |= await self._values([key for key, value in values.items() if not fits(key, value)])
            found |= {key: parse_stored(key, value) for key, value in values.items()}
            await asyncio.sleep(0)
        return found

    async def compare_and_set(self, key: str, expected: int, record: Mapping[str, Any]) -> bool:
        """See Backend."""
        (done,) = await self.compare_and_set_many([Change(key, expected, record)])
        return done

    async def compare_and_set_many(self, changes: Sequence[Change]) -> list[bool]:
        """See Backend; those of one pipeline are carried out in their order."""
        commands = (self._replace(change) for change in changes)
        replies = await self._link.send_all(commands, int, size_bytes=lambda command: len(command.args[_VALUE]))
        return [_done(reply) for reply in replies]

    async def confirm(self, keys: Sequence[str]) -> None:
        """See Backend; replication keeps the order of writes, so one write more to each tag is waited for."""
        if self._link.min_replicas > 0:
            names = sorted({f"{self.prefix}:{{{_tag(key):02d}}}:confirmed" for key in keys})
            await self._link.send_all([Command(name, ("SET", name, "1"), writes=True) for name in names], bytes)

    async def delete_record(self, key: str, expected: int) -> bool:
        """See Backend."""
        order = script_command(REMOVE, self._keys(key), key, _mark(), self._kept_events, expected)
        return _done((await self._link.send_all([order], int))[0])

    async def list_records(self, prefix: str, after: str = "", limit: int | None = None) -> list[str]:
        """See Backend."""
        found = await self._sweep("HKEYS")
        return sorted(key for key in found if key.startswith(prefix) and key > after)[:limit]

    async def versions(self, prefix: str) -> dict[str, str]:
        """See Backend."""
        found = await self._sweep("HGETALL")
        return {key: held for key, held in zip(found[::2], found[1::2], strict=False) if key.startswith(prefix)}

    async def changes(self, position: str | None, wait_s: float) -> Changes:
        """See Backend; a broken connection is StoreUnavailable, and the same position may be asked for again."""
        at = unpack(position, TAGS)
        if at is None:
            return Changes(frozenset(), pack(await self._newest()), resync=True)
        until = asyncio.get_running_loop().time() + wait_s
        while True:
            newest = await self._newest()
            moved = [tag for tag in range(TAGS) if newest[tag] != at[tag]]
            if moved:
                return await self._changes(at, newest, moved)
            left = until - asyncio.get_running_loop().time()
            if left <= 0:
                return Changes(frozenset(), pack(at))
            await self._link.wait_for_event(dict(zip(self._feeds, map(format_id, at), strict=True)), left)

    async def hint(self, key: str) -> None:
        """Tell the feed's readers that a record changed which is kept elsewhere.

        Args:
            key: Of the record.

        Raises:
            StoreUnavailable: Unknown whether they will hear of it.
        """
        await self._link.send_all([script_command(HINT, self._keys(key), key, _mark(), self._kept_events)], int)

    async def close(self) -> None:
        """See Backend."""
        await self._link.close()

    async def _values(self, keys: Sequence[str]) -> dict[str, bytes]:
        tagged: dict[int, list[str]] = {}
        for key in dict.fromkeys(keys):
            tagged.setdefault(_tag(key), []).append(key)
        groups = [mine[i : i + BATCH_COMMANDS] for mine in tagged.values() for i in range(0, len(mine), BATCH_COMMANDS)]
        orders = []
        for group in groups:
            names = [self._keys(key)[0] for key in group]
            orders.append(Command(names[0], ("MGET", *names)))
        replies = await self._link.send_all(orders, list, size_bytes=lambda command: 512 * len(command.args))
        return {
            key: value
            for group, values in zip(groups, replies, strict=True)
            for key, value in zip(group, self._link.strings(values, len(group)), strict=True)
            if value is not None
        }

    async def _sweep(self, order: str) -> list[str]:
        commands = [Command(key, (order, key)) for key in self._versions]
        found: list[str] = []
        for start in range(0, TAGS, _SWEPT):
            for reply in await self._link.send(commands[start : start + _SWEPT]):
                found += self._link.texts(reply)
            await asyncio.sleep(0)
        return found

    async def _newest(self) -> list[Id]:
        try:
            return [parse_id(last) for last in await self._link.get_all(self._lasts)]
        except ValueError as error:
            raise StoreUnavailable(f"store {self.prefix!r}: {error}") from None

    async def _changes(self, at: Sequence[Id], newest: Sequence[Id], moved: Sequence[int]) -> Changes:
        count = max(1, _TOLD // len(moved))
        events = await self._events(at, moved, count)
        reached = list(at)
        for tag in moved:
            followed = follow(at[tag], newest[tag], events[tag], whole=len(events[tag]) < count)
            if followed is None:
                return Changes(keys_of(events), pack(newest), resync=True)
            reached[tag] = followed
        return Changes(keys_of(events), pack(reached))

    async def _events(self, at: Sequence[Id], moved: Sequence[int], count: int) -> dict[int, list[Event]]:
        positions = {self._feeds[tag]: format_id(at[tag]) for tag in moved}
        try:
            replies = await self._link.read_streams(positions, count)
            return {tag: parse_events(reply) for tag, reply in zip(moved, replies, strict=True)}
        except ValueError as error:
            raise StoreUnavailable(f"store {self.prefix!r}: {error}") from None

    def _replace(self, change: Change) -> Command:
        value, held = form_stored(change.key, change.record)
        return script_command(
            REPLACE, self._keys(change.key), change.key, _mark(), self._kept_events, change.expected, value, held
        )

    def _keys(self, key: str) -> tuple[str, str, str, str]:
        tag = _tag(key)
        record = f"{self.prefix}:{{{tag:02d}}}:record:{key}"
        return record, self._versions[tag], self._feeds[tag], self._lasts[tag]


def open_redis(url: str, *, timeout_s: float, as_cache: bool = False) -> RedisBackend:
    """Open the store that a Redis URL names; nothing is connected before the first call.

    Args:
        url: See `redis_urls`.
        timeout_s: Longest wait for a connection, and for each answer.
        as_cache: Nothing here has to last: eviction is allowed, and replicas are not waited for.

    Returns:
        The backend; the caller closes it.

    Raises:
        BadId: The URL is not of a form that Redis stores have.
    """
    target = parse_redis_url(url)
    if as_cache:
        target = replace(target, min_replicas=0)
    link = ClusterLink(target, timeout_s) if target.topology == "cluster" else SingleLink(target, timeout_s)
    return RedisBackend(link, target.prefix, as_cache=as_cache)


def _tag(key: str) -> int:
    return zlib.crc32(key.encode()) % TAGS


def _mark() -> int:
    return secrets.randbits(MARK_BITS)


def _done(reply: Any) -> bool:
    if type(reply) is not int or reply not in (0, 1):
        raise StoreUnavailable(f"outcome unknown: a script answered {reply!r} instead of 0 or 1")
    return reply == 1
