"""Laws of slots and leases."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from service.slots import Lease, Slot, SlotTable


@dataclass(frozen=True)
class Weight:
    """Something prepared, of a size."""

    nbytes: int = 10


@dataclass
class Watched:
    """A slot table whose events are kept."""

    freed: list[Slot] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.table: SlotTable[str] = SlotTable(self.freed.append, lambda count, size: self.sizes.append((count, size)))


def slot(revision: str = "r") -> Slot:
    """A slot of two combinations."""
    return Slot(revision, ("gender",), {("f",): Weight(), (None,): Weight()}, {"f": "pin"})


def test_a_leased_slot_outlives_its_replacement() -> None:
    """A retired slot is freed when its last lease ends, not before, and exactly once."""
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
    """Memory of a slot that nobody holds is given back at once."""
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
    """Flipping to the same slot retires nothing."""
    watched = Watched()
    same = slot()
    watched.table.activate("a", same)
    watched.table.activate("a", same)
    assert watched.freed == []
    assert not same.retired


def test_a_domain_that_is_not_folded_in_counts_as_absent() -> None:
    """A combination names only what the adapter pins; any other auxiliary domain is the masked one."""
    one = slot()
    assert one.prepared(("m",)) is one.combinations[(None,)]
    assert one.prepared(("f",)) is one.combinations[("f",)]


class LeaseMachine(RuleBasedStateMachine):
    """Any order of flips, evictions, leases and releases."""

    leases = Bundle("leases")

    def __init__(self) -> None:
        super().__init__()
        self.watched = Watched()
        self.made: list[Slot] = []
        self.held: list[Lease] = []

    @rule(key=st.sampled_from("abc"))
    def flip(self, key: str) -> None:
        """A new slot takes over."""
        fresh = slot(str(len(self.made)))
        self.made.append(fresh)
        self.watched.table.activate(key, fresh)

    @rule(key=st.sampled_from("abc"))
    def evict(self, key: str) -> None:
        """Nothing takes over."""
        self.watched.table.evict(key)

    @rule(key=st.sampled_from("abc"), target=leases)
    def lease(self, key: str) -> Lease | None:
        """A request is admitted: it gets what serves now."""
        lease = self.watched.table.lease(key)
        if lease is not None:
            assert lease.slot is self.watched.table.get(key)
            self.held.append(lease)
        return lease

    @rule(lease=consumes(leases))
    def release(self, lease: Lease | None) -> None:
        """A response left."""
        if lease is not None:
            lease.release()
            self.held.remove(lease)

    @invariant()
    def freed_exactly_when_nobody_names_it(self) -> None:
        """A slot is freed once, if and only if it neither serves nor is leased."""
        serving = [self.watched.table.get(key) for key in self.watched.table]
        leased = [lease.slot for lease in self.held]
        for one in self.made:
            free = not any(one is other for other in [*serving, *leased])
            assert sum(one is other for other in self.watched.freed) == int(free)

    @invariant()
    def counts_what_is_not_freed(self) -> None:
        """The bytes reported are those of every slot not yet freed."""
        assert self.watched.table.nbytes == 20 * (len(self.made) - len(self.watched.freed))


LeaseMachine.TestCase.settings = settings(max_examples=50, deadline=None)
TestLeases = LeaseMachine.TestCase
