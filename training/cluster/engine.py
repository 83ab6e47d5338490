"""What runs shards and workers: the seam between the method and Ray."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from training.cluster.client import DirectLink, Link

ShardOf = Callable[[int], Any]
"""Makes shard i."""
WorkerOf = Callable[[int, Link], Any]
"""Makes worker i, which reaches the shards by a link."""


class Engine(Protocol):
    """Runs some shards and workers, each in a place of its own; a worker has at most one call in flight."""

    def start(self, shards: int, shard_of: ShardOf, workers: int, worker_of: WorkerOf) -> list[dict[str, Any]]:
        """Make all of them; whatever ran before is ended first.

        Returns:
            For each, shards first, what is known of where it runs, for the log.

        Raises:
            ClusterUnreachable: there is no room for them.
        """
        ...

    def shards(self, method: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Call a method of every shard, each with its own arguments, and wait; calls of one engine keep their order.

        Raises:
            ActorLost: a shard has died.
            RoundFailed: a shard raised an error.
        """
        ...

    def begin(self, worker: int, method: str, *arguments: Any) -> None:
        """Call a method of a worker, and do not wait."""
        ...

    def finished(self) -> tuple[int, Any]:
        """Wait for any worker in flight; its number and its answer.

        Raises:
            ActorLost: a worker, or a shard that it needs, has died.
            RoundFailed: the worker raised an error.
        """
        ...

    def stop(self) -> None:
        """End everything that was started."""
        ...


class DirectEngine:
    """Everything in this very process: a call is done when it begins, and answered when it is asked for.

    Args:
        next_of: given the workers in flight, the place of the one that answers next; the oldest by default.
    """

    def __init__(self, next_of: Callable[[Sequence[int]], int] = lambda workers: 0) -> None:
        self._next_of = next_of
        self._shards: list[Any] = []
        self._workers: list[Any] = []
        self._answers: list[tuple[int, Any]] = []

    def start(self, shards: int, shard_of: ShardOf, workers: int, worker_of: WorkerOf) -> list[dict[str, Any]]:
        """Make plain objects."""
        self._answers.clear()
        self._shards = [shard_of(i) for i in range(shards)]
        self._workers = [worker_of(i, DirectLink(self._shards)) for i in range(workers)]
        return [{"place": "this process"} for _ in range(shards + workers)]

    def shards(self, method: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Call one shard after the other."""
        return [getattr(shard, method)(*own) for shard, own in zip(self._shards, arguments, strict=True)]

    def begin(self, worker: int, method: str, *arguments: Any) -> None:
        """Do it, and keep the answer."""
        self._answers.append((worker, getattr(self._workers[worker], method)(*arguments)))

    def finished(self) -> tuple[int, Any]:
        """Give one of the answers."""
        return self._answers.pop(self._next_of([worker for worker, _ in self._answers]))

    def stop(self) -> None:
        """Forget them."""
        self._shards, self._workers = [], []
        self._answers.clear()


def everywhere(engine: Engine, workers: Sequence[int], method: str, *arguments: Any) -> Mapping[int, Any]:
    """Call the same method of some workers, none of which is busy, and wait for all; answers by worker."""
    for worker in workers:
        engine.begin(worker, method, *arguments)
    return dict(sorted(engine.finished() for _ in workers))
