"""One Redis server, or the primary that Sentinels name."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from redis.asyncio import Redis  # its types have holes: hence the two ignores below
from redis.asyncio.sentinel import Sentinel

from adapters_store.redis_links import BROKEN, CONNECTIONS, Command, Link, changed, client_options, keep_raw
from adapters_store.redis_urls import Target

# One blocking read of the feed: so often a wiped or replaced stream is looked for.
_SLICE_S = 2.0
# Events that follow each other closely are told together: a storm of them costs a reader 50 answers a second, not 1000.
_GATHER_S = 0.02


class SingleLink(Link):
    """One server, or the primary that the Sentinels name at the time of each connection.

    Args:
        target: See Link.
        timeout_s: Longest wait for a connection, and for each answer.
    """

    def __init__(self, target: Target, timeout_s: float) -> None:
        super().__init__(target)
        options = client_options(target, timeout_s)
        patient = options | {"socket_timeout": timeout_s + _SLICE_S}
        self._places = asyncio.Semaphore(CONNECTIONS)
        self._sentinel: Sentinel | None = None
        if target.topology == "sentinel":
            login = {"username": target.sentinel_user, "password": target.sentinel_password, "db": 0}
            sentinel = Sentinel(target.hosts, sentinel_kwargs=options | login)  # type: ignore[no-untyped-call]
            self._sentinel = sentinel
            self._client: Redis = sentinel.master_for(target.service, **options)
            self._feed: Redis = sentinel.master_for(target.service, **patient)
        else:
            host, port = target.hosts[0]
            self._client = Redis(host=host, port=port, **options)
            self._feed = Redis(host=host, port=port, **patient)
        self._numbers = itertools.count()
        keep_raw(self._client)
        keep_raw(self._feed)

    async def get_all(self, keys: Sequence[str]) -> list[bytes | None]:
        """See Link: one command."""
        (found,) = await self.send([Command(keys[0], ("MGET", *keys))])
        return self.strings(found, len(keys))

    async def read_streams(self, positions: Mapping[str, str], count: int) -> list[Any]:
        """See Link: one command."""
        order = ("XREAD", "COUNT", count, "STREAMS", *positions.keys(), *positions.values())
        (reply,) = await self.send([Command(next(iter(positions)), order)])
        named = {}
        for one in self.answer(reply, list, type(None)) or []:
            stream, _ = self.answer(one, list)
            named[self.answer(stream, bytes).decode("latin-1")] = [one]
        return [named.get(stream) for stream in positions]

    async def on_primaries(self, *args: Any) -> dict[str, Any]:
        """See Link."""
        (reply,) = await self.send([Command("", args)])
        return {self._target.shown: reply}

    async def scan(self, pattern: str) -> AsyncIterator[list[bytes]]:
        """See Link."""
        cursor = 0
        while True:
            (reply,) = await self.send([Command("", ("SCAN", cursor, "MATCH", pattern, "COUNT", 1000))])
            cursor, names = self.page(reply)
            yield names
            if cursor == 0:
                return

    async def wait_for_event(self, positions: Mapping[str, str], longest_s: float) -> None:
        """See Link: one blocking read of all streams."""
        block_ms = max(1, int(1000 * min(longest_s, _SLICE_S)))
        order = ("XREAD", "COUNT", 1, "BLOCK", block_ms, "STREAMS", *positions.keys(), *positions.values())
        with self.reported():
            found = await self._feed.execute_command(*order)  # type: ignore[no-untyped-call]
        if found:
            await asyncio.sleep(min(_GATHER_S, longest_s))

    async def close(self) -> None:
        """See Link."""
        with self.reported():
            await self._client.aclose()
            await self._feed.aclose()
            for sentinel in self._sentinel.sentinels if self._sentinel else ():
                await sentinel.aclose()

    async def _exchange(self, commands: Sequence[Command]) -> list[Any]:
        async with self._places:
            try:
                replies = await self._send(commands)
            except BROKEN:
                # What broke one connection has most likely broken those that wait idle: they need not fail a call each.
                with suppress(*BROKEN):
                    await self._client.connection_pool.disconnect(inuse_connections=False)
                raise
        return replies

    async def _send(self, commands: Sequence[Command]) -> list[Any]:
        pipeline, number = self._client.pipeline(transaction=False), next(self._numbers)
        for command in commands:
            pipeline.execute_command(*command.args)
        waits = self._target.min_replicas > 0 and any(command.writes for command in commands)
        if waits:
            pipeline.execute_command("WAIT", self._target.min_replicas, self._target.wait_ms)
        pipeline.execute_command("ECHO", number)
        replies: list[Any] = await pipeline.execute(raise_on_error=False)
        self.check_step(number, replies.pop())
        if waits:
            reached = replies.pop()
            if changed(commands, replies):
                self.check_replicas(reached)
        return replies
