"""Records: the mutable truth of which revision is live, and the pure transitions between their states.

A record is changed only by compare-and-set on its `generation`, which grows by one with each change and never restarts:
deleting writes a tombstone. Nothing here reads a clock or a store.
"""

from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from adapters_store.errors import BadId, MalformedRecord, NothingToRollBack, RecordConflict, WrongDomain
from adapters_store.ids import check_division, check_domain, check_revision
from adapters_store.validation import explain

HISTORY = 16

Domain = Annotated[str, AfterValidator(check_domain)]
DivisionName = Annotated[str, AfterValidator(check_division)]
Revision = Annotated[str, AfterValidator(check_revision)]
Generation = Annotated[int, Field(ge=0)]


class _Record(BaseModel):
    """Unknown keys are kept: an older writer must not drop what a newer one stored."""

    model_config = ConfigDict(extra="allow", frozen=True)


class Live(_Record):
    """The revision that serves.

    Args:
        revision: Which.
        epoch: Generation of the fleet's release pointer when it was published; 0 without releases.
    """

    revision: Revision
    epoch: Generation = 0


class Previous(Live):
    """A revision that served before.

    Args:
        rolled_back: It was live and someone rolled back from it; rolling back never leads to it.
    """

    rolled_back: bool = False


class DomainRecord(_Record):
    """What a domain serves.

    Args:
        domain: Which.
        division: Its division.
        generation: Grows by one with each change; 0 only before the first write.
        live: The revision that serves, or None.
        previous: Newest first, at most 16.
        deleted: A tombstone: nothing serves until something is activated.
        updated_at: RFC 3339, UTC.
        by: Who changed it last.
    """

    domain: Domain
    division: DivisionName
    generation: Generation = 0
    live: Live | None = None
    previous: list[Previous] = Field(default_factory=list, max_length=HISTORY)
    deleted: bool = False
    updated_at: str = ""
    by: str = ""


class BackboneRecord(_Record):
    """Which backbone bundle is the default.

    Args:
        generation: Grows by one with each change; 0 only before the first write.
        default: Revision of the bundle, or None.
        previous: Earlier defaults, newest first, at most 16.
        updated_at: RFC 3339, UTC.
        by: Who changed it last.
    """

    generation: Generation = 0
    default: Revision | None = None
    previous: list[Revision] = Field(default_factory=list, max_length=HISTORY)
    updated_at: str = ""
    by: str = ""


def activated(record: DomainRecord, division: str, revision: str, by: str, now: float, epoch: int = 0) -> DomainRecord:
    """Make a revision live; what was live becomes the newest of `previous`.

    Args:
        record: As it is; generation 0 for a new domain.
        division: The revision's.
        revision: What becomes live; if it already is, nothing changes.
        by: Who asks.
        now: Clock time in seconds.
        epoch: Generation of the release pointer.

    Returns:
        The next record, or `record` itself.

    Raises:
        WrongDomain: The domain is in use and of another division.
    """
    if not record.deleted and record.division != division:
        raise WrongDomain(f"domain {record.domain!r} is of division {record.division!r}, not {division!r}")
    if record.live is not None and record.live.revision == revision:
        return record
    previous = [*_retired(record), *record.previous]
    return _changed(
        record,
        by,
        now,
        division=division,
        live=Live(revision=revision, epoch=epoch),
        previous=[entry for entry in previous if entry.revision != revision],
        deleted=False,
    )


def rolled_back(record: DomainRecord, from_: str, by: str, now: float) -> DomainRecord:
    """Walk back to the newest earlier revision that nobody rolled back from.

    Args:
        record: As it is.
        from_: The revision to leave; it must be the live one, so that two who see one fault roll back once.
        by: Who asks.
        now: Clock time in seconds.

    Returns:
        The next record; the revision that was left heads `previous`, marked.

    Raises:
        RecordConflict: Another revision is live, or none.
        NothingToRollBack: There is no such earlier revision.
    """
    if record.live is None or record.live.revision != from_:
        live = record.live.revision if record.live else "none"
        raise RecordConflict(f"domain {record.domain!r}: cannot roll back from {from_}, the live revision is {live}")
    target = next((entry for entry in record.previous if not entry.rolled_back), None)
    if target is None:
        raise NothingToRollBack(f"domain {record.domain!r} has no earlier revision that was not rolled back from")
    left = [entry for entry in record.previous if entry is not target]
    return _changed(
        record,
        by,
        now,
        live=Live.model_validate(target.model_dump(exclude={"rolled_back"})),
        previous=[*_retired(record, rolled_back=True), *left],
    )


def deleted(record: DomainRecord, by: str, now: float) -> DomainRecord:
    """Write a tombstone; the history stays, and so does the generation's count.

    Args:
        record: As it is; a tombstone does not change.
        by: Who asks.
        now: Clock time in seconds.

    Returns:
        The next record, or `record` itself.
    """
    if record.deleted:
        return record
    return _changed(record, by, now, live=None, previous=[*_retired(record), *record.previous], deleted=True)


def defaulted(record: BackboneRecord, revision: str, by: str, now: float) -> BackboneRecord:
    """Make a bundle the default; what was the default heads `previous`.

    Args:
        record: As it is; generation 0 for a new store.
        revision: What becomes the default; if it already is, nothing changes.
        by: Who asks.
        now: Clock time in seconds.

    Returns:
        The next record, or `record` itself.
    """
    if record.default == revision:
        return record
    previous = [*([record.default] if record.default else []), *record.previous]
    kept = [entry for entry in previous if entry != revision][:HISTORY]
    return _changed(record, by, now, default=revision, previous=kept)


RecordT = TypeVar("RecordT", DomainRecord, BackboneRecord)


def parse_record(content: dict[str, Any], kind: type[RecordT], key: str) -> RecordT:
    """Check stored JSON as a record.

    Raises:
        MalformedRecord: It is not one; key and fault named.
    """
    try:
        return kind.model_validate(content)
    except (ValidationError, BadId) as error:
        fault = explain(error, kind) if isinstance(error, ValidationError) else str(error)
        raise MalformedRecord(f"record {key!r}: {fault}") from None


def _retired(record: DomainRecord, rolled_back: bool = False) -> list[Previous]:
    if record.live is None:
        return []
    return [Previous.model_validate({**record.live.model_dump(), "rolled_back": rolled_back})]


def _changed(record: RecordT, by: str, now: float, **changes: Any) -> RecordT:
    if "previous" in changes:
        changes["previous"] = changes["previous"][:HISTORY]
    changes |= {"generation": record.generation + 1, "updated_at": _rfc3339(now), "by": by}
    return record.model_copy(update=changes)


def _rfc3339(now: float) -> str:
    return datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
