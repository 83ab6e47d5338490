"""What trains domains in packs, whatever it trains of them: its tasks, one after another or dealt out to processes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Self, TypeVar

from adapters_store.canonical import canonical_json, digest
from training.adapters import Place
from training.checkpoint import Memory, Record
from training.loops import Fitted
from training.packed.plan import Pack, Plan

Trained = TypeVar("Trained")
MemoryOf = Callable[[str, Record], Memory]
"""The checkpoint of one name, with what its content depends on beside the stage's settings."""


@dataclass(frozen=True)
class PackTask:
    """One piece of the training.

    Args:
        name: of its checkpoint.
        content: what that holds beside the stage's settings: packs of other domains are not taken for it.
        what: the pack, or the domain that is too large for one.
    """

    name: str
    content: Record
    what: Pack | Place


class Packer(ABC, Generic[Trained]):
    """Trains domains in packs, and those that are too large for one each by itself."""

    @property
    @abstractmethod
    def title(self) -> str:
        """What it trains, where progress is shown."""

    @property
    @abstractmethod
    def plan(self) -> Plan:
        """All packs, and the domains that are too large for one."""

    @abstractmethod
    def say(self, text: str) -> None:
        """Show progress."""

    @abstractmethod
    def bare(self) -> Self:
        """Return the same without a terminal and without what can be looked up again: neither has to travel."""

    @abstractmethod
    def pack(self, pack: Pack, memory: Memory) -> list[Trained]:
        """Train one pack, or take the finished one.

        Raises:
            StateMismatch: the checkpoint is of other settings, or of another pack.
        """

    @abstractmethod
    def one(self, place: Place, memory: Memory) -> Trained:
        """Train one domain by itself, or take the finished one."""

    def each(self, memory_of: MemoryOf, share: tuple[int, int] = (1, 1)) -> Iterator[Trained]:
        """Train all domains, or a share of the packs, pack by pack: what is not held on to needs no memory.

        Args:
            memory_of: where a pack, or a domain by itself, keeps what it has learned.
            share: (i, n) the i-th of n shares.

        Raises:
            ConfigError: there is no such share.
            StateMismatch: a checkpoint is of other settings, or of other packs.
        """
        chosen = self.plan.share(*share)
        self.say(f"{self.title}: {chosen.line()}")
        for task in tasks_of(chosen):
            yield from self.trained(task, memory_of(task.name, task.content))

    def trained(self, task: PackTask, memory: Memory) -> Sequence[Trained]:
        """Train one piece."""
        return self.pack(task.what, memory) if isinstance(task.what, Pack) else [self.one(task.what, memory)]

    def unfinished(self, memory_of: MemoryOf) -> Iterator[PackTask]:
        """Find the pieces whose checkpoint is not a finished one.

        Raises:
            StateMismatch: a checkpoint is of other settings, or of other packs.
        """
        for task in tasks_of(self.plan):
            saved = memory_of(task.name, task.content).load()
            if saved is None or not saved.record["finished"]:
                yield task


def tasks_of(plan: Plan) -> list[PackTask]:
    """Return all pieces of a plan, packs first."""
    tasks = [PackTask(f"packed/{pack.number:05d}", {"pack": _domains(pack)}, pack) for pack in plan.packs]
    return tasks + [PackTask(place.name, {}, place) for place in plan.alone]


def record_of(fitted: Sequence[Fitted]) -> Record:
    """Describe a finished pack."""
    return {
        "finished": True,
        "epochs": [how.epoch for how in fitted],
        "averaged": [how.averaged for how in fitted],
        "histories": [list(how.history) for how in fitted],
    }


def fitted_of(record: Record) -> list[Fitted]:
    """Read back how a finished pack went."""
    epochs, histories = record["epochs"], record["histories"]
    averaged = record.get("averaged", [False] * len(epochs))  # an older build averaged nothing
    return [Fitted(tuple(h), *how) for h, *how in zip(histories, epochs, averaged, strict=True)]


def _domains(pack: Pack) -> str:
    return digest(canonical_json([[place.division_name, place.name] for place in pack.places]))
