"""What this replica knows of each domain: its record as applied, the revision that should score, what was refused.

A record, or a release, is applied together with the slots that it leads to, in one turn of the event loop, so a
generation and the revision that scores always belong together. Nothing waits here and nothing takes a lock.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from adapters_store.records import Canary, DomainRecord, Shadow
from features.fields import Division
from service.fleet import FleetRelease
from service.moves import moves
from service.observer import Observer
from service.slots import Slot, SlotTable

Trial = Literal["canary", "shadow"]
TRIALS: tuple[Trial, ...] = ("canary", "shadow")


@dataclass(slots=True, eq=False)
class Known:
    """A domain that the bundle or the release lists, or the store has a record of.

    Args:
        record: as applied here; None when the store has none.
        live: the revision that should score, by the record or by the release.
        rejected: revisions of this record or of the release that this replica refused -> why.
        retry_at: the store could not give the record, or a revision that it names: `Clock.now()` seconds from when on
            it is worth another try.
        version: of the record as read; None when it was not read, or not all that it names could be loaded.
        era: `Domains.era` when its revisions were tried; refusals of an earlier one may be out of date.
    """

    record: DomainRecord | None
    live: str | None = None
    rejected: dict[str, str] = field(default_factory=dict)
    retry_at: float | None = None
    version: str | None = None
    era: int = 0

    @property
    def generation(self) -> int:
        """Of the applied record; -1 without one, so any record is newer."""
        return -1 if self.record is None else self.record.generation

    @property
    def canary(self) -> Canary | None:
        """The revision that scores a share of the users."""
        return None if self.record is None else self.record.canary

    @property
    def shadow(self) -> Shadow | None:
        """The revision that scores a share of the requests for comparison only."""
        return None if self.record is None else self.record.shadow

    def trial(self, role: Trial) -> str | None:
        """The revision that the record has for this role."""
        trial = self.canary if role == "canary" else self.shadow
        return None if trial is None else trial.revision


class Domains:
    """Every domain this replica has heard of, unless it was evicted since.

    Args:
        divisions: see `divide`.
        slots: what is in memory.
        observer: told of activations and refusals.
        unknown_limit: ids that are remembered as unknown; the oldest is forgotten first.
    """

    def __init__(
        self,
        divisions: Iterable[Division],
        slots: SlotTable,
        observer: Observer,
        *,
        unknown_limit: int,
    ) -> None:
        self.era = 0
        self._divisions: dict[str, Division] = {}
        self._listed: dict[str, str] = {}
        self._slots = slots
        self._observer = observer
        self._unknown_limit = unknown_limit
        self._unknown: OrderedDict[str, None] = OrderedDict()
        self._known: dict[str, Known] = {}
        self._fleet = FleetRelease()
        self.divide(divisions)

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    @property
    def fleet(self) -> FleetRelease:
        """The release that holds for whatever is applied from now on."""
        return self._fleet

    def follow(self, fleet: FleetRelease) -> None:
        """Let another release hold; domains that are known already follow one by one, by `repoint`."""
        self._fleet = fleet
        self._unknown.clear()

    def divide(self, divisions: Iterable[Division]) -> None:
        """Take the divisions of the bundles in memory, and the domains that they list; the last word on each counts."""
        every = list(divisions)
        self._divisions = {division.name: division for division in every}
        self._listed = {domain: division.name for division in every for domain in division.domains}
        self._unknown.clear()

    def reconsider(self) -> list[str]:
        """Let every refusal so far be tried again when its domain is refreshed next; those domains."""
        self.era += 1
        return [domain for domain, known in self._known.items() if known.rejected]

    def get(self, domain: str) -> Known | None:
        """What is known here; None before the first look into the store, and after an eviction."""
        return self._known.get(domain)

    def generation(self, domain: str) -> int:
        """Of the applied record; -1 without one."""
        known = self._known.get(domain)
        return -1 if known is None else known.generation

    def division_of(self, domain: str) -> str | None:
        """The division's name, from the bundle, else from the applied record, else from the release."""
        if domain in self._listed:
            return self._listed[domain]
        known = self._known.get(domain)
        if known is None or known.record is None:
            return self._fleet.division_of(domain)
        return known.record.division

    def is_auxiliary(self, division: str | None) -> bool:
        """Whether the bundle has this division as an auxiliary one."""
        found = self._divisions.get(division) if division is not None else None
        return found is not None and not found.natural

    def is_unknown(self, domain: str) -> bool:
        """Whether a look into the store found nothing lately."""
        return domain in self._unknown

    def absent(self, domain: str) -> None:
        """Neither store nor release has it: unless the bundle lists it, it is remembered as unknown."""
        known = self._known.get(domain)
        if known is not None:
            if known.record is None and known.live is None:  # a release that listed it was left while it was loading
                self._slots.drop(domain, "live")
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
        known.version = None

    def author(self, domain: str) -> str:
        """Who wrote the record that is applied here; empty without one."""
        known = self._known.get(domain)
        return "" if known is None or known.record is None else known.record.by

    def forget(self, domain: str) -> None:
        """The domain was evicted: the next request pulls it as cold."""
        self._known.pop(domain, None)

    def forget_unknown(self, domains: Iterable[str] | None = None) -> None:
        """Forget ids remembered as unknown; every one if none is named."""
        if domains is None:
            self._unknown.clear()
            return
        for domain in domains:
            self._unknown.pop(domain, None)

    def apply(
        self,
        domain: str,
        record: DomainRecord | None,
        slot: Slot | None,
        rejected: Mapping[str, str] | None = None,
        *,
        retry_at: float | None = None,
        version: str | None = None,
        since: Known | None = None,
        era: int | None = None,
    ) -> bool:
        """Take a record and flip the domain to the slot that it leads to.

        Args:
            domain: whose.
            record: as the store has it; None when the release alone lists the domain.
            slot: None leaves the domain without one.
            rejected: refused revisions -> why.
            retry_at: when to try again, because the store could not give all that was asked for.
            version: of the record as read.
            since: what `get` gave before the store was asked for this record. If that still stands the record is the
                later truth whatever its generation: a store restored from a backup counts on from a lower one.
            era: of what was tried; None is the one that holds.

        Returns:
            False, and nothing changes, when a record of a higher generation was applied meanwhile.
        """
        before = self._known.get(domain)
        generation = -1 if record is None else record.generation
        if before is not None and before is not since and generation < before.generation:
            return False
        self._unknown.pop(domain, None)
        tried = self.era if era is None else era
        known = Known(record, self._fleet.live(domain, record), dict(rejected or {}), retry_at, version, tried)
        self._known[domain] = known
        serving = self._slots.get(domain)
        by_release = known.live is not None and (
            record is None or record.live is None or record.live.revision != known.live
        )
        self._slots.activate(
            domain, slot, keep=by_release, trials={role: self._prepared(domain, known, role) for role in TRIALS}
        )
        if slot is not None and slot.revision is not None and (serving is None or serving.revision != slot.revision):
            self._observer.adapter_loaded("activated")
            author = self._fleet.pointer.by if record is None or by_release else record.by
            was = None if serving is None else serving.revision
            self._observer.activated(domain, slot.revision, known.generation, before=was, by=author)
            fresh = before is None or before.generation != known.generation
            if record is not None and fresh and serving is not None and not by_release:
                self._observer.propagated(record.updated_at)
        if before is not None and before.record is not None and record is not None:
            for move in moves(before.record, record):
                if move.action not in ("set_live", "rollback"):  # those are told when they serve
                    self._observer.followed(
                        move.action, by=record.by, generation=record.generation, domain=domain, **move.facts
                    )
        return True

    def repoint(self, domain: str) -> bool:
        """Let a known domain follow the release that stands now: one reference flip where its slot is prepared.

        Returns:
            Whether its new revision has yet to be loaded; the old one serves until then.
        """
        known = self._known.get(domain)
        if known is None:
            return False
        live = self._fleet.live(domain, known.record)
        if live == known.live:  # what a flip before this one had yet to bring is still to be brought
            serving = self._slots.get(domain)
            return serving is not None and serving.revision != live and live not in known.rejected
        known.live = live
        if live is None:
            self._slots.drop(domain, "live")
            return False
        slot = self._slots.find(domain, live)
        if slot is None:
            return self._slots.get(domain) is not None  # one without is pulled by its next request
        self._slots.activate(domain, slot, keep=True)
        self._observer.adapter_loaded("activated")
        return False

    def wants(self, domain: str, role: Trial) -> str | None:
        """The canary's or shadow's revision that has yet to be prepared here."""
        known = self._known.get(domain)
        revision = None if known is None else known.trial(role)
        if known is None or revision is None or revision in known.rejected:
            return None
        slot = self._slots.get(domain, role)
        return None if slot is not None and slot.revision == revision else revision

    def attach(self, domain: str, role: Trial, slot: Slot) -> None:
        """Let a slot be the canary or the shadow if the applied record still says so."""
        if slot.revision is not None and self.wants(domain, role) == slot.revision:
            self._slots.give(domain, role, slot)

    def reject(self, domain: str, revision: str, reason: str, kind: str = "EngineFailed") -> None:
        """Remember that this replica refuses a revision of what it applied; kind is the class of the error."""
        known = self._known.get(domain)
        if known is not None:
            known.rejected[revision] = reason
        self._observer.rejected(domain, revision, reason, by=self.author(domain), kind=kind)

    def set_aside(self, domain: str, slot: Slot, reason: str) -> None:
        """Stop scoring with a slot that gave a non-finite logit, whatever it is for."""
        home = self._slots.home(domain)
        roles = [] if home is None else [role for role, held in home.slots.items() if held is slot]
        for role in roles:
            self._slots.drop(domain, role)
        if roles and slot.revision is not None:
            self.reject(domain, slot.revision, reason)

    def _prepared(self, domain: str, known: Known, role: Trial) -> Slot | None:
        """The slot of the record's canary or shadow, if it is in memory already, whatever it was for."""
        revision = known.trial(role)
        return None if revision is None or revision in known.rejected else self._slots.find(domain, revision)
