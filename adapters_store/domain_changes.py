"""How domain records are changed beside releases and garbage collection, one or thousands at once.

A round reads the release pointer, then the records and whether the bytes are there, then writes by compare-and-set,
then reads the pointer again. The order is the point:

- What is written carries, as its epoch, the pointer's generation of before. Where the pointer moved meanwhile, a flip
  may have hidden the change: it is made once more on top, unless another writer has changed the domain since.
- Bytes are looked for after the record was read: garbage collection marks the record before it deletes, so a write
  that succeeds proves that no deletion had begun.
- Marks on what is named but owned by another record (pins, the fusion) are taken away before the write; the grace
  period of a new mark is longer than any write takes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from adapters_store.backend import Change
from adapters_store.errors import (
    BadId,
    BlobMissing,
    DomainUnknown,
    Frozen,
    StoreError,
    StoreUnavailable,
)
from adapters_store.fleet import FleetStore
from adapters_store.ids import check_division, check_domain, check_revision
from adapters_store.record_store import ATTEMPTS, DOMAIN, GARBAGE, RELEASE, SWITCHES
from adapters_store.records import (
    Condition,
    DomainRecord,
    ReleasePointer,
    Stop,
    Switches,
    parse_record,
)
from adapters_store.releases import Release, Standing, standing

Transition = Callable[[DomainRecord, Standing, bool], DomainRecord]
"""Record, standing, and whether this intent was written before (then no condition is looked at any more)."""


@dataclass(frozen=True, slots=True)
class Intent:
    """One change of one domain.

    Args:
        domain: Whose.
        transition: The pure change.
        by: Who asks.
        division: Lets a new domain begin.
        condition: That must hold when it is first written.
        revision: That it names and that must be in the store, or None.
        pins: Auxiliary domain to revision that the revision pins.
        fusion: That the revision pins, or None.
        always: Also while changes are frozen.
    """

    domain: str
    transition: Transition
    by: str
    division: str | None = None
    condition: Condition | None = None
    revision: str | None = None
    pins: Mapping[str, str] = field(default_factory=dict)
    fusion: str | None = None
    always: bool = False

    def __post_init__(self) -> None:
        """Check every id before any of them reaches a backend."""
        check_domain(self.domain)
        if self.division is not None:
            check_division(self.division)
        for domain, revision in self.pins.items():
            check_domain(domain)
            check_revision(revision)
        for revision in self.needed():
            check_revision(revision)

    def needed(self) -> list[str]:
        """Revisions whose bytes must be there."""
        return [revision for revision in (self.revision, self.fusion, *self.pins.values()) if revision is not None]


@dataclass(slots=True)
class Outcome:
    """What became of one intent.

    Args:
        record: As it is now; None with an error.
        changed: Whether this intent wrote it.
        pointer: Generation of the release pointer that it was made under.
        error: Why it was refused, or None.
    """

    record: DomainRecord | None = None
    changed: bool = False
    pointer: int = 0
    error: StoreError | None = None
    done: bool = False

    def refuse(self, error: StoreError) -> None:
        """End with an error."""
        self.error, self.record, self.done = error, None, True


@dataclass(frozen=True, slots=True)
class _Round:
    """The fleet as one round sees it."""

    pointer: ReleasePointer
    release: Release | None
    frozen: Stop | None


class DomainChanges:
    """Carries out intents.

    Args:
        store: Where.
    """

    def __init__(self, store: FleetStore) -> None:
        self._store = store
        self._backend = store.backend

    async def one(self, intent: Intent) -> DomainRecord:
        """Carry out one intent.

        Raises:
            StoreError: Why it was refused, or the store failed.
        """
        outcome = (await self.many([intent]))[0]
        if outcome.error is not None:
            raise outcome.error
        assert outcome.record is not None
        return outcome.record

    async def many(self, intents: Sequence[Intent]) -> list[Outcome]:
        """Carry out intents of different domains, each for itself; a refusal of one stops no other.

        Raises:
            BadId: Two are of one domain.
            StoreUnavailable: The store failed; unknown which of them happened.
        """
        outcomes = {intent.domain: Outcome() for intent in intents}
        if len(outcomes) != len(intents):
            named = [intent.domain for intent in intents]
            raise BadId(f"domain {next(one for one in named if named.count(one) > 1)!r} stands twice among the changes")
        left = list(intents)
        for _ in range(ATTEMPTS):
            round_ = await self._begin(left, outcomes)
            left = [intent for intent in left if not outcomes[intent.domain].done]
            sent = await self._write(left, outcomes, round_)
            await self._settle(left, outcomes, round_, sent)
            left = [intent for intent in left if not outcomes[intent.domain].done]
            if not left:
                return [outcomes[intent.domain] for intent in intents]
        raise StoreUnavailable(
            f"record {DOMAIN + left[0].domain!r}: {ATTEMPTS} attempts in a row lost to other writers"
        )

    async def _begin(self, intents: Sequence[Intent], outcomes: Mapping[str, Outcome]) -> _Round:
        """Read the fleet, and take the marks off what will be named and is owned elsewhere."""
        owners = {DOMAIN + domain for intent in intents for domain in intent.pins}
        held = await self._backend.read_records([RELEASE, SWITCHES, GARBAGE, *sorted(owners)])
        pointer = parse_record(held[RELEASE].record, ReleasePointer, RELEASE) if RELEASE in held else ReleasePointer()
        switches = parse_record(held[SWITCHES].record, Switches, SWITCHES) if SWITCHES in held else Switches()
        release = None if pointer.release is None else await self._store.release(pointer.release)
        marks = {key: set(held[key].record.get("condemned") or ()) for key in (GARBAGE, *owners) if key in held}
        for intent in intents:
            own = [GARBAGE, *(DOMAIN + domain for domain in intent.pins)]
            try:
                for key in own:
                    if not marks.get(key, set()).isdisjoint(intent.needed()):
                        await self._store.spare(key, intent.needed(), intent.by)
            except BlobMissing as error:
                outcomes[intent.domain].refuse(error)
        return _Round(pointer, release, switches.frozen)

    async def _write(self, intents: Sequence[Intent], outcomes: Mapping[str, Outcome], round_: _Round) -> set[str]:
        """Write what is to be written; the domains whose compare-and-set was lost."""
        held = await self._backend.read_records([DOMAIN + intent.domain for intent in intents])
        there = await self._backend.has_blobs(sorted({one for intent in intents for one in intent.needed()}))
        changes: list[tuple[Intent, Change, DomainRecord]] = []
        for intent in intents:
            key = DOMAIN + intent.domain
            outcome = outcomes[intent.domain]
            try:
                stored = parse_record(held[key].record, DomainRecord, key) if key in held else None
                after = _next(intent, stored, outcome, round_, there)
            except StoreError as error:
                outcome.refuse(error)
                continue
            if after is None:
                continue
            before = stored.generation if stored is not None else 0
            changes.append((intent, Change(key, before, after.model_dump(mode="json")), after))
        won = await self._backend.compare_and_set_many([change for _, change, _ in changes]) if changes else []
        for (intent, _, after), success in zip(changes, won, strict=True):
            if success:
                outcomes[intent.domain].record = after
                outcomes[intent.domain].changed = True
        return {intent.domain for (intent, _, _), success in zip(changes, won, strict=True) if not success}

    async def _settle(
        self, intents: Sequence[Intent], outcomes: Mapping[str, Outcome], round_: _Round, lost: set[str]
    ) -> None:
        """Take as done what was made under a pointer that has not moved since."""
        moved = (await self._store.pointer()).generation != round_.pointer.generation
        for intent in intents:
            outcome = outcomes[intent.domain]
            outcome.pointer = round_.pointer.generation
            if outcome.done or intent.domain in lost:
                continue
            # A caller who named the pointer's generation asked for a change before the flip, not for one after it.
            before_flip = outcome.changed and intent.condition is not None and intent.condition.pointer is not None
            outcome.done = not moved or before_flip
        found = [outcomes[intent.domain] for intent in intents]
        there = [one.record for one in found if one.done and not one.changed and one.record is not None]
        if keys := [DOMAIN + record.domain for record in there if record.generation > 0]:
            await self._backend.confirm(keys)


def _next(
    intent: Intent, stored: DomainRecord | None, outcome: Outcome, round_: _Round, there: set[str]
) -> DomainRecord | None:
    """The record to write, or None if there is nothing to write; `outcome` then says what there is."""
    at = standing(round_.pointer, round_.release, intent.domain)
    record = stored if stored is not None else _new(intent, at)
    again = outcome.changed
    if again and outcome.record is not None and not _same(record, outcome.record):
        outcome.done = True  # another writer came after this intent: it happened, and is history
        return None
    missing = [one for one in intent.needed() if one not in there]
    if missing:
        raise BlobMissing(f"revision {missing[0]} is not in the store: put it there before it becomes live")
    after = intent.transition(record, at, again)
    if after is record:
        outcome.record = record
        return None
    if not again:
        _check_condition(intent, record, round_)
        _check_not_frozen(intent, record, round_)
    return after


def _new(intent: Intent, at: Standing) -> DomainRecord:
    division = intent.division or at.division
    if division is None:
        raise DomainUnknown(f"the store has no domain {intent.domain!r}")
    return DomainRecord(domain=intent.domain, division=division)


def _same(record: DomainRecord, mine: DomainRecord) -> bool:
    """Whether what this writer left is still what the record serves."""
    return record.live == mine.live and record.deleted == mine.deleted and record.epoch == mine.epoch


def _check_condition(intent: Intent, record: DomainRecord, round_: _Round) -> None:
    if intent.condition is not None:
        intent.condition.check(DOMAIN + intent.domain, record.generation, round_.pointer.generation)


def _check_not_frozen(intent: Intent, record: DomainRecord, round_: _Round) -> None:
    if intent.always:
        return
    for what, stop in (("all changes", round_.frozen), (f"changes of domain {intent.domain!r}", record.frozen)):
        if stop is not None:
            raise Frozen(f"{what} are stopped by {stop.by or 'someone'} since {stop.at}: {stop.reason}")
