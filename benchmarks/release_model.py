"""Release races: writers interleaved call by call over a memory store, and a sequential model that must explain them.

The law is linearizability of what was acknowledged: there is one order of all acknowledged operations that respects who
had ended before whom began, in which each is legal for the model, and after which, and at every moment in which all
writers rested, every domain effectively serves what the model says. What was refused while nobody else was at work must
be illegal for the model; what was refused in a race may have been beaten by anyone.

The model is design.md 2 once more, written apart from the store's code: no generation, no compare-and-set.
"""

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from hypothesis import strategies as st

from adapters_store.canonical import digest
from adapters_store.errors import RecordError
from adapters_store.records import DomainRecord
from adapters_store.releases import Release, effective
from adapters_store.store import AdapterStore
from benchmarks.turns import TurnBackend, Turns

DIVISION = "theme"
DOMAINS = ("a", "b")
CONTENTS = [b"revision %d" % number for number in range(5)]
REVISIONS = [digest(content) for content in CONTENTS]
RELEASES = [
    Release(divisions={DIVISION: {"a": REVISIONS[0], "b": REVISIONS[1]}}),
    Release(divisions={DIVISION: {"a": REVISIONS[2]}}),
    Release(divisions={DIVISION: {"a": REVISIONS[0], "b": REVISIONS[3]}}),
]
NAMES = {digest(release.encoded()): f"R{number}" for number, release in enumerate(RELEASES)} | {
    revision: f"r{number}" for number, revision in enumerate(REVISIONS)
}

Kind = Literal["publish", "roll back", "delete", "flip", "roll back release"]


@dataclass(frozen=True, slots=True)
class Operation:
    """What a writer does; the rollbacks leave what the writer sees then.

    Args:
        kind: What.
        domain: Whose, where it is about one.
        number: Of the revision or release that it names.
    """

    kind: Kind
    domain: str = ""
    number: int = 0


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """An operation that succeeded, or what a reader saw while all writers rested.

    Args:
        kind: What.
        began: Count of store calls before it.
        ended: Count of store calls when it returned.
        domain: Whose.
        name: The revision or release that it named, or left.
        result: Of a rollback: what serves now.
        seen: Of a reader: domain to effective live.
        refused: It was refused, and nobody else was at work.
    """

    kind: str
    began: int
    ended: int
    domain: str = ""
    name: str = ""
    result: str = ""
    seen: tuple[tuple[str, str | None], ...] = ()
    refused: bool = False


@dataclass(frozen=True, slots=True)
class DomainModel:
    """A domain: its own revision, the pointer that it was set under, and what it served before (and was left)."""

    own: str | None = None
    under: int = -1
    before: tuple[tuple[str, bool], ...] = ()


