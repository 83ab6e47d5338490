"""Blobs in Redis: small ones whole, large ones in parts."""

from collections.abc import Mapping, Sequence
from typing import Any

from adapters_store.bounds import Bound
from adapters_store.errors import BlobMissing, StoreUnavailable
from adapters_store.ids import is_revision
from adapters_store.redis_links import Command, Link

PART_BYTES = 16 << 20
_DIGITS = 18  # of a number that a blob's header holds


class RedisBlobs:
    """The blobs of one store; a method does what `Backend` says of its namesake for blobs.

    Args:
        link: The way to Redis.
        prefix: Of every key.
        part_bytes: Blobs above this are kept in parts.
    """

    def __init__(self, link: Link, prefix: str, part_bytes: int = PART_BYTES) -> None:
        self._link = link
        self._prefix = prefix
        self._part_bytes = part_bytes

    async def put(self, blobs: Mapping[str, bytes]) -> None:
        """See Backend."""
        small = (item for item in blobs.items() if len(item[1]) <= self._part_bytes)
        commands = (Command(key := self._blob(name), ("SET", key, content), writes=True) for name, content in small)
        await self._link.send_all(commands, bytes, size_bytes=lambda command: len(command.args[2]))
        for name, content in blobs.items():
            if len(content) > self._part_bytes:
                await self._put_large(name, content)

    async def get(self, digest: str, bound: Bound) -> bytes:
        """See Backend; one byte more than allowed is asked for, to tell what is too large from what just fits."""
        key = self._blob(digest)
        (found,) = await self._link.send([_first(key, bound.size_bytes + 1)])
        if self._link.is_other_type(found):
            return await self._get_large(digest, bound)
        content: bytes = self._link.answer(found, bytes)
        if not content and digest not in await self.has([digest]):  # GETRANGE makes no difference between the two
            raise BlobMissing(f"no blob {digest} in the store")
        bound.check(digest, len(content))
        return content

    async def has(self, digests: Sequence[str]) -> set[str]:
        """See Backend."""
        commands = (Command(key := self._blob(name), ("EXISTS", key)) for name in digests)
        found = await self._link.send_all(commands, int)
        return {name for name, there in zip(digests, found, strict=True) if there}

    async def names(self) -> list[str]:
        """See Backend; parts that an interrupted upload left are not listed, storing the same again takes them over."""
        start = self._blob("")
        found: set[str] = set()
        async for keys in self._link.scan(f"{start}*"):
            found.update(key.decode(errors="replace")[len(start) :] for key in keys)
        return sorted(name for name in found if is_revision(name))

    async def delete(self, digest: str) -> None:
        """See Backend; a large one's header goes first, so no reader sees half of it."""
        key = self._blob(digest)
        (header,) = await self._link.send([Command(key, ("HGET", key, "parts"))])
        parts = 0 if self._link.is_other_type(header) else self._number(header)
        await self._link.send_all([Command(key, ("DEL", key), writes=True)], int)
        names = (self._part(digest, number) for number in range(parts))
        await self._link.send_all((Command(name, ("UNLINK", name), writes=True) for name in names), int)

    async def _put_large(self, name: str, content: bytes) -> None:
        starts = range(0, len(content), self._part_bytes)
        view = memoryview(content)
        for number, start in enumerate(starts):
            key = self._part(name, number)
            part = view[start : start + self._part_bytes]
            await self._link.send_all([Command(key, ("SET", key, part), writes=True)], bytes)
        key = self._blob(name)
        header = ("HSET", key, "parts", len(starts), "bytes", len(content))
        (reply,) = await self._link.send([Command(key, header, writes=True)])
        if not self._link.is_other_type(reply):  # else a build that kept it whole was here before
            self._link.answer(reply, int)

    async def _get_large(self, name: str, bound: Bound) -> bytes:
        key = self._blob(name)
        header = await self._link.send([Command(key, ("HGET", key, field)) for field in ("parts", "bytes")])
        parts, size = (self._number(field) for field in header)
        bound.check(name, size)
        found: list[bytes] = []
        left = size
        for number in range(parts):
            part = self._part(name, number)
            (reply,) = await self._link.send([_first(part, left + 1)])  # parts may hold more than the header says
            found.append(self._link.answer(reply, bytes))
            left -= len(found[-1])
            if left < 0 or not found[-1]:
                break
        if left != 0 or len(found) != parts or not parts:
            raise BlobMissing(f"no blob {name} in the store: a part of it is gone, or another one")
        return b"".join(found)

    def _blob(self, name: str) -> str:
        return f"{self._prefix}:blob:{name}"

    def _part(self, name: str, number: int) -> str:
        return f"{self._prefix}:part:{name}:{number}"

    def _number(self, reply: Any) -> int:
        text: bytes = self._link.answer(reply, bytes, type(None)) or b"0"
        if not text.isdigit() or len(text) > _DIGITS:
            raise StoreUnavailable(f"the store {self._prefix!r} holds {text!r:.40} where a number must be")
        return int(text)


def _first(key: str, size_bytes: int) -> Command:
    """Asks for the first bytes of a string: b"" where there is none."""
    return Command(key, ("GETRANGE", key, 0, size_bytes - 1))
