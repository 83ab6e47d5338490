"""Laws of slots, leases and the bound on memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from service.serving import Serving
from service.slots import Lease, Place, Role, Slot, SlotTable

PLENTY = 1 << 40


@dataclass(frozen=True)
class Weight:
    """Something prepared, of a size."""

    nbytes: int = 10


@dataclass
class Watched:
    """A slot table whose events are kept."""

    limit_bytes: int = PLENTY
    pinned: tuple[str, ...] = ()
    freed: list[Slot] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    evicted: list[tuple[Place, float]] = field(default_factory=list)
    now: float = 0.0

    def __post_init__(self) -> None:
        self.table = SlotTable(
            self.freed.append,
            lambda count, size: self.sizes.append((count, size)),
            limit_bytes=self.limit_bytes,
            pinned=self.pinned,
            evicted=lambda place, age_s: self.evicted.append((place, age_s)),
            now=lambda: self.now,
        )

    def fill(self, places: str, size: int = 10) -> dict[str, Slot]:
        """One live slot for each place."""
        slots = {place: slot(place, size) for place in places}
        for place, one in slots.items():
            self.table.activate(place, one)
        return slots


def slot(revision: str = "r", size: int = 20) -> Slot:
    """A slot of two combinations."""
    return Slot(
        revision,
        ("gender",),
        {("f",): Weight(size // 2), (None,): Weight(size // 2)},
        {"f": "pin"},
        cast(Serving, None),
    )


def test_a_leased_slot_outlives_its_replacement() -> None:
    """Law: a retired slot is freed when its last lease ends, not before, and exactly once."""
    watched = Watched()
    old, new = slot("old"), slot("new")
    watched.table.activate("a", old)
    first, second = watched.table.lease("a"), watched.table.lease("a")
    watched.table.activate("a", new)
    assert first is not None
    assert second is not None
    first.release()
    first.release()
    assert watched.freed == []
    assert watched.sizes[-1] == (2, 40)
    with second:
        assert second.slot is old
    assert watched.freed == [old]
    assert watched.sizes[-1] == (1, 20)


def test_an_unleased_slot_is_freed_as_it_is_replaced_or_evicted() -> None:
    """Law: memory of a slot that nobody holds is given back at once."""
    watched = Watched()
    old, new = slot("old"), slot("new")
    watched.table.activate("a", old)
    watched.table.activate("a", new)
    assert watched.freed == [old]
    watched.table.evict("a")
    assert watched.freed == [old, new]
    assert watched.table.lease("a") is None
    assert watched.table.nbytes == 0


def test_activating_what_serves_changes_nothing() -> None:
    """Law: flipping to the same slot retires nothing."""
    watched = Watched()
    same = slot()
    watched.table.activate("a", same)
    watched.table.activate("a", same)
    assert watched.freed == []
    assert not same.retired


def test_a_domain_that_is_not_folded_in_counts_as_absent() -> None:
    """Law: a combination names only what the adapter pins; any other auxiliary domain is the masked one."""
    one = slot()
    assert one.prepared(("m",)) is one.combinations[(None,)]
    assert one.prepared(("f",)) is one.combinations[("f",)]


def test_roles_are_swapped_without_freeing_what_goes_on() -> None:
    """Law: a canary that becomes live, and a live one that becomes the canary, are never freed in between."""
    watched = Watched()
    one, other = slot("one"), slot("other")
    watched.table.activate("a", one)
    watched.table.give("a", "canary", other)
    watched.table.activate("a", other, trials={"canary": one, "shadow": None})
    assert watched.table.get("a") is other
    assert watched.table.get("a", "canary") is one
    assert watched.freed == []
    watched.table.activate("a", other, trials={"canary": None})
    assert watched.freed == [one]


def test_a_flip_keeps_the_one_before_for_the_way_back() -> None:
    """Law: after a kept flip the slot before is in memory, returns by another, and is counted all the while."""
    watched = Watched()
    one, other = slot("one"), slot("other")
    watched.table.activate("a", one)
    assert watched.table.stage("a", other)
    watched.table.activate("a", other, keep=True)
    assert watched.table.find("a", "one") is one
    assert watched.table.staged() == []
    assert watched.table.nbytes == 40
    watched.table.activate("a", one, keep=True)
    assert watched.table.get("a") is one
    assert watched.table.find("a", "other") is other
    assert watched.freed == []


def test_the_place_leased_longest_ago_makes_room() -> None:
    """Law: beyond the bound the least recently leased place goes, with its age; the newcomer and the pinned stay."""
    watched = Watched(limit_bytes=30, pinned=("a",))
    watched.fill("abc")
    lease = watched.table.lease("b")
    assert lease is not None
    lease.release()
    watched.now = 7.0
    watched.fill("d")
    assert watched.evicted == [("c", 7.0)]
    assert {*watched.table} == {"a", "b", "d"}
    watched.fill("e")
    assert watched.evicted[1:] == [("b", 7.0)]


def test_spare_slots_make_room_before_any_place() -> None:
    """Law: what is kept for a roll back goes first, then what is staged, and only then a place that serves."""
    watched = Watched(limit_bytes=50)
    slots = watched.fill("abc")
    newer = slot("newer", 10)
    watched.table.activate("a", newer, keep=True)
    assert watched.table.stage("b", slot("staged", 10))
    watched.fill("d")
    assert watched.freed == [slots["a"]]
    watched.fill("e")
    assert watched.table.staged() == []
    assert watched.evicted == []
    watched.fill("f")
    assert watched.evicted == [("a", 0.0)]


def test_staging_evicts_nothing_that_serves() -> None:
    """Law: a staged slot takes free room only, or that of what is kept; a place that is not in memory takes none."""
    watched = Watched(limit_bytes=30)
    watched.fill("abc")
    assert not watched.table.stage("a", slot("staged", 10))
    assert not watched.table.stage("z", slot("staged", 10))
    assert watched.evicted == []
    watched.table.evict("c")
    assert watched.table.stage("a", slot("staged", 10))


def test_what_is_leased_is_evicted_once_it_is_let_go() -> None:
    """Law: leases may hold memory above the bound; the bound holds again when they end."""
    watched = Watched(limit_bytes=20)
    watched.fill("ab")
    leases = [watched.table.lease(place) for place in "ab"]
    watched.fill("c")
    assert [place for place, _ in watched.evicted] == ["c"]
    watched.table.give("a", "canary", slot("larger", 20))
    assert watched.table.nbytes == 40
    for lease in leases:
        assert lease is not None
        lease.release()
    assert watched.table.nbytes <= 20


class LeaseMachine(RuleBasedStateMachine):
    """Any order of flips, trials, stagings, evictions, leases and releases, within a bound."""

    leases = Bundle("leases")
    limit_bytes = 80
    places = st.sampled_from("abcd")

    def __init__(self) -> None:
        super().__init__()
        self.watched = Watched(limit_bytes=self.limit_bytes, pinned=("d",))
        self.made: list[Slot] = []
        self.held: list[Lease] = []

    def fresh(self, size: int) -> Slot:
        """A new slot; what became of it is checked at every step."""
        self.made.append(slot(str(len(self.made)), size))
        return self.made[-1]

    @rule(place=places, size=st.sampled_from([10, 20, 50]), keep=st.booleans())
    def flip(self, place: str, size: int, keep: bool) -> None:
        """A new slot takes over."""
        self.watched.table.activate(place, self.fresh(size), keep=keep)

    @rule(place=places, trials=st.dictionaries(st.sampled_from(["canary", "shadow"]), st.booleans()))
    def retry(self, place: str, trials: dict[Any, bool]) -> None:
        """Canary and shadow move, perhaps to what is kept or live."""
        table = self.watched.table
        given: dict[Role, Slot | None] = {
            role: (table.get(place, "kept") or self.fresh(10)) if some else None for role, some in trials.items()
        }
        table.activate(place, table.get(place), trials=given)

    @rule(place=places)
    def stage(self, place: str) -> None:
        """A release is prepared."""
        fresh = slot("staged", 10)
        if self.watched.table.stage(place, fresh):
            self.made.append(fresh)

    @rule(place=places, role=st.sampled_from(["staged", "kept", "canary"]))
    def turn(self, place: str, role: Role) -> None:
        """A release is flipped to, or rolled back, or a canary promoted: no new slot is needed."""
        spare = self.watched.table.get(place, role)
        if spare is not None:
            self.watched.table.activate(place, spare, keep=True)

    @rule(place=places)
    def evict(self, place: str) -> None:
        """Nothing takes over."""
        self.watched.table.evict(place)

    @rule(place=places, role=st.sampled_from(["live", "canary", "shadow"]), target=leases)
    def lease(self, place: str, role: Role) -> Lease | None:
        """A request is admitted: it gets what serves now."""
        lease = self.watched.table.lease(place, role)
        if lease is not None:
            assert lease.slot is self.watched.table.get(place, role)
            self.held.append(lease)
        return lease

    @rule(lease=consumes(leases))
    def release(self, lease: Lease | None) -> None:
        """A response left."""
        if lease is not None:
            lease.release()
            self.held.remove(lease)

    def named(self) -> list[Slot]:
        """Every slot that a place names."""
        homes = [self.watched.table.home(place) for place in self.watched.table]
        return [one for home in homes if home is not None for one in home.slots.values()]

    @invariant()
    def freed_exactly_when_nobody_names_it(self) -> None:
        """Law: a slot is freed once, if and only if no place names it and no lease holds it."""
        needed = {id(one) for one in [*self.named(), *(lease.slot for lease in self.held)]}
        for one in self.made:
            assert sum(one is other for other in self.watched.freed) == int(id(one) not in needed)

    @invariant()
    def counts_what_is_not_freed(self) -> None:
        """Law: the bytes reported are those of every slot not yet freed."""
        freed = {id(one) for one in self.watched.freed}
        assert self.watched.table.nbytes == sum(one.nbytes for one in self.made if id(one) not in freed)

    @invariant()
    def stays_within_the_bound(self) -> None:
        """Law: only leased and pinned slots exceed the bound; then nothing else but their places is in memory."""
        table = self.watched.table
        if table.nbytes <= self.limit_bytes:
            return
        for place in table:
            home = table.home(place)
            assert home is not None
            assert place == "d" or home.leased
            assert all(slot.leases or slot.roles > 1 for role, slot in home.slots.items() if role in ("kept", "staged"))


LeaseMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestLeases = LeaseMachine.TestCase