@dataclass(frozen=True, slots=True)
class Model:
    """The fleet, changed by one operation at a time.

    Args:
        flips: How often the pointer moved.
        since: Which of these moves the live release came with.
        release: The live one, or "".
        parents: Releases to return to, newest first, each with its since.
        domains: In the order of DOMAINS.
    """

    flips: int = 0
    since: int = 0
    release: str = ""
    parents: tuple[tuple[str, int], ...] = ()
    domains: tuple[DomainModel, ...] = (DomainModel(),) * len(DOMAINS)

    def serves(self, domain: str) -> str | None:
        """Effective live."""
        held = self.domains[DOMAINS.index(domain)]
        given = _revision_in(self.release, domain)
        return held.own if given is None or held.under >= self.since else given

    def after(self, done: Acknowledged) -> "Model | None":
        """The fleet after an acknowledged operation, or None where it could not have succeeded."""
        if done.refused:
            return self if self.after(replace(done, refused=False)) is None else None
        if done.kind == "read":
            return self if all(self.serves(domain) == revision for domain, revision in done.seen) else None
        if done.kind == "flip":
            return self if self.release == done.name else self._moved(done.name, self.flips + 1, _pushed(self))
        if done.kind == "roll back release":
            if self.release != done.name or not self.parents:
                return None
            (release, since), *left = self.parents
            return self._moved(release, since, tuple(left))
        return self._domain_after(done)

    def _moved(self, release: str, since: int, parents: tuple[tuple[str, int], ...]) -> "Model":
        return replace(self, flips=self.flips + 1, since=since, release=release, parents=parents)

    def _domain_after(self, done: Acknowledged) -> "Model | None":
        place = DOMAINS.index(done.domain)
        held, serving = self.domains[place], self.serves(done.domain)
        if done.kind != "publish" and held.under < 0 and serving is None:
            return None  # nobody knows this domain
        before = held.before if held.own is None else ((held.own, False), *held.before)
        if serving is not None and serving != held.own:
            before = ((serving, False), *before)
        if done.kind == "publish":
            if serving == done.name:
                return self
            fresh = DomainModel(done.name, self.flips, _once(before, done.name))
        elif done.kind == "delete":
            if serving is None and held.own is None and held.under >= 0 and self._stands_above(held):
                return self
            fresh = DomainModel(None, self.flips, _once(before, None))
        else:
            if serving != done.name:
                return None
            earlier = [entry for entry in before[1:] if entry[0] != serving]
            target = next((revision for revision, left in earlier if not left), None)
            if target is None or (done.result and target != done.result):
                return None
            fresh = DomainModel(target, self.flips, _once(((serving, True), *earlier), target))
        domains = list(self.domains)
        domains[place] = fresh
        return replace(self, domains=tuple(domains))

    def _stands_above(self, held: DomainModel) -> bool:
        return not self.release or held.under >= self.since


def _pushed(model: Model) -> tuple[tuple[str, int], ...]:
    return ((model.release, model.since), *model.parents)


def _revision_in(release: str, domain: str) -> str | None:
    revision = RELEASES[int(release[1:])].revision_of(domain) if release else None
    return None if revision is None else NAMES[revision]


def _once(entries: Sequence[tuple[str, bool]], without: str | None) -> tuple[tuple[str, bool], ...]:
    first: dict[str, bool] = {}
    for revision, left in entries:
        if revision != without:
            first.setdefault(revision, left)
    return tuple(first.items())


