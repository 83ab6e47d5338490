"""The pure changes of records: nothing here reads a clock or a store.

A change that changes nothing returns the record itself, so that a repeated request writes nothing.
"""

from collections.abc import Collection
from typing import TypeVar

from adapters_store.errors import BadId, BlobMissing, NothingToRollBack, RecordConflict, WrongDomain
from adapters_store.records import (
    HISTORY,
    BackboneRecord,
    Canary,
    DomainRecord,
    FeatureRecord,
    GarbageRecord,
    Live,
    Mark,
    Previous,
    Shadow,
    Stop,
    Switches,
    changed,
    rfc3339,
)
from adapters_store.releases import Standing

ALONE = Standing()
Stoppable = TypeVar("Stoppable", DomainRecord, Switches)
Marked = TypeVar("Marked", DomainRecord, GarbageRecord)


def activated(
    record: DomainRecord, division: str, revision: str, by: str, now: float, standing: Standing = ALONE
) -> DomainRecord:
    """Make a revision live; what was effectively live becomes the newest of `previous`.

    Args:
        record: As it is; generation 0 for a new domain.
        division: The revision's.
        revision: What becomes live; if it effectively is, nothing changes.
        by: Who asks.
        now: Clock time in seconds.
        standing: What the fleet's release says of the domain.

    Returns:
        The next record, or `record` itself; a canary or shadow of the same revision ends.

    Raises:
        WrongDomain: The domain is in use and of another division.
        BlobMissing: The revision is being deleted.
    """
    serving = standing.effective(record)
    held = standing.division if record.generation == 0 or record.deleted else record.division
    if held is not None and serving is not None and held != division:
        raise WrongDomain(f"domain {record.domain!r} is of division {held!r}, not {division!r}")
    if serving == revision:
        return record
    return _serving(record, revision, _retired(record, standing), by, now, standing, division=division, deleted=False)


def rolled_back(record: DomainRecord, from_: str, by: str, now: float, standing: Standing = ALONE) -> DomainRecord:
    """Walk back to the newest earlier revision that nobody rolled back from.

    Args:
        record: As it is.
        from_: The revision to leave; it must be the effective live one, so that two who see one fault roll back once.
        by: Who asks.
        now: Clock time in seconds.
        standing: What the fleet's release says of the domain. Where that serves, the record's own live one is the
            newest earlier one.

    Returns:
        The next record; the revision that was left heads `previous`, marked.

    Raises:
        RecordConflict: Another revision is live, or none.
        NothingToRollBack: There is no such earlier revision.
        BlobMissing: The earlier revision is being deleted.
    """
    serving = standing.effective(record)
    if serving != from_:
        raise RecordConflict(
            f"domain {record.domain!r}: cannot roll back from {from_}, the live revision is {serving or 'none'}"
        )
    left, *earlier = _retired(record, standing)
    earlier += [entry for entry in record.previous if entry.revision != from_]
    target = next((entry for entry in earlier if not entry.rolled_back), None)
    if target is None:
        raise NothingToRollBack(f"domain {record.domain!r} has no earlier revision that was not rolled back from")
    history = [left.model_copy(update={"rolled_back": True}), *earlier]
    return _serving(record, target.revision, history, by, now, standing, deleted=False)


def deleted(record: DomainRecord, by: str, now: float, standing: Standing = ALONE) -> DomainRecord:
    """Write a tombstone; the history stays, and so does the generation's count.

    Args:
        record: As it is; a tombstone that stands above the release does not change.
        by: Who asks.
        now: Clock time in seconds.
        standing: What the fleet's release says of the domain.

    Returns:
        The next record, or `record` itself.
    """
    if record.deleted and standing.effective(record) is None:
        return record
    history = _history([*_retired(record, standing), *record.previous])
    ended = {"live": None, "canary": None, "shadow": None, "deleted": True}
    return changed(record, by, now, **ended, previous=history, epoch=standing.generation)


