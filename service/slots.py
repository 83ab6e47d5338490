"""Slots hold prepared adapters, leases hold slots. Flipping a domain to a new slot is one assignment.

A slot that nothing names any more is *retired*: no new lease can name it, and it is freed when its last lease ends.
What is in memory stays within a bound: spare slots go first, then whole domains, the one leased longest ago first.
Everything here runs on the event loop and takes no lock.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType, TracebackType
from typing import Literal

from adapters_store.folding import Combination
from features.overlay import Overlay
from service.engine import Prepared
from service.serving import Serving

# a natural domain, or the auxiliary domains with the revisions that score alone
Place = str | tuple[tuple[str, str], ...]
# staged: will be live after a release's flip; kept: was live before one, and is again after a roll back
Role = Literal["live", "canary", "shadow", "staged", "kept"]
SPARE: tuple[Role, ...] = ("kept", "staged")  # in the order in which they make room


@dataclass(slots=True, eq=False)
class Slot:
    """One prepared adapter with all its combinations.

    Args:
        revision: the natural adapter's; None for a slot of auxiliary adapters only.
        divisions: names of its auxiliary divisions, in the order of a combination.
        combinations: auxiliary domain (None: absent) per division -> what the engine prepared.
        fuses: auxiliary domain -> revision of what is folded in.
        serving: the backbone whose engine prepared it.
        made_s: when the natural adapter was made, seconds since the epoch, by its manifest; None: it does not say.
        overlay: the natural adapter's ids and their embeddings, by which its rows are looked up; None for most.
        fusion: revision of the fusion that is folded in; None without one.
        kept_as: digest of the prepared blob that it was made from; None where it was made from the artifacts.
        unfolded: what was read with the artifacts, since they pin it, and is not folded in.
    """

    revision: str | None
    divisions: tuple[str, ...]
    combinations: Mapping[Combination, Prepared]
    fuses: Mapping[str, str]
    serving: Serving
    made_s: float | None = None
    overlay: Overlay | None = None
    fusion: str | None = None
    kept_as: str | None = None
    unfolded: tuple[str, ...] = ()
    leases: int = field(default=0, init=False)
    roles: int = field(default=0, init=False)  # of one place that name it
    retired: bool = field(default=False, init=False)

    def prepared(self, combination: Combination) -> Prepared:
        """What scores these auxiliary domains; one that is not folded in counts as absent."""
        return self.combinations[tuple(domain if domain in self.fuses else None for domain in combination)]

    def empty(self) -> None:
        """Give the memory back; whoever would score by it afterwards fails at once."""
        self.combinations = {}
        self.overlay = None

    @property
    def blobs(self) -> Iterator[str]:
        """What making it once more would read: its prepared blob if it has one, and the artifacts, pins last."""
        yield from filter(None, (self.kept_as, self.revision, *self.fuses.values(), self.fusion, *self.unfolded))

    @property
    def nbytes(self) -> int:
        """Memory of all combinations and of the overlay that they share, bytes."""
        overlay = 0 if self.overlay is None else self.overlay.nbytes
        return overlay + sum(prepared.nbytes for prepared in self.combinations.values())


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


@dataclass(slots=True, eq=False)
class Home:
    """The slots of one place.

    Args:
        loaded_at: when its first slot came, in the caller's seconds.
        slots: by role; one slot may have several.
        requests: leases of the live slot or the canary, decayed by whoever reads them.
    """

    loaded_at: float
    slots: dict[Role, Slot] = field(default_factory=dict)
    requests: float = 0.0

    @property
    def leased(self) -> bool:
        """Whether a request holds any of them."""
        return any(slot.leases for slot in self.slots.values())


class SlotTable:
    """Which slots are in memory, and what each is for.

    Args:
        freed: called with each slot once it is retired and no lease names it; its memory may be reused from then on.
        changed: called with the number of adapters in memory and their bytes, after each change.
        limit_bytes: memory of all slots not yet freed; only leased and pinned ones may exceed it.
        pinned: places that are never evicted.
        evicted: called with a place that was evicted to make room, and how many seconds after its load.
        now: seconds, for the age of what is evicted.
    """

    def __init__(
        self,
        freed: Callable[[Slot], None],
        changed: Callable[[int, int], None],
        *,
        limit_bytes: int,
        pinned: Collection[Place] = (),
        evicted: Callable[[Place, float], None] = lambda place, age_s: None,
        now: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._freed = freed
        self._changed = changed
        self._limit_bytes = limit_bytes
        self._pinned = frozenset(pinned)
        self._evicted = evicted
        self._now = now
        self._homes: dict[Place, Home] = {}
        self._recent: OrderedDict[Place, None] = OrderedDict()  # not pinned, leased longest ago first
        self._spare: dict[Role, OrderedDict[Place, None]] = {role: OrderedDict() for role in SPARE}
        self._held: dict[Slot, int] = {}  # every slot not yet freed -> its bytes
        self._held_bytes = 0
        self._domains = 0

    def __len__(self) -> int:
        return len(self._homes)

    def __iter__(self) -> Iterator[Place]:
        return iter(self._homes)

    @property
    def domains(self) -> int:
        """Natural domains with a slot."""
        return self._domains

    @property
    def nbytes(self) -> int:
        """Memory of every slot not yet freed, bytes."""
        return self._held_bytes

    @property
    def limit_bytes(self) -> int:
        """The bound."""
        return self._limit_bytes

    @property
    def free_bytes(self) -> int:
        """What is left below the bound; negative above it."""
        return self._limit_bytes - self._held_bytes

    def latest_first(self) -> list[Place]:
        """Every place, pinned ones first, then the one leased last."""
        return [*(place for place in self._pinned if place in self._homes), *reversed(self._recent)]

    def staged(self) -> list[str]:
        """Domains that hold a slot for a flip to come."""
        return [place for place in self._spare["staged"] if isinstance(place, str)]

    def home(self, place: Place) -> Home | None:
        """All that is in memory for a place."""
        return self._homes.get(place)

    def get(self, place: Place, role: Role = "live") -> Slot | None:
        """The slot that would be leased now."""
        home = self._homes.get(place)
        return None if home is None else home.slots.get(role)

    def find(self, place: Place, revision: str) -> Slot | None:
        """The slot of a revision, whatever it is for."""
        home = self._homes.get(place)
        if home is None:
            return None
        return next((slot for slot in home.slots.values() if slot.revision == revision), None)

    def blobs(self, place: Place) -> Iterator[str]:
        """What making the slots of a place once more would read."""
        home = self._homes.get(place)
        for slot in [] if home is None else home.slots.values():
            yield from slot.blobs

    def of(self, serving: Serving) -> Iterator[tuple[Place, Role]]:
        """Where slots of a backbone are, and for what; a walk over everything."""
        for place, home in self._homes.items():
            for role, slot in home.slots.items():
                if slot.serving is serving:
                    yield place, role

    def holds(self, serving: Serving) -> bool:
        """Whether any slot of a backbone is in memory, leased retired ones included."""
        return any(slot.serving is serving for slot in self._held)

    def activate(
        self,
        place: Place,
        slot: Slot | None,
        *,
        keep: bool = False,
        trials: Mapping[Role, Slot | None] = MappingProxyType({}),
    ) -> None:
        """Flip the place to this slot; the one before it retires.

        Args:
            place: whose.
            slot: what is leased from now on; None leaves the place without a live one.
            keep: the one before stays for a roll back, as long as it fits.
            trials: what canary and shadow are from now on; roles that are not named stay as they are.
        """
        home = self._home(place)
        held = list(home.slots.values())
        for one in held:  # one that changes its role must not be freed in between
            one.roles += 1
        before = home.slots.get("live")
        self._set(place, home, "live", slot)
        if keep and before is not None and before is not slot:
            self._set(place, home, "kept", before)
        for role, trial in trials.items():
            self._set(place, home, role, trial)
        if slot is not None and home.slots.get("staged") is slot:
            self._set(place, home, "staged", None)
        for one in held:
            self._let_go(one)
        self._settle(place)

    def give(self, place: Place, role: Role, slot: Slot) -> None:
        """Let a slot serve a role beside the live one."""
        self._set(place, self._home(place), role, slot)
        self._settle(place)

    def stage(self, place: Place, slot: Slot) -> bool:
        """Hold a slot for a flip to come if it fits without evicting anything but what is kept for a roll back.

        Returns:
            False, and the slot is left to the caller, when there is no room, or nothing of the place is in memory.
        """
        if place not in self._homes:
            return False
        added = 0 if slot in self._held else slot.nbytes
        while self._held_bytes + added > self._limit_bytes and self._drop_spare("kept"):
            pass
        if self._held_bytes + added > self._limit_bytes:
            return False
        self.give(place, "staged", slot)
        return True

    def drop(self, place: Place, role: Role) -> None:
        """Leave the place without a slot of this role; without live, canary and shadow it is left altogether."""
        home = self._homes.get(place)
        if home is not None and role in home.slots:
            self._set(place, home, role, None)
            self._settle(place)

    def evict(self, place: Place) -> None:
        """Leave the place without any slot."""
        if place in self._homes:
            self._leave(place)
            self._report()

    def lease(self, place: Place, role: Role = "live") -> Lease | None:
        """Hold a slot of the place; None when it has none."""
        home = self._homes.get(place)
        slot = None if home is None else home.slots.get(role)
        if home is None or slot is None:
            return None
        if role != "shadow":
            home.requests += 1.0
            if place in self._recent:
                self._recent.move_to_end(place)
        slot.leases += 1
        return Lease(slot, self._release)

    def _home(self, place: Place) -> Home:
        home = self._homes.get(place)
        if home is None:
            home = self._homes[place] = Home(self._now())
            self._domains += isinstance(place, str)
            if place not in self._pinned:
                self._recent[place] = None
        return home

    def _set(self, place: Place, home: Home, role: Role, slot: Slot | None) -> None:
        before = home.slots.get(role)
        if before is slot:
            return
        if slot is None:
            del home.slots[role]
        else:
            if slot not in self._held:
                self._held[slot] = slot.nbytes
                self._held_bytes += self._held[slot]
            slot.roles += 1
            home.slots[role] = slot
        if role in SPARE:
            self._spare[role].pop(place, None)
            if slot is not None:
                self._spare[role][place] = None
        if before is not None:
            self._let_go(before)

    def _leave(self, place: Place) -> None:
        home = self._homes.pop(place)
        self._domains -= isinstance(place, str)
        self._recent.pop(place, None)
        for role in list(home.slots):
            self._set(place, home, role, None)

    def _settle(self, place: Place) -> None:
        """Forget a place that only spare slots are left of, make room for what just came, then tell."""
        if not self._homes[place].slots.keys() - set(SPARE):
            self._leave(place)
        self._shrink()
        self._report()

    def _shrink(self) -> None:
        """Evict until the bound holds or only what is leased or pinned is left."""
        while self._held_bytes > self._limit_bytes:
            if self._drop_spare("kept") or self._drop_spare("staged"):
                continue
            place = next((place for place in self._recent if not self._homes[place].leased), None)
            if place is None:
                return
            age_s = self._now() - self._homes[place].loaded_at
            self._leave(place)
            self._evicted(place, age_s)

    def _drop_spare(self, role: Role) -> bool:
        """Let the oldest spare slot of a role go that no request holds."""
        place = next((place for place in self._spare[role] if not self._homes[place].slots[role].leases), None)
        if place is None:
            return False
        self._set(place, self._homes[place], role, None)
        return True

    def _release(self, slot: Slot) -> None:
        slot.leases -= 1
        if slot.retired and slot.leases == 0:
            self._free(slot)
            self._report()
        elif self._held_bytes > self._limit_bytes:
            self._shrink()
            self._report()

    def _let_go(self, slot: Slot) -> None:
        slot.roles -= 1
        if slot.roles == 0:
            slot.retired = True
            if slot.leases == 0:
                self._free(slot)

    def _free(self, slot: Slot) -> None:
        self._held_bytes -= self._held.pop(slot)
        self._freed(slot)

    def _report(self) -> None:
        self._changed(len(self._held), self._held_bytes)