@dataclass
class Race:
    """Writers over one store.

    Args:
        phases: Each a list of operations a writer; between phases all rest and a reader looks.
        choices: Which of the waiting calls goes next.
    """

    phases: Sequence[Sequence[Sequence[Operation]]]
    choices: Sequence[int]
    history: list[Acknowledged] = field(default_factory=list)

    async def run(self) -> list[Acknowledged]:
        """Run it.

        Returns:
            What was acknowledged and seen.
        """
        self._turns = Turns(iter(self.choices))
        backend = TurnBackend(self._turns)
        reader = AdapterStore(backend, lambda: 0.0)
        for content in CONTENTS:
            await reader.put(content)
        for release in RELEASES:
            await reader.put_release(release)
        for phase in self.phases:
            stores = [AdapterStore(backend, lambda: 0.0) for _ in phase]
            await self._turns.race(
                [self._writer(store, operations) for store, operations in zip(stores, phase, strict=True)]
            )
            self.history.append(await self._look(AdapterStore(backend, lambda: 0.0)))
        self.history = [done for done in self.history if not (done.refused and self._was_raced(done))]
        return self.history

    def _was_raced(self, done: Acknowledged) -> bool:
        others = (other for other in self.history if other is not done and other.kind != "read")
        return any(other.began < done.ended and done.began < other.ended for other in others)

    def _writer(self, store: AdapterStore, operations: Sequence[Operation]) -> Callable[[], Any]:
        async def write() -> None:
            for operation in operations:
                self.history.append(await self._carry_out(store, operation))

        return write

    async def _carry_out(self, store: AdapterStore, operation: Operation) -> Acknowledged:
        name, call = await self._call(store, operation)
        began, result, refused = self._turns.taken, "", False
        try:
            record = await call
            if operation.kind == "roll back" and isinstance(record, DomainRecord) and record.live is not None:
                result = NAMES[record.live.revision]
        except RecordError:
            refused = True
        return Acknowledged(operation.kind, began, self._turns.taken, operation.domain, name, result, refused=refused)

    async def _call(self, store: AdapterStore, operation: Operation) -> tuple[str, Coroutine[Any, Any, object]]:
        """What the operation names, and the call; a rollback leaves what is seen now."""
        kind, domain = operation.kind, operation.domain
        if kind == "roll back":
            from_ = await serving(store, domain) or REVISIONS[0]
            return NAMES[from_], store.rollback(domain, from_, "")
        if kind == "roll back release":
            release = (await store.pointer()).release or digest(RELEASES[0].encoded())
            return NAMES[release], store.roll_back_release(release, "")
        if kind == "flip":
            release = digest(RELEASES[operation.number % len(RELEASES)].encoded())
            return NAMES[release], store.flip(release, "", min_staged=0)
        if kind == "publish":
            revision = REVISIONS[operation.number]
            return NAMES[revision], store.set_live(domain, DIVISION, revision, "")
        return "", store.delete(domain, "")

    async def _look(self, store: AdapterStore) -> Acknowledged:
        seen = []
        for domain in DOMAINS:
            revision = await serving(store, domain)
            seen.append((domain, None if revision is None else NAMES[revision]))
        # between what came before and what comes after, although no call of a writer is counted meanwhile
        return Acknowledged("read", self._turns.taken, self._turns.taken, seen=tuple(seen))


async def serving(store: AdapterStore, domain: str) -> str | None:
    """What a domain effectively serves, as a reader finds out."""
    pointer = await store.pointer()
    release = None if pointer.release is None else await store.release(pointer.release)
    return effective(await store.domain(domain), pointer, release, domain)


def explanation(history: Sequence[Acknowledged]) -> list[Acknowledged] | None:
    """An order in which the model does all that was acknowledged and sees all that was seen, or None."""
    dead: set[tuple[frozenset[int], Model]] = set()

    def search(left: frozenset[int], model: Model) -> list[Acknowledged] | None:
        if not left:
            return []
        if (left, model) in dead:
            return None
        for number in sorted(left):
            if any(_before(history, other, number) for other in left if other != number):
                continue
            after = model.after(history[number])
            rest = None if after is None else search(left - {number}, after)
            if rest is not None:
                return [history[number], *rest]
        dead.add((left, model))
        return None

    return search(frozenset(range(len(history))), Model())


def _before(history: Sequence[Acknowledged], one: int, other: int) -> bool:
    """Whether one had ended when the other began; a read stands where it is in the history."""
    if "read" in (history[one].kind, history[other].kind):
        return one < other
    return history[one].ended <= history[other].began and (history[one].ended < history[other].began or one < other)


def operations() -> st.SearchStrategy[Operation]:
    """Any operation."""
    domains, numbers = st.sampled_from(DOMAINS), st.integers(0, len(REVISIONS) - 1)
    return st.one_of(
        st.builds(Operation, st.just("publish"), domains, numbers),
        st.builds(Operation, st.just("flip"), st.just(""), st.integers(0, len(RELEASES) - 1)),
        st.builds(Operation, st.just("roll back"), domains),
        st.builds(Operation, st.just("roll back release")),
        st.builds(Operation, st.just("delete"), domains),
    )


def races(writers: int = 3) -> st.SearchStrategy[Race]:
    """Any race of some writers, in two phases."""
    phase = st.lists(st.lists(operations(), min_size=1, max_size=2), min_size=writers, max_size=writers)
    choices = st.lists(st.integers(0, writers - 1), max_size=120)
    return st.builds(Race, st.lists(phase, min_size=1, max_size=2), choices)
