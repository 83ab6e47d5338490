"""Checks a whole store: every blob against its digest, every record, and that everything they name is there."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from adapters_store.backend import Versioned, in_flight
from adapters_store.contents import contents_of
from adapters_store.errors import ArtifactError, BlobMissing, RecordError
from adapters_store.record_store import BACKBONE, DOMAIN, FEATURES, GARBAGE, PREWARM, RELEASE, REPLICA, STAGED, SWITCHES
from adapters_store.records import (
    BackboneRecord,
    DomainRecord,
    FeatureRecord,
    GarbageRecord,
    PrewarmList,
    ReleasePointer,
    ReplicaReport,
    StagedRelease,
    Stored,
    Switches,
    parse_record,
)
from adapters_store.references import PAGE, OnStep, silent
from adapters_store.store import AdapterStore

# Blobs in memory at once.
_OPEN = 8
_FAULTS = 1000
_ALONE: dict[str, type[Stored]] = {
    BACKBONE: BackboneRecord,
    RELEASE: ReleasePointer,
    STAGED: StagedRelease,
    SWITCHES: Switches,
    PREWARM: PrewarmList,
    GARBAGE: GarbageRecord,
}
_MANY: dict[str, type[Stored]] = {DOMAIN: DomainRecord, FEATURES: FeatureRecord, REPLICA: ReplicaReport}
_PUBLISH = "publish it again"
_RESTORE = "update Espalier, or restore this record from a backup"


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that is wrong.

    Args:
        key: Of the record, or `blob <revision>`.
        what: Is wrong.
        advice: What to do.
    """

    key: str
    what: str
    advice: str


@dataclass(slots=True)
class CheckReport:
    """What checking came to.

    Args:
        blobs: Looked at.
        blob_bytes: Of these.
        records: Looked at.
        unknown_records: Of kinds that this build does not know; no fault.
        faults: The first thousand.
        more_faults: Beyond these.
    """

    blobs: int = 0
    blob_bytes: int = 0
    records: int = 0
    unknown_records: int = 0
    faults: list[Fault] = field(default_factory=list)
    more_faults: int = 0

    @property
    def sound(self) -> bool:
        """Whether there is no fault."""
        return not self.faults


async def check_store(store: AdapterStore, on_step: OnStep = silent) -> CheckReport:
    """Look at everything in a store; a few blobs and a page of records are in memory at a time.

    What changes meanwhile may be reported although it is right: check again before acting on a fault.

    Args:
        store: Which; nothing is written.
        on_step: Called as it goes.

    Returns:
        Counts and faults.

    Raises:
        StoreUnavailable: The store cannot be read.
    """
    check = _Check(store, on_step)
    await check.blobs()
    await check.records()
    return check.report


class _Check:
    """One pass over a store."""

    def __init__(self, store: AdapterStore, on_step: OnStep) -> None:
        self.report = CheckReport()
        self._store = store
        self._on_step = on_step
        self._there: set[str] = set()
        self._lacking: dict[str, str] = {}  # revision to one that it names and that is not there
        self._parents: dict[str, str] = {}  # feature layer to the one below

    async def blobs(self) -> None:
        revisions = await self._store.backend.list_blobs()
        self._there = set(revisions)

        async def look(revision: str) -> None:
            try:
                content = await self._store.get(revision)
            except BlobMissing:
                self._there.discard(revision)
                self._fault(f"blob {revision}", "it is listed but not there", "check again")
                return
            except ArtifactError:
                self._fault(f"blob {revision}", "its bytes are not those of its digest", _PUBLISH)
                return
            self.report.blobs += 1
            self.report.blob_bytes += len(content)
            head = contents_of(content)
            if head.kind == "features" and head.names:
                self._parents[revision] = min(head.names)
            missing = head.names - self._there
            if missing:
                self._lacking[revision] = min(missing)
            self._on_step("blobs", self.report.blobs, len(revisions))

        await in_flight(revisions, look, _OPEN)

    async def records(self) -> None:
        after = ""
        while keys := await self._store.backend.list_records("", after, PAGE):
            after = keys[-1]
            for key, held in (await self._readable(keys)).items():
                await self._record(key, held)
            self.report.records += len(keys)
            self._on_step("records", self.report.records, self.report.records)

    async def _readable(self, keys: Sequence[str]) -> dict[str, Versioned]:
        try:
            return await self._store.backend.read_records(keys)
        except RecordError:  # one of them is no JSON: find out which
            found: dict[str, Versioned] = {}
            for key in keys:
                try:
                    held = await self._store.backend.read_record(key)
                except RecordError as error:
                    self._fault(key, str(error), _RESTORE)
                    continue
                if held is not None:
                    found[key] = held
            return found

    async def _record(self, key: str, held: Versioned) -> None:
        kind = _ALONE.get(key) or next((kind for prefix, kind in _MANY.items() if key.startswith(prefix)), None)
        if kind is None:
            self.report.unknown_records += 1
            return
        try:
            record = parse_record(held.record, kind, key)
        except RecordError as error:
            self._fault(key, str(error), _RESTORE)
            return
        if isinstance(record, DomainRecord):
            if key != DOMAIN + record.domain:
                self._fault(key, f"it says that it is of domain {record.domain!r}", "restore it from a backup")
            self._named(key, record.names())
        elif isinstance(record, BackboneRecord):
            self._named(key, [revision for revision in (record.default, *record.previous) if revision])
        elif isinstance(record, FeatureRecord):
            for revision in (record.revision, *record.previous):
                self._layers(key, revision)
        elif isinstance(record, ReleasePointer):
            for one in {record.release, *(entry.release for entry in record.previous)}:
                await self._release(key, one)
        elif isinstance(record, StagedRelease):
            await self._release(key, record.release)

    def _named(self, key: str, revisions: Collection[str]) -> None:
        for revision in sorted(revisions):
            if revision not in self._there:
                self._fault(key, f"it names {revision}, which is not in the store", _PUBLISH)
            elif revision in self._lacking:
                missing = self._lacking[revision]
                self._fault(key, f"it names {revision}, which needs {missing}, which is not in the store", _PUBLISH)

    def _layers(self, key: str, revision: str | None) -> None:
        seen = set()
        while revision is not None and revision not in seen:
            seen.add(revision)
            self._named(key, [revision])
            revision = self._parents.get(revision)

    async def _release(self, key: str, revision: str | None) -> None:
        if revision is None:
            return
        self._named(key, [revision] if revision not in self._there else [])
        if revision not in self._there:
            return
        try:
            release = await self._store.release(revision)
        except (ArtifactError, BlobMissing) as error:
            self._fault(key, f"it names {revision}: {error}", "publish the release again, or roll it back")
            return
        self._named(f"{key}, release {revision}", release.revisions())

    def _fault(self, key: str, what: str, advice: str) -> None:
        if len(self.report.faults) < _FAULTS:
            self.report.faults.append(Fault(key, what, advice))
        else:
            self.report.more_faults += 1
