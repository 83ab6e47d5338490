"""What the adapter routes answer and take, as OpenAPI shows it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Literal

import msgspec
from pydantic import BaseModel, ConfigDict, Field

from adapters_store.records import DomainRecord
from service.catalog import DomainState, Listed
from service.published import Published

EXAMPLE_REVISION = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"


class PublishQuery(BaseModel):
    """Query of a publish; an unknown parameter is refused, because a misspelt dry_run would publish."""

    model_config = ConfigDict(extra="forbid")

    revision: str | None = Field(None, description="sha256 (hex) of the body; or send Content-Digest")
    activate: bool = Field(True, description="false stores the adapter without making it live, if the condition holds")
    dry_run: bool = Field(False, description="true only verifies the adapter and the condition")


class FusionQuery(BaseModel):
    """Query of a fusion's publish."""

    model_config = ConfigDict(extra="forbid")

    revision: str | None = Field(None, description="sha256 (hex) of the body; or send Content-Digest")


class PageQuery(BaseModel):
    """Query of a listing."""

    model_config = ConfigDict(extra="forbid")

    after: str = Field("", description="the `next` of the page before")
    limit: int = Field(100, ge=1, le=1000, description="most entries of the page")


class NoQuery(BaseModel):
    """A route without query parameters."""

    model_config = ConfigDict(extra="forbid")


