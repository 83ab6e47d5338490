"""The fleet's release as it stands for this replica: which revision it makes live for a domain."""

from __future__ import annotations

from dataclasses import dataclass, field

from adapters_store.records import DomainRecord, ReleasePointer
from adapters_store.releases import Release, Standing


@dataclass(frozen=True, slots=True, eq=False)
class FleetRelease:
    """A release pointer with its manifest. Immutable: a flip replaces it.

    Args:
        pointer: as read.
        release: what it names; None when it names none.
    """

    pointer: ReleasePointer = field(default_factory=ReleasePointer)
    release: Release | None = None
    # the manifest in one dictionary: a flip asks for every resident domain, and a model's attributes are slow
    _revisions: dict[str, str] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        if self.release is not None:
            for domains in self.release.divisions.values():
                self._revisions.update(domains)

    def live(self, domain: str, record: DomainRecord | None) -> str | None:
        """The revision that should score a domain, with or without a record of its own."""
        revision = self._revisions.get(domain)
        if revision is None and record is None:
            return None
        return Standing(since=self.pointer.since, revision=revision).effective(record)

    def division_of(self, domain: str) -> str | None:
        """The division in which the release has the domain."""
        return None if self.release is None else self.release.division_of(domain)
