"""Fleet releases: one manifest for all domains, made live by one change of one record.

Effective live of a domain: its record's own if that was changed under this release (epoch >= since) or the release
lacks the domain, else the release's. A flip thus takes one compare-and-set however many domains there are, a single
publish after it stands above it, and rolling back brings back exactly what was there, single publishes included.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, model_validator

from adapters_store.bounds import Bound
from adapters_store.canonical import canonical_json, parse_json
from adapters_store.errors import BadId, LimitExceeded, MalformedArtifact, NothingToRollBack, RecordConflict
from adapters_store.manifest import SCHEMA
from adapters_store.records import (
    HISTORY,
    DivisionName,
    Domain,
    DomainRecord,
    Released,
    ReleasePointer,
    Revision,
    StagedRelease,
    changed,
    rfc3339,
)
from adapters_store.validation import explain

RELEASE_BOUND = Bound(256 * 2**20, "the format of a release")


class Release(BaseModel):
    """A release manifest: which revision each domain serves.

    Args:
        schema_: Of its form; written as `schema`.
        kind: `release`.
        divisions: Division to domain to revision; a domain stands in one division.
    """

    model_config = ConfigDict(extra="allow", frozen=True, populate_by_name=True, serialize_by_alias=True)

    schema_: int = Field(default=SCHEMA, alias="schema", ge=1)
    kind: Literal["release"] = "release"
    divisions: dict[DivisionName, dict[Domain, Revision]] = Field(default_factory=dict)
    _division_of: dict[str, str] = PrivateAttr(default_factory=dict)

    @model_validator(mode="after")
    def _domain_stands_once(self) -> Self:
        for division, domains in self.divisions.items():
            for domain in domains:
                if self._division_of.setdefault(domain, division) != division:
                    raise ValueError(f"domain {domain!r} stands in {self._division_of[domain]!r} and {division!r}")
        return self

    def __len__(self) -> int:
        return len(self._division_of)

    def revision_of(self, domain: str) -> str | None:
        """The revision that this release gives to a domain, or None."""
        division = self._division_of.get(domain)
        return None if division is None else self.divisions[division][domain]

    def division_of(self, domain: str) -> str | None:
        """The division of a domain of this release, or None."""
        return self._division_of.get(domain)

    def domains(self) -> Iterator[str]:
        """All domains of this release."""
        return iter(self._division_of)

    def revisions(self) -> set[str]:
        """All revisions that this release names."""
        return {revision for domains in self.divisions.values() for revision in domains.values()}

    def encoded(self) -> bytes:
        """The blob: canonical JSON, whose sha256 is the release's revision."""
        return canonical_json(self.model_dump(mode="json"))


def parse_release(content: bytes) -> Release:
    """Read a release manifest.

    Raises:
        LimitExceeded: It is too large.
        MalformedArtifact: It is none, or of a newer schema; the fault is named.
    """
    if len(content) > RELEASE_BOUND.size_bytes:
        raise LimitExceeded(f"a release of {len(content)} bytes, more than the limit of {RELEASE_BOUND.size_bytes}")
    try:
        found = parse_json(content)
        schema = found.get("schema") if isinstance(found, dict) else None
        if isinstance(schema, int) and schema > SCHEMA:
            raise ValueError(f"schema {schema} is newer than {SCHEMA}, the newest that this build reads")
        return Release.model_validate(found)
    except ValidationError as error:
        raise MalformedArtifact(f"a release: {explain(error, Release)}") from None
    except (ValueError, BadId) as error:
        raise MalformedArtifact(f"a release: {error}") from None


@dataclass(frozen=True, slots=True)
class Standing:
    """What the fleet's release says of one domain.

    Args:
        generation: Of the pointer; what a change made now stores as its epoch.
        since: Of the release.
        revision: That the release gives to the domain, or None.
        division: Of the domain in the release, or None.
    """

    generation: int = 0
    since: int = 0
    revision: str | None = None
    division: str | None = None

    def effective(self, record: DomainRecord | None) -> str | None:
        """What the domain serves."""
        own = record.live.revision if record is not None and record.live is not None else None
        if self.revision is None or (record is not None and record.generation > 0 and record.epoch >= self.since):
            return own
        return self.revision


def standing(pointer: ReleasePointer, release: Release | None, domain: str) -> Standing:
    """What the fleet's release says of a domain.

    Args:
        pointer: As it was read.
        release: The one that it names.
        domain: Which.
    """
    if release is None:
        return Standing(pointer.generation, pointer.since)
    return Standing(pointer.generation, pointer.since, release.revision_of(domain), release.division_of(domain))


def effective(record: DomainRecord | None, pointer: ReleasePointer, release: Release | None, domain: str) -> str | None:
    """Effective live of a domain (design.md 2); pure, and as fast for a fleet as for one domain.

    Args:
        record: The domain's, or None.
        pointer: As it was read.
        release: The one that the pointer names, or None if it names none.
        domain: Which.

    Returns:
        The revision that serves, or None.
    """
    return standing(pointer, release, domain).effective(record)


def staged(record: StagedRelease, release: str | None, by: str, now: float) -> StagedRelease:
    """Stage a release, or none; unchanged if it is staged already."""
    if record.release == release:
        return record
    return changed(record, by, now, release=release, at=rfc3339(now))


def flipped(pointer: ReleasePointer, release: str, by: str, now: float) -> ReleasePointer:
    """Make a release live above every domain's own revision; unchanged if it is live already.

    Args:
        pointer: As it is; generation 0 before the first release.
        release: Its revision.
        by: Who asks.
        now: Clock time in seconds.
    """
    if pointer.release == release:
        return pointer
    before = Released(release=pointer.release, since=pointer.since)
    return changed(
        pointer,
        by,
        now,
        release=release,
        since=pointer.generation + 1,
        parent=before,
        previous=[before, *pointer.previous][:HISTORY],
    )


def release_rolled_back(pointer: ReleasePointer, from_: str, by: str, now: float) -> ReleasePointer:
    """Return to the release before, with its `since`: domains changed under it keep their own revisions.

    Args:
        pointer: As it is.
        from_: The release to leave; it must be the live one, so that two who see one fault roll back once.
        by: Who asks.
        now: Clock time in seconds.

    Raises:
        RecordConflict: Another release is live, or none.
        NothingToRollBack: There is no earlier one.
    """
    if pointer.release != from_:
        raise RecordConflict(f"cannot roll back from release {from_}, the live one is {pointer.release or 'none'}")
    if pointer.parent is None:
        raise NothingToRollBack("there is no earlier release that was not rolled back from")
    left = pointer.previous[1:]
    return changed(
        pointer,
        by,
        now,
        release=pointer.parent.release,
        since=pointer.parent.since,
        parent=left[0] if left else None,
        previous=left,
    )
