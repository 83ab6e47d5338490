"""What the adapter routes answer and take, as OpenAPI shows it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Literal

import msgspec
from pydantic import BaseModel, ConfigDict, Field

from adapters_store.records import DomainRecord
from service.publisher import DomainState, Published

EXAMPLE_REVISION = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"


class PublishQuery(BaseModel):
    """Query of a publish; an unknown parameter is refused, because a misspelt dry_run would publish."""

    model_config = ConfigDict(extra="forbid")

    revision: str | None = Field(None, description="sha256 (hex) of the body; or send Content-Digest")
    activate: bool = Field(True, description="false stores the adapter without making it live")
    dry_run: bool = Field(False, description="true only verifies")


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
    """Which stored revision an alias shall name."""

    revision: str


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


class FusionReply(BaseModel):
    """What publishing a fusion did."""

    revision: str = Field(examples=[EXAMPLE_REVISION])
    status: Literal["created", "unchanged", "stored", "verified"]


class LiveReply(BaseModel):
    """The revision that a record makes live."""

    revision: str = Field(examples=[EXAMPLE_REVISION])
    epoch: int = Field(description="generation of the release pointer when it was set", examples=[0])


class RecordReply(BaseModel):
    """A domain as the store records it."""

    domain: str = Field(examples=["women"])
    division: str | None = Field(examples=["gender"])
    generation: int | None = Field(description="null when nothing was ever published", examples=[12])
    deleted: bool
    live: LiveReply | None
    updated_at: str | None
    by: str | None

    @classmethod
    def of(cls, record: DomainRecord) -> RecordReply:
        """As the store has it."""
        return cls(
            domain=record.domain,
            division=record.division,
            generation=record.generation,
            deleted=record.deleted,
            live=None if record.live is None else LiveReply(revision=record.live.revision, epoch=record.live.epoch),
            updated_at=record.updated_at,
            by=record.by,
        )


class AdapterList(BaseModel):
    """One page of domains, in order of their ids."""

    adapters: list[RecordReply]
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


class DomainReply(RecordReply):
    """A domain as recorded, and as this replica serves it."""

    resident: ResidentReply | None = Field(description="null when nothing is loaded here")
    rejection: RejectionReply | None = Field(description="the last revision refused here")

    @classmethod
    def of_state(cls, state: DomainState) -> DomainReply:
        """As the core says it."""
        record = _unrecorded(state) if state.record is None else RecordReply.of(state.record).model_dump()
        # the core's dataclasses have these replies' fields by name
        resident = None if state.resident is None else asdict(state.resident)
        rejection = None if state.rejection is None else asdict(state.rejection)
        return cls.model_validate({**record, "resident": resident, "rejection": rejection})


class RevisionEntry(BaseModel):
    """One revision in a domain's history."""

    revision: str = Field(examples=[EXAMPLE_REVISION])
    alias: Literal["live", "previous"]
    epoch: int
    rolled_back: bool = Field(description="a roll back walked away from it, and will not return to it")


class RevisionList(BaseModel):
    """The live revision and those before it, newest first."""

    domain: str
    revisions: list[RevisionEntry]

    @classmethod
    def of(cls, record: DomainRecord) -> RevisionList:
        """The history of a record."""
        live = [] if record.live is None else [(record.live.revision, "live", record.live.epoch, False)]
        previous = [(entry.revision, "previous", entry.epoch, entry.rolled_back) for entry in record.previous]
        names = ("revision", "alias", "epoch", "rolled_back")
        return cls(
            domain=record.domain,
            revisions=[RevisionEntry.model_validate(dict(zip(names, row, strict=True))) for row in [*live, *previous]],
        )


class ManifestReply(BaseModel):
    """A stored revision's manifest, as its artifact carries it."""

    domain: str
    revision: str = Field(examples=[EXAMPLE_REVISION])
    manifest: dict[str, Any]


class HealthReply(BaseModel):
    """A health check that passed."""

    status: Literal["ok"] = "ok"


def _unrecorded(state: DomainState) -> dict[str, Any]:
    empty = dict.fromkeys(("generation", "live", "updated_at", "by"))
    return {**empty, "domain": state.domain, "division": state.division, "deleted": False}
