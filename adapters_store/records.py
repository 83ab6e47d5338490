"""Records: the mutable truth of which revision is live, as they are stored.

A record is changed only by compare-and-set on its `generation`, which grows by one with each change and never restarts:
deleting a domain writes a tombstone. `transitions` and `releases` have the pure changes.

Mixed builds: unknown keys are kept at every depth, so an older build's change drops nothing that a newer one stored; a
newer `schema` is refused by its name.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Generic, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from adapters_store.errors import BadId, MalformedRecord, NewerSchema, RecordConflict
from adapters_store.ids import check_division, check_domain, check_revision
from adapters_store.validation import explain

SCHEMA = 1
HISTORY = 16
PREWARM_DOMAINS = 10_000

Domain = Annotated[str, AfterValidator(check_domain)]
DivisionName = Annotated[str, AfterValidator(check_division)]
Revision = Annotated[str, AfterValidator(check_revision)]
Generation = Annotated[int, Field(ge=0)]
Percent = Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)]


class _Part(BaseModel):
    """Unknown keys are kept: an older writer must not drop what a newer one stored."""

    model_config = ConfigDict(extra="allow", frozen=True, populate_by_name=True, serialize_by_alias=True)


class Stored(_Part):
    """What every record has.

    Args:
        schema_: Of its form; written as `schema`.
        generation: Grows by one with each change; 0 only before the first write.
        updated_at: RFC 3339, UTC.
        by: Who changed it last.
    """

    schema_: int = Field(default=SCHEMA, alias="schema", ge=1)
    generation: Generation = 0
    updated_at: str = ""
    by: str = ""


class Live(_Part):
    """The revision that serves.

    Args:
        revision: Which.
        epoch: Generation of the fleet's release pointer when it was made live; 0 without releases.
    """

    revision: Revision
    epoch: Generation = 0


class Previous(Live):
    """A revision that served before.

    Args:
        rolled_back: It was live and someone rolled back from it; rolling back never leads to it.
    """

    rolled_back: bool = False


class Shadow(_Part):
    """A revision that is scored beside the live one and changes no reply.

    Args:
        revision: Which.
        percent: Of the requests, 0 < percent <= 100.
    """

    revision: Revision
    percent: Percent


class Canary(Shadow):
    """A revision that serves some users.

    Args:
        revision: Which.
        percent: Of the users, 0 < percent <= 100.
        salt: Decides with the user's id who is in; kept while percent moves, so that nobody who was in falls out.
    """

    salt: str


class Stop(_Part):
    """Changes are stopped.

    Args:
        by: Who stopped them.
        at: RFC 3339, UTC.
        reason: Why; shown to whoever is refused.
    """

    by: str = ""
    at: str = ""
    reason: str = ""


class Mark(_Part):
    """A blob that garbage collection will remove.

    Args:
        since: When it was condemned; RFC 3339, UTC.
        deleting: The grace period is over and it may be gone at any moment: it cannot be named any more.
    """

    since: str
    deleting: bool = False


class DomainRecord(Stored):
    """What a domain serves, apart from what the fleet's release says (`releases.effective`).

    Args:
        domain: Which.
        division: Its division.
        epoch: Generation of the release pointer that the last change of `live`, a tombstone too, was made under.
        live: The revision that serves, or None.
        canary: What some users are served, or None.
        shadow: What is scored beside, or None.
        previous: Newest first, at most 16.
        deleted: A tombstone: nothing serves until something is activated.
        frozen: Changes of this domain are stopped, or None.
        condemned: Revisions of this domain that garbage collection will remove.
    """

    domain: Domain
    division: DivisionName
    epoch: Generation = 0
    live: Live | None = None
    canary: Canary | None = None
    shadow: Shadow | None = None
    previous: list[Previous] = Field(default_factory=list, max_length=HISTORY)
    deleted: bool = False
    frozen: Stop | None = None
    condemned: dict[Revision, Mark] = Field(default_factory=dict)

    def names(self) -> set[str]:
        """Every revision that this record names: live, canary, shadow and history."""
        aliases = [alias.revision for alias in (self.live, self.canary, self.shadow) if alias is not None]
        return {*aliases, *(entry.revision for entry in self.previous)}


class BackboneRecord(Stored):
    """Which backbone bundle is the default.

    Args:
        default: Revision of the bundle, or None.
        previous: Earlier defaults, newest first, at most 16.
    """

    default: Revision | None = None
    previous: list[Revision] = Field(default_factory=list, max_length=HISTORY)


class Released(_Part):
    """A release as the pointer remembers it.

    Args:
        release: Its revision; None: no release.
        since: Generation of the pointer when it was flipped to; a domain's own change made since then stands above it.
    """

    release: Revision | None = None
    since: Generation = 0


class ReleasePointer(Stored, Released):
    """Which fleet release serves.

    Args:
        parent: What rolling back leads to; None: there is nothing.
        previous: Earlier ones, newest first (the first is the parent), at most 16.
    """

    parent: Released | None = None
    previous: list[Released] = Field(default_factory=list, max_length=HISTORY)


class StagedRelease(Stored):
    """Which release replicas shall fetch and prepare.

    Args:
        release: Its revision, or None.
        at: When it was staged; RFC 3339, UTC.
    """

    release: Revision | None = None
    at: str = ""


class ReplicaReport(Stored):
    """What a replica says of itself.

    Args:
        replica: Its id.
        release: The staged release that it prepares, or None.
        staged: How many of that release's domains that it is to hold are prepared.
        of: How many it is to hold.
    """

    replica: Domain
    release: Revision | None = None
    staged: int = Field(default=0, ge=0)
    of: int = Field(default=0, ge=0)


class Switches(Stored):
    """What holds for the whole fleet.

    Args:
        frozen: Changes are stopped everywhere, or None.
        adapters_only_backbone: Every domain is served by the plain backbone.
    """

    frozen: Stop | None = None
    adapters_only_backbone: bool = False


class PrewarmList(Stored):
    """What a starting replica loads first.

    Args:
        domains: By traffic, the busiest first.
    """

    domains: list[Domain] = Field(default_factory=list, max_length=PREWARM_DOMAINS)


class FeatureRecord(Stored):
    """Which feature table of one side a backbone's fingerprint uses.

    Args:
        revision: Of the newest layer, or None: that of the bundle.
        previous: Earlier ones, newest first, at most 16.
    """

    revision: Revision | None = None
    previous: list[Revision] = Field(default_factory=list, max_length=HISTORY)


class GarbageRecord(Stored):
    """Condemned blobs that no domain owns.

    Args:
        condemned: Their marks.
        sweeping: A collection is deleting: a release cannot be staged meanwhile.
    """

    condemned: dict[Revision, Mark] = Field(default_factory=dict)
    sweeping: Stop | None = None


RecordT = TypeVar("RecordT", bound=Stored)


@dataclass(frozen=True, slots=True)
class Stamped(Generic[RecordT]):
    """A record as it was read.

    Args:
        record: The record.
        version: Opaque; differs whenever the stored content does (`Backend.versions`).
    """

    record: RecordT
    version: str


@dataclass(frozen=True, slots=True)
class Condition:
    """What an ETag says: `<record generation>.<pointer generation>`.

    Args:
        generation: That the domain's record must have; 0: there is none.
        pointer: That the release pointer must have; None: whatever it has.
    """

    generation: int
    pointer: int | None = None

    @classmethod
    def of(cls, given: "int | Condition | None") -> "Condition | None":
        """What a caller asked for: a generation alone leaves the pointer open."""
        return cls(given) if isinstance(given, int) else given

    def check(self, key: str, generation: int, pointer: int) -> None:
        """Hold a domain's state to what the caller saw.

        Args:
            key: Of the record, to be named.
            generation: Of the record as it is; 0: there is none.
            pointer: Generation of the release pointer as it is.

        Raises:
            RecordConflict: It is another; both generations are named.
        """
        if generation != self.generation:
            raise RecordConflict(f"record {key!r} has generation {generation}, not {self.generation}")
        if self.pointer is not None and pointer != self.pointer:
            raise RecordConflict(f"the release pointer has generation {pointer}, not {self.pointer}")


def parse_record(content: Mapping[str, Any], kind: type[RecordT], key: str) -> RecordT:
    """Check stored JSON as a record.

    Raises:
        NewerSchema: A newer build wrote it; key, its schema and the newest known here are named.
        MalformedRecord: It is not one; key and fault named.
    """
    schema = content.get("schema", SCHEMA)
    if type(schema) is int and schema > SCHEMA:
        newest = f"newer than {SCHEMA}, the newest that this build reads"
        raise NewerSchema(f"record {key!r} has schema {schema}, {newest}: update Espalier")
    try:
        return kind.model_validate(content)
    except (ValidationError, BadId) as error:
        fault = explain(error, kind) if isinstance(error, ValidationError) else str(error)
        raise MalformedRecord(f"record {key!r}: {fault}") from None


def changed(record: RecordT, by: str, now: float, **changes: Any) -> RecordT:
    """The next generation of a record.

    Args:
        record: As it is.
        by: Who changes it.
        now: Clock time in seconds.
        changes: Fields by name.
    """
    changes |= {"generation": record.generation + 1, "updated_at": rfc3339(now), "by": by}
    return record.model_copy(update=changes)


def rfc3339(now: float) -> str:
    """A time in seconds since the epoch, as it stands in records."""
    return datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def seconds_of(text: str) -> float | None:
    """The time that `rfc3339` wrote, in seconds since the epoch; None for anything else."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None