def canaried(
    record: DomainRecord, revision: str, percent: float, salt: str, by: str, now: float, standing: Standing = ALONE
) -> DomainRecord:
    """Serve a revision to some users.

    Args:
        record: As it is.
        revision: Which.
        percent: Of the users, 0 < percent <= 100.
        salt: Used if the canary's revision is set; the one that is there is kept while only percent moves.
        by: Who asks.
        now: Clock time in seconds.
        standing: What the fleet's release says of the domain.

    Returns:
        The next record, or `record` itself.

    Raises:
        BadId: The percentage is none.
        RecordConflict: Nothing is live, or this revision is.
        BlobMissing: The revision is being deleted.
    """
    _check_beside(record, revision, percent, "canary", standing)
    held = record.canary
    if held is not None and held.revision == revision:
        canary = held.model_copy(update={"percent": percent})
    else:
        canary = Canary(revision=revision, percent=percent, salt=salt)
    return record if held == canary else changed(record, by, now, canary=canary, condemned=_named(record, revision))


def shadowed(
    record: DomainRecord, revision: str, percent: float, by: str, now: float, standing: Standing = ALONE
) -> DomainRecord:
    """Score a revision beside the live one; arguments, returns and errors as `canaried`."""
    _check_beside(record, revision, percent, "shadow", standing)
    held = record.shadow
    if held is not None and held.revision == revision:
        shadow = held.model_copy(update={"percent": percent})
    else:
        shadow = Shadow(revision=revision, percent=percent)
    return record if held == shadow else changed(record, by, now, shadow=shadow, condemned=_named(record, revision))


def without(record: DomainRecord, alias: str, by: str, now: float) -> DomainRecord:
    """End the `canary` or the `shadow`; unchanged if there is none."""
    return record if getattr(record, alias) is None else changed(record, by, now, **{alias: None})


def frozen(record: Stoppable, by: str, now: float, reason: str) -> Stoppable:
    """Stop changes, of one domain or of all; unchanged if they are stopped."""
    if record.frozen is not None:
        return record
    return changed(record, by, now, frozen=Stop(by=by, at=rfc3339(now), reason=reason))


def thawed(record: Stoppable, by: str, now: float) -> Stoppable:
    """Allow changes again; unchanged if they are allowed."""
    return record if record.frozen is None else changed(record, by, now, frozen=None)


def switched(record: Switches, on: bool, by: str, now: float) -> Switches:
    """Serve every domain by the plain backbone, or no longer; unchanged if it is so."""
    return record if record.adapters_only_backbone == on else changed(record, by, now, adapters_only_backbone=on)


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
    return changed(record, by, now, default=revision, previous=_earlier(record.default, record.previous, revision))


def default_rolled_back(record: BackboneRecord, from_: str, by: str, now: float) -> BackboneRecord:
    """Make the default before the default again; what was rolled back from heads `previous`.

    Args:
        record: As it is.
        from_: The default, as the caller saw it.
        by: Who asks.
        now: Clock time in seconds.

    Raises:
        RecordConflict: Another bundle is the default.
        NothingToRollBack: There is no earlier one.
    """
    if record.default != from_:
        raise RecordConflict(f"the default backbone is {record.default or 'none'}, not {from_}")
    if not record.previous:
        raise NothingToRollBack(f"{from_} is the first default backbone: there is none before it")
    return defaulted(record, record.previous[0], by, now)


def tables_moved(record: FeatureRecord, revision: str, parent: str | None, by: str, now: float) -> FeatureRecord:
    """Make a layer the newest of a feature table.

    Args:
        record: As it is; generation 0 before the first.
        revision: The layer; if it already is the newest, nothing changes.
        parent: The layer that this one was made for; None: that of the bundle.
        by: Who asks.
        now: Clock time in seconds.

    Returns:
        The next record, or `record` itself.

    Raises:
        RecordConflict: Another layer is the newest.
    """
    if record.revision == revision:
        return record
    if record.revision != parent:
        bundle = "that of the bundle"
        raise RecordConflict(f"the newest feature table is {record.revision or bundle}, not {parent or bundle}")
    return changed(record, by, now, revision=revision, previous=_earlier(record.revision, record.previous, revision))


def condemned(record: Marked, revisions: Collection[str], now: float) -> Marked:
    """Mark blobs for removal, those apart that the record names or has marked; unchanged if that leaves none."""
    named = record.names() if isinstance(record, DomainRecord) else set()
    fresh = {revision: Mark(since=rfc3339(now)) for revision in revisions if revision not in named}
    marks = {**fresh, **record.condemned}
    return record if marks == record.condemned else changed(record, "gc", now, condemned=marks)


