"""Slots hold prepared adapters, leases hold slots. Flipping a domain to a new slot is one assignment.

A slot that was replaced or evicted is *retired*: no new lease can name it, and it is freed when its last lease ends.
Everything here runs on the event loop and takes no lock.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Generic, TypeVar

from adapters_store.folding import Combination
from service.engine import Prepared

Key = TypeVar("Key", bound=Hashable)


@dataclass(slots=True, eq=False)
class Slot:
    """One prepared adapter with all its combinations.

    Args:
        revision: the natural adapter's; None for a slot of auxiliary adapters only.
        divisions: names of its auxiliary divisions, in the order of a combination.
        combinations: auxiliary domain (None: absent) per division -> what the engine prepared.
        fuses: auxiliary domain -> revision of what is folded in.
    """

    revision: str | None
    divisions: tuple[str, ...]
    combinations: Mapping[Combination, Prepared]
    fuses: Mapping[str, str]
    leases: int = field(default=0, init=False)
    retired: bool = field(default=False, init=False)

    def prepared(self, combination: Combination) -> Prepared:
        """What scores these auxiliary domains; one that is not folded in counts as absent."""
        return self.combinations[tuple(domain if domain in self.fuses else None for domain in combination)]

    def empty(self) -> None:
        """Give the memory back; whoever would score by it afterwards fails at once."""
        self.combinations = {}

    @property
    def nbytes(self) -> int:
        """Memory of all combinations, bytes."""
        return sum(prepared.nbytes for prepared in self.combinations.values())


class Lease:
    """A hold on one slot, taken at admission and kept to the last row; a context manager."""

    __slots__ = ("_release", "slot")

    def __init__(self, slot: Slot, release: Callable[[Slot], None]) -> None:
        self.slot = slot
        self._release: Callable[[Slot], None] | None = release

    def release(self) -> None:
        """Let go; letting go again changes nothing."""
        release, self._release = self._release, None
        if release is not None:
            release(self.slot)

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class SlotTable(Generic[Key]):
    """Which slot scores each key now.

    Args:
        freed: called with each slot once it is retired and no lease names it; its memory may be reused from then on.
        changed: called with the number of adapters in memory and their bytes, after each change.
    """

    def __init__(self, freed: Callable[[Slot], None], changed: Callable[[int, int], None]) -> None:
        self._freed = freed
        self._changed = changed
        self._slots: dict[Key, Slot] = {}
        self._held: dict[Slot, int] = {}  # every slot not yet freed -> its bytes
        self._held_bytes = 0

    def __len__(self) -> int:
        return len(self._slots)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._slots)

    @property
    def nbytes(self) -> int:
        """Memory of every slot not yet freed, bytes."""
        return self._held_bytes

    def get(self, key: Key) -> Slot | None:
        """The slot that would be leased now."""
        return self._slots.get(key)

    def activate(self, key: Key, slot: Slot) -> None:
        """Flip the key to this slot; the one before it retires."""
        before = self._slots.get(key)
        if before is slot:
            return
        self._held[slot] = slot.nbytes
        self._held_bytes += self._held[slot]
        self._slots[key] = slot
        if before is not None:
            self._retire(before)
        self._report()

    def evict(self, key: Key) -> None:
        """Leave the key without a slot."""
        slot = self._slots.pop(key, None)
        if slot is not None:
            self._retire(slot)
            self._report()

    def lease(self, key: Key) -> Lease | None:
        """Hold the key's slot; None when it has none."""
        slot = self._slots.get(key)
        if slot is None:
            return None
        slot.leases += 1
        return Lease(slot, self._release)

    def _release(self, slot: Slot) -> None:
        slot.leases -= 1
        if slot.retired and slot.leases == 0:
            self._free(slot)
            self._report()

    def _retire(self, slot: Slot) -> None:
        slot.retired = True
        if slot.leases == 0:
            self._free(slot)

    def _free(self, slot: Slot) -> None:
        self._held_bytes -= self._held.pop(slot)
        self._freed(slot)

    def _report(self) -> None:
        self._changed(len(self._held), self._held_bytes)
