"""Copies a store into another: what is there is skipped, so a copy that was cut off goes on where it was.

Blobs go before the records that name them, what a blob pins before the blob, and the release pointer comes last: at no
moment does the destination name what it does not have.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from adapters_store.backend import Change, Versioned, in_flight
from adapters_store.contents import contents_of
from adapters_store.errors import ArtifactError, BlobMissing, RecordConflict
from adapters_store.record_store import BACKBONE, DOMAIN, FEATURES, GARBAGE, RELEASE, REPLICA, STAGED
from adapters_store.records import (
    BackboneRecord,
    DomainRecord,
    FeatureRecord,
    ReleasePointer,
    StagedRelease,
    parse_record,
)
from adapters_store.references import OnStep, silent
from adapters_store.store import AdapterStore

_BATCH = 256
# Blobs in memory at once.
_OPEN = 8
_LAST = (STAGED, RELEASE)


@dataclass(slots=True)
class Copied:
    """What copying came to.

    Args:
        blobs: Copied.
        blob_bytes: Of these.
        blobs_there: In the destination already.
        records: Copied.
        records_there: In the destination already, just so.
        damaged: Blobs of the source whose bytes are not those of their digest and that no record names: left out.
    """

    blobs: int = 0
    blob_bytes: int = 0
    blobs_there: int = 0
    records: int = 0
    records_there: int = 0
    damaged: list[str] = field(default_factory=list)


async def copy_store(source: AdapterStore, destination: AdapterStore, on_step: OnStep = silent) -> Copied:
    """Copy all blobs and records, generations included; reports of replicas and garbage marks without owner stay.

    The source may be in use: what changes behind the copy's back is copied by the next one. The destination should not
    be: a record that is newer there is refused.

    Args:
        source: Where from; nothing is written there.
        destination: Where to.
        on_step: Called as it goes.

    Returns:
        What it came to.

    Raises:
        RecordConflict: A record of the destination is newer than the source's, or another of the same generation; what
            was copied before it stays.
        RecordError: A record cannot be read by this build.
        BlobMissing: A record names a blob that the source lacks.
        DigestMismatch: A record names a blob that is damaged in the source.
        StoreUnavailable: One of the stores failed; copying again goes on.
    """
    copy = _Copy(source, destination, on_step)
    await copy.blobs()
    await copy.records()
    return copy.report


class _Copy:
    """One run."""

    def __init__(self, source: AdapterStore, destination: AdapterStore, on_step: OnStep) -> None:
        self.report = Copied()
        self._source = source
        self._destination = destination
        self._on_step = on_step
        self._there: set[str] = set()

    async def blobs(self) -> None:
        revisions = await self._source.backend.list_blobs()
        for start in range(0, len(revisions), _BATCH):
            batch = revisions[start : start + _BATCH]
            there = await self._destination.has_many(batch)
            self._there |= there
            self.report.blobs_there += len(there)
            await in_flight([one for one in batch if one not in there], self._blob_if_whole, _OPEN)
            self._on_step("blobs", start + len(batch), len(revisions))

    async def records(self) -> None:
        keys = [
            key
            for key in await self._source.backend.list_records("")
            if key != GARBAGE and not key.startswith(REPLICA) and key not in _LAST
        ]
        for start in range(0, len(keys), _BATCH):
            await self._records(keys[start : start + _BATCH])
            self._on_step("records", min(start + _BATCH, len(keys)), len(keys))
        for key in _LAST:
            await self._records([key])

    async def _records(self, keys: Sequence[str]) -> None:
        wanted = await self._source.backend.read_records(keys)
        held = await self._destination.backend.read_records(list(wanted))
        changes: list[Change] = []
        for key, one in wanted.items():
            await self._ensure(await self._named(key, one.record))
            generation = _to_replace(key, one, held.get(key))
            if generation is None:
                self.report.records_there += 1
            else:
                changes.append(Change(key, generation, one.record))
        won = await self._destination.backend.compare_and_set_many(changes) if changes else []
        for change, success in zip(changes, won, strict=True):
            if not success:
                raise RecordConflict(f"record {change.key!r} of the destination was changed meanwhile: copy again")
        self.report.records += len(changes)

    async def _named(self, key: str, content: Mapping[str, object]) -> set[str]:
        """What a record names, and what the releases that it names do."""
        if key.startswith(DOMAIN):
            return parse_record(content, DomainRecord, key).names()
        if key.startswith(FEATURES):
            layers = parse_record(content, FeatureRecord, key)
            return _given([layers.revision, *layers.previous])
        if key == BACKBONE:
            backbone = parse_record(content, BackboneRecord, key)
            return _given([backbone.default, *backbone.previous])
        if key == RELEASE:
            pointer = parse_record(content, ReleasePointer, key)
            # earlier ones may have been collected as garbage
            past = await self._source.has_many(sorted(_given(entry.release for entry in pointer.previous)))
            return past | _given([pointer.release])
        if key == STAGED:
            return _given([parse_record(content, StagedRelease, key).release])
        return set()

    async def _ensure(self, revisions: Iterable[str]) -> None:
        """Copy what came to the source after its blobs were listed; what a blob needs goes first."""
        for revision in revisions:
            if revision in self._there:
                continue
            content = await self._source.get(revision)
            needed = contents_of(content).names - self._there
            if revision in needed:
                raise BlobMissing(f"blob {revision} needs itself")
            await self._ensure(sorted(needed))
            await self._destination.put(content)
            self._took(revision, content)

    async def _blob_if_whole(self, revision: str) -> None:
        try:
            content = await self._source.get(revision)
        except BlobMissing:
            return  # collected as garbage meanwhile
        except ArtifactError:
            self.report.damaged.append(revision)
            return
        await self._destination.put(content)
        self._took(revision, content)

    def _took(self, revision: str, content: bytes) -> None:
        self._there.add(revision)
        self.report.blobs += 1
        self.report.blob_bytes += len(content)


def _given(revisions: Iterable[str | None]) -> set[str]:
    return {revision for revision in revisions if revision is not None}


def _to_replace(key: str, wanted: Versioned, held: Versioned | None) -> int | None:
    """The generation of the destination's record that the source's one replaces; None: it is there already.

    Raises:
        RecordConflict: It would go back, or sideways.
    """
    if held is None:
        return 0
    if held.record == wanted.record:
        return None
    mine, theirs = wanted.record["generation"], held.record["generation"]
    if theirs >= mine:
        what = "is newer" if theirs > mine else "is another one of the same generation"
        raise RecordConflict(
            f"record {key!r} of the destination {what} ({theirs}, the source has {mine}): copy into an empty store"
        )
    return int(theirs)
