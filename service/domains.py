"""What this replica knows of each domain: its record as applied, the slot that scores it, what was refused and why.

A record is applied together with the slot that it leads to, in one turn of the event loop, so a generation and the
revision that scores always belong together. Nothing waits here and nothing takes a lock.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from adapters_store.records import DomainRecord
from features.fields import Division
from service.observer import Observer
from service.slots import Slot, SlotTable


@dataclass(slots=True, eq=False)
class Known:
    """A domain that the bundle lists or the store has a record of.

    Args:
        record: as applied here; None when the store has none.
        rejected: revisions of this record that this replica refused -> why.
        retry_at: the store could not give the record, or a revision that it names: `Clock.now()` seconds from when on
            it is worth another try.
    """

    record: DomainRecord | None
    rejected: dict[str, str] = field(default_factory=dict)
    retry_at: float | None = None

    @property
    def generation(self) -> int:
        """Of the applied record; -1 without one, so any record is newer."""
        return -1 if self.record is None else self.record.generation

    @property
    def live(self) -> str | None:
        """The revision that should score."""
        if self.record is None or self.record.live is None:
            return None
        return self.record.live.revision


class Domains:
    """Every domain this replica has heard of.

    Args:
        divisions: of the bundle.
        slots: which slot scores each natural domain.
        observer: told of activations and refusals.
        unknown_limit: ids that are remembered as unknown; the oldest is forgotten first.
    """

    def __init__(
        self,
        divisions: Iterable[Division],
        slots: SlotTable[str],
        observer: Observer,
        *,
        unknown_limit: int,
    ) -> None:
        self._divisions = {division.name: division for division in divisions}
        self._listed = {domain: division.name for division in self._divisions.values() for domain in division.domains}
        self._slots = slots
        self._observer = observer
        self._unknown_limit = unknown_limit
        self._unknown: OrderedDict[str, None] = OrderedDict()
        self._known: dict[str, Known] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def get(self, domain: str) -> Known | None:
        """What is known here; None before the first look into the store."""
        return self._known.get(domain)

    def generation(self, domain: str) -> int:
        """Of the applied record; -1 without one."""
        known = self._known.get(domain)
        return -1 if known is None else known.generation

    def division_of(self, domain: str) -> str | None:
        """The division's name, from the bundle, else from the applied record."""
        if domain in self._listed:
            return self._listed[domain]
        known = self._known.get(domain)
        return None if known is None or known.record is None else known.record.division

    def is_auxiliary(self, division: str | None) -> bool:
        """Whether the bundle has this division as an auxiliary one."""
        found = self._divisions.get(division) if division is not None else None
        return found is not None and not found.natural

    @property
    def auxiliary_divisions(self) -> tuple[str, ...]:
        """Names of the auxiliary divisions, in the order of the bundle."""
        return tuple(division.name for division in self._divisions.values() if not division.natural)

    def is_unknown(self, domain: str) -> bool:
        """Whether a look into the store found nothing lately."""
        return domain in self._unknown

    def absent(self, domain: str) -> None:
        """The store has no record: one that the bundle lists stays known, any other is remembered as unknown."""
        if domain in self._known:
            return
        if domain in self._listed:
            self._known[domain] = Known(record=None)
            return
        self._unknown[domain] = None
        if len(self._unknown) > self._unknown_limit:
            self._unknown.popitem(last=False)

    def unreadable(self, domain: str, retry_at: float) -> None:
        """The store has a record that this build cannot read or load; what serves keeps serving."""
        known = self._known.setdefault(domain, Known(record=None))
        known.retry_at = retry_at

    def forget_unknown(self) -> None:
        """Forget every id remembered as unknown."""
        self._unknown.clear()

    def apply(
        self,
        record: DomainRecord,
        slot: Slot | None,
        rejected: Mapping[str, str] | None = None,
        *,
        retry_at: float | None = None,
        since: Known | None = None,
    ) -> bool:
        """Take a record and flip the domain to the slot that it leads to.

        Args:
            record: as the store has it.
            slot: None leaves the domain without one.
            rejected: refused revisions -> why.
            retry_at: when to try again, because the store could not give all that was asked for.
            since: what `get` gave before the store was asked for this record. If that still stands the record is the
                later truth whatever its generation: a store restored from a backup counts on from a lower one.

        Returns:
            False, and nothing changes, when a record of a higher generation was applied meanwhile.
        """
        domain = record.domain
        before = self._known.get(domain)
        if before is not None and before is not since and record.generation < before.generation:
            return False
        self._unknown.pop(domain, None)
        self._known[domain] = Known(record, dict(rejected or {}), retry_at)
        serving = self._slots.get(domain)
        if slot is None:
            self._slots.evict(domain)
            return True
        self._slots.activate(domain, slot)
        if slot.revision is not None and (serving is None or serving.revision != slot.revision):
            self._observer.adapter_loaded("activated")
            self._observer.activated(domain, slot.revision, record.generation)
        return True

    def reject(self, domain: str, revision: str, reason: str) -> None:
        """Remember that this replica refuses a revision of the record that it applied."""
        known = self._known.get(domain)
        if known is not None:
            known.rejected[revision] = reason
        self._observer.rejected(domain, revision, reason)

    def set_aside(self, domain: str, slot: Slot, reason: str) -> None:
        """Stop scoring with a slot that gave a non-finite logit, if it still serves the domain."""
        if slot.revision is not None and self._slots.get(domain) is slot:
            self._slots.evict(domain)
            self.reject(domain, slot.revision, reason)
