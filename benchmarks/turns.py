"""Deterministic interleavings: several tasks over one memory store, of whose calls one goes on at a time."""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from adapters_store.backend import Change, Versioned
from adapters_store.bounds import ANY_BLOB, Bound
from adapters_store.memory import MemoryBackend


class Turns:
    """Lets one of several tasks go on at a time, by a list of choices: the same choices give the same interleaving.

    Args:
        choices: Numbers; each picks one of the tasks that wait. When they are used up the tasks take turns.
    """

    def __init__(self, choices: Iterator[int]) -> None:
        self._choices = choices
        self._waiting: dict[asyncio.Task[Any], asyncio.Future[None]] = {}
        self._racing: frozenset[asyncio.Task[Any]] = frozenset()
        self._moved = asyncio.Event()
        self.taken = 0

    async def turn(self) -> None:
        """Wait until this task is picked; called before each call of the store."""
        task = asyncio.current_task()
        if task is None or task not in self._racing:
            return
        picked: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[task] = picked
        self._moved.set()
        await picked
        self.taken += 1

    async def race(self, runners: Sequence[Callable[[], Any]]) -> None:
        """Run all to their end, one call of the store at a time."""
        tasks = [asyncio.create_task(runner()) for runner in runners]
        self._racing = frozenset(tasks)
        for task in tasks:
            task.add_done_callback(lambda _: self._moved.set())
        while left := [task for task in tasks if not task.done()]:
            if any(task not in self._waiting for task in left):
                self._moved.clear()
                await self._moved.wait()
                continue
            task = left[next(self._choices, self.taken) % len(left)]
            self._waiting.pop(task).set_result(None)
            await asyncio.sleep(0)
        for task in tasks:
            task.result()


class TurnBackend(MemoryBackend):
    """A memory store each of whose calls waits for its turn; bulk calls are single ones, one after the other."""

    def __init__(self, turns: Turns) -> None:
        super().__init__()
        self._turns = turns

    def take(self, turns: Turns) -> None:
        """Go on with other turns."""
        self._turns = turns

    async def put_blob(self, digest: str, content: bytes) -> None:
        """See Backend."""
        await self._turns.turn()
        await super().put_blob(digest, content)

    async def get_blob(self, digest: str, bound: Bound = ANY_BLOB) -> bytes:
        """See Backend."""
        await self._turns.turn()
        return await super().get_blob(digest, bound)

    async def has_blob(self, digest: str) -> bool:
        """See Backend."""
        await self._turns.turn()
        return await super().has_blob(digest)

    async def has_blobs(self, digests: Sequence[str]) -> set[str]:
        """See Backend."""
        return {digest for digest in digests if await self.has_blob(digest)}

    async def put_blobs(self, blobs: Mapping[str, bytes]) -> None:
        """See Backend."""
        for name, content in blobs.items():
            await self.put_blob(name, content)

    async def delete_blob(self, digest: str) -> None:
        """See Backend."""
        await self._turns.turn()
        await super().delete_blob(digest)

    async def list_blobs(self) -> list[str]:
        """See Backend."""
        await self._turns.turn()
        return await super().list_blobs()

    async def read_record(self, key: str) -> Versioned | None:
        """See Backend."""
        await self._turns.turn()
        return await super().read_record(key)

    async def read_records(self, keys: Sequence[str]) -> dict[str, Versioned]:
        """See Backend."""
        found = {key: await self.read_record(key) for key in keys}
        return {key: held for key, held in found.items() if held is not None}

    async def compare_and_set(self, key: str, expected: int, record: Mapping[str, Any]) -> bool:
        """See Backend."""
        await self._turns.turn()
        return await super().compare_and_set(key, expected, record)

    async def compare_and_set_many(self, changes: Sequence[Change]) -> list[bool]:
        """See Backend."""
        return [await self.compare_and_set(change.key, change.expected, change.record) for change in changes]

    async def list_records(self, prefix: str, after: str = "", limit: int | None = None) -> list[str]:
        """See Backend."""
        await self._turns.turn()
        return await super().list_records(prefix, after, limit)

    async def versions(self, prefix: str) -> dict[str, str]:
        """See Backend."""
        await self._turns.turn()
        return await super().versions(prefix)
