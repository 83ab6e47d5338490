"""An engine whose workers die."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from training.cluster.engine import DirectEngine
from training.cluster.errors import ActorLost


class LosingEngine(DirectEngine):
    """Loses the answers of some calls, as if the worker had died before it gave them.

    Args:
        lost: numbers of the calls, from 1 and over all restarts.
    """

    def __init__(self, lost: Collection[int]) -> None:
        super().__init__()
        self._lost = lost
        self.names: list[str] = []
        self.stopped = False

    def begin(self, worker: int, method: str, *arguments: Any) -> None:
        """Do it, and forget the answer of a call that is to be lost."""
        self.names.append(arguments[0].name)
        super().begin(worker, method, *arguments)
        if len(self.names) in self._lost:
            self._answers[-1] = (worker, ActorLost(f"worker {worker} died"))

    def finished(self) -> tuple[int, Any]:
        """Give one of the answers, or say that there is none."""
        worker, answer = super().finished()
        if isinstance(answer, ActorLost):
            raise answer
        return worker, answer

    def stop(self) -> None:
        """Forget the workers."""
        super().stop()
        self.stopped = True
