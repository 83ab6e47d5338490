"""The shards of a Redis Cluster."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from redis.asyncio import RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.exceptions import AskError, MovedError, ResponseError, TryAgainError

from adapters_store.redis_links import BROKEN, CONNECTIONS, Command, Link, changed, client_options, keep_raw
from adapters_store.redis_urls import Target

# The streams live on several servers; no one command waits for all of them.
_POLL_S = 0.2
_REDIRECTS = 8
_REDIRECT_PAUSE_S = 0.05


class ClusterLink(Link):
    """The shards of a cluster; where a slot lives is asked anew after an error or a redirection.

    Args:
        target: See Link.
        timeout_s: Longest wait for a connection, and for each answer.
    """

    def __init__(self, target: Target, timeout_s: float) -> None:
        super().__init__(target)
        nodes = [ClusterNode(host, port) for host, port in target.hosts]
        options = client_options(target, timeout_s)
        del options["db"]
        self._client = RedisCluster(startup_nodes=nodes, require_full_coverage=False, **options)
        self._places = asyncio.Semaphore(CONNECTIONS)
        self._stale = False
        self._numbers = itertools.count()
        keep_raw(self._client)

    async def get_all(self, keys: Sequence[str]) -> list[bytes | None]:
        """See Link: a command a key, for the keys are in several slots."""
        return self.strings(await self.send([Command(key, ("GET", key)) for key in keys]), len(keys))

    async def read_streams(self, positions: Mapping[str, str], count: int) -> list[Any]:
        """See Link: a command a stream, for the streams are in several slots."""
        commands = [Command(name, ("XREAD", "COUNT", count, "STREAMS", name, at)) for name, at in positions.items()]
        return [self.answer(reply, list, type(None)) for reply in await self.send(commands)]

    async def on_primaries(self, *args: Any) -> dict[str, Any]:
        """See Link."""
        with self.reported():
            await self._locate()
            return {node.name: await self._on(node, *args) for node in self._client.get_primaries()}

    async def scan(self, pattern: str) -> AsyncIterator[list[bytes]]:
        """See Link: one shard behind the other."""
        with self.reported():
            await self._locate()
            primaries = self._client.get_primaries()
        for node in primaries:
            cursor = 0
            while True:
                with self.reported():
                    reply = await self._on(node, "SCAN", cursor, "MATCH", pattern, "COUNT", 1000)
                cursor, names = self.page(reply)
                yield names
                if cursor == 0:
                    break

    async def wait_for_event(self, positions: Mapping[str, str], longest_s: float) -> None:
        """See Link: the next look."""
        await asyncio.sleep(min(longest_s, _POLL_S))

    async def close(self) -> None:
        """See Link."""
        with self.reported():
            await self._client.aclose()

    async def _on(self, node: ClusterNode, *args: Any) -> Any:
        pipeline = self._client.pipeline()
        pipeline.execute_command(*args, target_nodes=node)
        pipeline.execute_command("ECHO", number := next(self._numbers), target_nodes=node)
        reply, _ = await self._run(pipeline, {1: number})
        return reply

    async def _exchange(self, commands: Sequence[Command]) -> list[Any]:
        replies: list[Any] = [None] * len(commands)
        todo, asked = list(range(len(commands))), dict[int, AskError]()
        for _ in range(_REDIRECTS):
            await self._locate()
            async with self._places:
                await self._round(commands, todo, asked, replies)
            todo = [i for i in todo if isinstance(replies[i], AskError | TryAgainError)]
            if not todo:
                return replies
            # MOVED and TRYAGAIN mean that nothing was done: sending the same again is no second write.
            asked = {i: replies[i] for i in todo if type(replies[i]) is AskError}
            self._stale |= any(isinstance(replies[i], MovedError) for i in todo)
            await asyncio.sleep(_REDIRECT_PAUSE_S)
        return replies

    async def _round(
        self, commands: Sequence[Command], todo: Sequence[int], asked: Mapping[int, AskError], replies: list[Any]
    ) -> None:
        places: dict[str, tuple[ClusterNode, list[int]]] = {}
        for i in todo:
            node = self._node(commands[i], asked.get(i))
            places.setdefault(node.name, (node, []))[1].append(i)
        pipeline, meant = self._client.pipeline(), list[int | None]()
        waits, echoes = list[tuple[int, list[int]]](), dict[int, int]()
        for node, mine in places.values():
            for i in mine:
                if i in asked:
                    pipeline.execute_command("ASKING", target_nodes=node)
                    meant.append(None)
                pipeline.execute_command(*commands[i].args, target_nodes=node)
                meant.append(i)
            if self._target.min_replicas > 0 and any(commands[i].writes for i in mine):
                pipeline.execute_command("WAIT", self._target.min_replicas, self._target.wait_ms, target_nodes=node)
                waits.append((len(meant), mine))
                meant.append(None)
            pipeline.execute_command("ECHO", number := next(self._numbers), target_nodes=node)
            echoes[len(meant)] = number
            meant.append(None)
        found = await self._run(pipeline, echoes)
        for index, reply in zip(meant, found, strict=True):
            if index is not None:
                replies[index] = reply
        for place, mine in waits:
            if changed([commands[i] for i in mine], [replies[i] for i in mine]):
                self.check_replicas(found[place])

    async def _run(self, pipeline: Any, echoes: Mapping[int, int]) -> list[Any]:
        """Every reply; one that is an error of the connection, not of the command, is raised.

        Args:
            pipeline: The commands.
            echoes: Place of each ECHO among them, and its number.
        """
        try:
            found: list[Any] = await pipeline.execute(raise_on_error=False, allow_redirections=False)
            for reply in found:
                if isinstance(reply, Exception) and not isinstance(reply, ResponseError):
                    raise reply
            for place, number in echoes.items():
                self.check_step(number, found[place])
        except BROKEN:
            self._stale = True
            raise
        return found

    def _node(self, command: Command, asked: AskError | None) -> ClusterNode:
        if asked is not None:
            node = self._client.get_node(host=asked.host, port=asked.port)
            if node is not None:
                return node
        return self._client.nodes_manager.get_node_from_slot(self._client.keyslot(command.key))

    async def _locate(self) -> None:
        """Know which server holds which slot; after a failure the idle connections are dropped, they may be dead."""
        await self._client.initialize()
        if self._stale:
            self._stale = False
            for node in self._client.get_nodes():
                await node.disconnect_free_connections()
            await self._client.nodes_manager.initialize()