class AliasBody(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Which stored revision an alias shall name, and for which share of users or requests."""

    revision: str
    percent: Annotated[float, msgspec.Meta(gt=0, le=100)] | None = None


class RollbackBody(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The live revision to walk back from."""

    from_: str = msgspec.field(name="from")


class PublishReply(BaseModel):
    """What a publish did."""

    domain: str = Field(examples=["women"])
    revision: str = Field(examples=[EXAMPLE_REVISION])
    generation: int | None = Field(description="of the domain's record; null when it has none", examples=[12])
    status: Literal["created", "unchanged", "stored", "verified", "pending"] = Field(
        description="pending (202): accepted, but not active on this replica within the time it waits"
    )

    @classmethod
    def of(cls, published: Published) -> PublishReply:
        """As the core says it."""
        return cls(
            domain=published.domain,
            revision=published.revision,
            generation=published.generation,
            status=published.status,
        )


class PendingReply(BaseModel):
    """A change that goes on behind this reply."""

    domain: str = Field(examples=["women"])
    status: Literal["pending"] = "pending"


class FusionReply(BaseModel):
    """What publishing a fusion did."""

    revision: str = Field(examples=[EXAMPLE_REVISION])
    status: Literal["created", "unchanged", "stored", "verified"]


class LiveReply(BaseModel):
    """The revision that a record makes live."""

    revision: str = Field(examples=[EXAMPLE_REVISION])
    epoch: int = Field(description="generation of the release pointer when it was set", examples=[0])


class ShareReply(BaseModel):
    """A revision that scores, or shadows, a share."""

    revision: str = Field(examples=[EXAMPLE_REVISION])
    percent: float = Field(description="of the users (canary) or of the requests (shadow)", examples=[5.0])


class StopReply(BaseModel):
    """Who stopped changes, and why."""

    by: str
    at: str
    reason: str


class RecordReply(BaseModel):
    """A domain as the store records it."""

    domain: str = Field(examples=["women"])
    division: str | None = Field(examples=["gender"])
    generation: int | None = Field(description="null when nothing was ever published", examples=[12])
    deleted: bool
    live: LiveReply | None = Field(description="the record's own; a release may name another one")
    canary: ShareReply | None
    shadow: ShareReply | None
    frozen: StopReply | None = Field(description="set while changes of this domain are refused (423)")
    updated_at: str | None
    by: str | None

    @classmethod
    def of(cls, record: DomainRecord) -> RecordReply:
        """As the store has it."""
        canary, shadow, frozen = record.canary, record.shadow, record.frozen
        return cls(
            domain=record.domain,
            division=record.division,
            generation=record.generation,
            deleted=record.deleted,
            live=None if record.live is None else LiveReply(revision=record.live.revision, epoch=record.live.epoch),
            canary=None if canary is None else ShareReply(revision=canary.revision, percent=canary.percent),
            shadow=None if shadow is None else ShareReply(revision=shadow.revision, percent=shadow.percent),
            frozen=None if frozen is None else StopReply(by=frozen.by, at=frozen.at, reason=frozen.reason),
            updated_at=record.updated_at,
            by=record.by,
        )


class ListedReply(RecordReply):
    """A domain as recorded, and what makes it live."""

    effective_live: str | None = Field(
        description="the revision that should score: the record's own or the release's", examples=[EXAMPLE_REVISION]
    )
    error: str | None = Field(description="why the record cannot be read; null when it can")

    @classmethod
    def of_listed(cls, listed: Listed) -> ListedReply:
        """As the core says it."""
        return cls.model_validate(
            _recorded(listed.domain, None, listed.record) | {"effective_live": listed.live, "error": listed.fault}
        )


class AdapterList(BaseModel):
    """One page of domains that have a record, in order of their ids."""

    adapters: list[ListedReply]
    next: str | None = Field(description="cursor of the next page; null at the end")


class ResidentReply(BaseModel):
    """What scores the domain on this replica."""

    revision: str
    generation: int
    fuses: dict[str, str] = Field(description="auxiliary domain -> pinned revision")
    size_bytes: int


class RejectionReply(BaseModel):
    """What this replica refused, and why."""

    revision: str
    reason: str


class DomainReply(ListedReply):
    """A domain as recorded, and as this replica serves it."""

    pointer: int = Field(description="generation of the release pointer; the ETag's second half")
    resident: ResidentReply | None = Field(description="null when nothing is loaded here")
    prepared: list[Literal["canary", "shadow"]] = Field(description="which of them are loaded here")
    rejection: RejectionReply | None = Field(description="the refused revision that matters most here")
    rejections: dict[str, str] = Field(description="every revision refused here, canary and shadow too -> why")

    @classmethod
    def of_state(cls, state: DomainState) -> DomainReply:
        """As the core says it."""
        return cls.model_validate(
            _recorded(state.domain, state.division, state.record)
            | {
                "effective_live": state.live,
                "error": state.fault,
                "pointer": state.pointer,
                # the core's dataclasses have these replies' fields by name
                "resident": None if state.resident is None else asdict(state.resident),
                "prepared": list(state.prepared),
                "rejection": None if state.rejection is None else asdict(state.rejection),
                "rejections": dict(state.rejected),
            }
        )


class RevisionEntry(BaseModel):
    """One revision that a domain names or named."""

    revision: str = Field(examples=[EXAMPLE_REVISION])
    alias: Literal["release", "live", "canary", "shadow", "previous"] = Field(
        description="release: the fleet's release puts it before live"
    )
    epoch: int | None = Field(description="generation of the release pointer when it was made live; null otherwise")
    rolled_back: bool = Field(description="a roll back walked away from it, and will not return to it")


class RevisionList(BaseModel):
    """What scores first: the release's if it does, live, canary, shadow, then those before, newest first."""

    domain: str
    revisions: list[RevisionEntry]

    @classmethod
    def of(cls, state: DomainState) -> RevisionList:
        """What a domain's record and the release name."""
        record = state.record
        own = None if record is None else record.live
        rows: list[tuple[str, str, int | None, bool]] = []
        if state.live is not None and (own is None or own.revision != state.live):
            rows.append((state.live, "release", None, False))
        if own is not None:
            rows.append((own.revision, "live", own.epoch, False))
        if record is not None:
            trials = (("canary", record.canary), ("shadow", record.shadow))
            rows += [(trial.revision, alias, None, False) for alias, trial in trials if trial is not None]
            rows += [(entry.revision, "previous", entry.epoch, entry.rolled_back) for entry in record.previous]
        names = ("revision", "alias", "epoch", "rolled_back")
        entries = [RevisionEntry.model_validate(dict(zip(names, row, strict=True))) for row in rows]
        return cls(domain=state.domain, revisions=entries)


class ManifestReply(BaseModel):
    """A stored revision's manifest, as its artifact carries it."""

    domain: str
    revision: str = Field(examples=[EXAMPLE_REVISION])
    manifest: dict[str, Any]


class HealthReply(BaseModel):
    """A health check that passed."""

    status: Literal["ok"] = "ok"


def _recorded(domain: str, division: str | None, record: DomainRecord | None) -> dict[str, Any]:
    """The fields of RecordReply, for a domain without a record that can be read too."""
    if record is not None:
        return RecordReply.of(record).model_dump()
    empty = dict.fromkeys(("generation", "live", "canary", "shadow", "frozen", "updated_at", "by"))
    return {**empty, "domain": domain, "division": division, "deleted": False}