def doomed(record: Marked, revisions: Collection[str], now: float) -> Marked:
    """Say that marked blobs are being deleted, those apart that the record names; from here nobody can name them."""
    named = record.names() if isinstance(record, DomainRecord) else set()
    marks = {
        revision: mark.model_copy(update={"deleting": True})
        if revision in revisions and revision not in named
        else mark
        for revision, mark in record.condemned.items()
    }
    return record if marks == record.condemned else changed(record, "gc", now, condemned=marks)


def spared(record: Marked, revisions: Collection[str], by: str, now: float, deleting: bool = False) -> Marked:
    """Take marks away.

    Args:
        record: As it is.
        revisions: Whose marks.
        by: Who asks.
        now: Clock time in seconds.
        deleting: Also marks that say so; only garbage collection may.

    Returns:
        The next record, or `record` itself.

    Raises:
        BlobMissing: One is being deleted.
    """
    if not deleting:
        _check_not_deleting(record, revisions)
    marks = {revision: mark for revision, mark in record.condemned.items() if revision not in revisions}
    return record if marks == record.condemned else changed(record, by, now, condemned=marks)


def _check_not_deleting(record: DomainRecord | GarbageRecord, revisions: Collection[str]) -> None:
    for revision, mark in record.condemned.items():
        if mark.deleting and revision in revisions:
            raise BlobMissing(f"revision {revision} is being deleted as garbage: publish it again")


def _named(record: DomainRecord, revision: str) -> dict[str, Mark]:
    """The marks that stay once the record names this revision."""
    _check_not_deleting(record, [revision])
    return {marked: mark for marked, mark in record.condemned.items() if marked != revision}


def _check_beside(record: DomainRecord, revision: str, percent: float, alias: str, standing: Standing) -> None:
    if not 0 < percent <= 100:
        raise BadId(f"{percent:g} is no percentage of a {alias}: it must be more than 0 and at most 100")
    serving = standing.effective(record)
    if serving is None:
        raise RecordConflict(f"domain {record.domain!r} serves nothing that a {alias} could stand beside")
    if serving == revision:
        raise RecordConflict(f"revision {revision} is live in domain {record.domain!r}: it cannot be its {alias}")


def _serving(
    record: DomainRecord,
    revision: str,
    history: list[Previous],
    by: str,
    now: float,
    standing: Standing,
    **more: object,
) -> DomainRecord:
    """The record with another live revision; `history` goes before what is in `previous`."""
    kept = next((entry for entry in (record.live, *record.previous) if entry and entry.revision == revision), None)
    # keys that a newer build put beside a revision come back with it
    extra = dict(kept.model_extra or {}) if kept is not None else {}
    aliases = {
        alias: None
        for alias, held in (("canary", record.canary), ("shadow", record.shadow))
        if held is not None and held.revision == revision
    }
    return changed(
        record,
        by,
        now,
        live=Live(revision=revision, epoch=standing.generation, **extra),
        epoch=standing.generation,
        previous=_history([*history, *record.previous], revision),
        condemned=_named(record, revision),
        **aliases,
        **more,
    )


def _history(entries: list[Previous], without: str | None = None) -> list[Previous]:
    """Each revision once, where it stands first."""
    once: dict[str, Previous] = {}
    for entry in entries:
        if entry.revision != without:
            once.setdefault(entry.revision, entry)
    return list(once.values())[:HISTORY]


def _retired(record: DomainRecord, standing: Standing) -> list[Previous]:
    """What served, and behind it the record's own revision if the release hid it."""
    own = [] if record.live is None else [Previous.model_validate(record.live.model_dump())]
    serving = standing.effective(record)
    if serving is None or (own and own[0].revision == serving):
        return own
    return [Previous(revision=serving, epoch=standing.since), *own]


def _earlier(current: str | None, previous: list[str], without: str) -> list[str]:
    kept = [*([current] if current else []), *previous]
    return [entry for entry in kept if entry != without][:HISTORY]
