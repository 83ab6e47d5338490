"""Collecting garbage: blobs that no record, release, pin, bundle or feature table needs any more.

Two visits, a grace period apart. The first condemns a blob: a mark in the record of the domain that owns it, or in
`garbage`, by compare-and-set. Whoever names a condemned revision takes its mark away. The second, once the grace period
is over, looks at everything that is named again, marks the blob as being deleted (from here naming it is refused),
looks a last time, deletes it, and takes the mark away. A collection that is cut off is finished by a later one.

The grace period must be longer than the longest change of a record takes, from its first read to its write.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial

from adapters_store.backend import in_flight
from adapters_store.contents import Contents, contents_of
from adapters_store.errors import ArtifactError, BlobMissing, RecordConflict
from adapters_store.file import FileBackend
from adapters_store.record_store import DOMAIN, GARBAGE, REPLICA, is_sweeping
from adapters_store.records import HISTORY, GarbageRecord, Mark, Stop, changed, rfc3339, seconds_of
from adapters_store.references import Held, OnStep, held_by_records, pins_of, silent
from adapters_store.store import AdapterStore
from adapters_store.transitions import condemned, doomed, spared

DAY_S = 86_400.0
MIN_GRACE_S = 600.0
_SWEEP_BLOBS = 5000
_OPEN = 8
_PINNABLE = frozenset({"lora", "fusion", "unknown"})


@dataclass(slots=True)
class Collected:
    """What a collection came to; a dry run says what it would have come to.

    Args:
        dry_run: Nothing was changed.
        blobs: In the store when it began.
        kept: Of these, needed.
        condemned: Marked now, to be deleted after the grace period.
        waiting: Marked before, their grace period not over.
        spared: Marks taken away, since their blobs are named again or gone.
        deleted: Gone now.
        deleted_bytes: What they took.
        temporary_files: Left by killed writers, removed now.
        replicas: Records of replicas long gone, removed now.
    """

    dry_run: bool
    blobs: int = 0
    kept: int = 0
    condemned: int = 0
    waiting: int = 0
    spared: int = 0
    deleted: int = 0
    deleted_bytes: int = 0
    temporary_files: int = 0
    replicas: int = 0


async def collect(
    store: AdapterStore,
    grace_s: float = DAY_S,
    dry_run: bool = True,
    on_step: OnStep = silent,
    releases: int = HISTORY,
) -> Collected:
    """Condemn what is not needed, and delete what was condemned long enough ago.

    Args:
        store: Which.
        grace_s: Between condemning and deleting, seconds; ten minutes at least.
        dry_run: Only say what would happen.
        on_step: Called as it goes.
        releases: So many fleet releases before the live one are kept.

    Returns:
        What it came to.

    Raises:
        ValueError: The grace period is too short.
        RecordError: A record cannot be read by this build, or another collection is deleting; nothing was deleted.
        BlobMissing: The live or the staged release is not there; nothing was deleted.
        ArtifactError: What is kept and names others (an adapter, a release, a bundle, a feature layer) is damaged, or
            came damaged; nothing was deleted.
        StoreUnavailable: The store failed; collecting again goes on.
    """
    if grace_s < MIN_GRACE_S:
        raise ValueError(
            f"a grace period of {grace_s:g} s is shorter than {MIN_GRACE_S:g} s, the shortest that is safe"
        )
    return await _Collection(store, grace_s, dry_run, on_step, releases).run()


class _Collection:
    """One visit."""

    def __init__(self, store: AdapterStore, grace_s: float, dry_run: bool, on_step: OnStep, releases: int) -> None:
        self._store = store
        self._grace_s = grace_s
        self._on_step = on_step
        self._releases = releases
        self._opened: dict[str, frozenset[str]] = {}
        self._contents: dict[str, Contents] = {}
        self._report = Collected(dry_run)

    async def run(self) -> Collected:
        report = self._report
        self._on_step("listing blobs", 0, 1)
        blobs = set(await self._store.backend.list_blobs())
        report.blobs = len(blobs)
        held = await held_by_records(self._store, self._releases)
        needed = await self._needed(held, blobs - held.adapters - held.others)
        report.kept = len(blobs & needed)
        marks = {revision: (key, mark) for key, found in held.marks.items() for revision, mark in found.items()}
        pardoned = {revision for revision in marks if revision in needed or revision not in blobs}
        doomed_now = [
            revision for revision, (_, mark) in marks.items() if revision not in pardoned and self._is_over(mark)
        ]
        fresh = [revision for revision in blobs - needed if revision not in marks]
        report.spared, report.condemned = len(pardoned), len(fresh)
        report.waiting = len(marks) - len(pardoned) - len(doomed_now)
        if report.dry_run:
            report.deleted = len(doomed_now)
            report.deleted_bytes = sum(self._contents[revision].size_bytes for revision in doomed_now)
            return report
        await self._spare(_by_owner(pardoned, marks))
        await self._condemn(fresh, held)
        for start in range(0, len(doomed_now), _SWEEP_BLOBS):
            await self._sweep(_by_owner(doomed_now[start : start + _SWEEP_BLOBS], marks))
        await self._sweep_rest()
        return report

    def _is_over(self, mark: Mark) -> bool:
        since = seconds_of(mark.since)
        return mark.deleting or (since is not None and self._store.clock() - since >= self._grace_s)

    async def _needed(self, held: Held, candidates: Collection[str]) -> set[str]:
        """What must stay; adapters are opened for their pins only if a candidate could be one."""
        await self._open(candidates)
        pins: set[str] = set()
        if any(self._contents[revision].kind in _PINNABLE for revision in candidates):
            pins = await pins_of(self._store, sorted(held.adapters), self._opened, self._on_step)
        return held.adapters | held.others | pins

    async def _open(self, revisions: Collection[str]) -> None:
        unknown = [revision for revision in revisions if revision not in self._contents]

        async def look(revision: str) -> None:
            try:
                self._contents[revision] = contents_of(await self._store.get(revision))
            except (BlobMissing, ArtifactError):
                self._contents[revision] = Contents("unknown")
            self._on_step("reading what nobody names", len(self._contents), len(unknown))

        await in_flight(unknown, look, _OPEN)

    async def _condemn(self, revisions: Collection[str], held: Held) -> None:
        owners: dict[str, list[str]] = defaultdict(list)
        for revision in revisions:
            domain = self._contents[revision].domain
            owners[DOMAIN + domain if domain in held.domains else GARBAGE].append(revision)
        now = self._store.clock()
        for done, (key, owned) in enumerate(owners.items(), start=1):
            await self._store.change_marks(key, partial(condemned, revisions=owned, now=now))
            self._on_step("condemning", done, len(owners))

    async def _spare(self, owners: Mapping[str, Collection[str]]) -> None:
        now = self._store.clock()
        for key, revisions in owners.items():
            await self._store.change_marks(key, partial(spared, revisions=revisions, by="gc", now=now, deleting=True))

    async def _sweep(self, owners: Mapping[str, Collection[str]]) -> None:
        """Delete what stays unneeded after everybody can see that it is being deleted."""
        await self._say_sweeping()
        now = self._store.clock()
        doomed_now: dict[str, set[str]] = {}
        for key, revisions in owners.items():
            record = await self._store.change_marks(key, partial(doomed, revisions=revisions, now=now))
            doomed_now[key] = {one for one in revisions if one in record.condemned and record.condemned[one].deleting}
        held = await held_by_records(self._store, self._releases)
        needed = await self._needed(held, {revision for found in doomed_now.values() for revision in found})
        done, total = 0, sum(map(len, doomed_now.values()))
        for key, found in doomed_now.items():
            for revision in sorted(found - needed):
                await self._store.backend.delete_blob(revision)
                self._report.deleted += 1
                self._report.deleted_bytes += self._contents[revision].size_bytes
                done += 1
                self._on_step("deleting", done, total)
            self._report.spared += len(found & needed)
            await self._spare({key: found})
        await self._store.change_marks(GARBAGE, lambda record: _at_rest(record, now))

    async def _say_sweeping(self) -> None:
        now = self._store.clock()

        def say(record: GarbageRecord) -> GarbageRecord:
            if is_sweeping(record, now):
                since = record.sweeping.at if record.sweeping else ""
                raise RecordConflict(f"another collection deletes since {since}; if it was cut off, try in an hour")
            return changed(record, "gc", now, sweeping=Stop(by="gc", at=rfc3339(now), reason="deleting garbage"))

        await self._store.change_marks(GARBAGE, say)

    async def _sweep_rest(self) -> None:
        """Remove what killed writers and replicas long gone left."""
        backend = self._store.backend
        now = self._store.clock()
        if isinstance(backend, FileBackend):
            self._report.temporary_files = await backend.sweep_temporary(self._grace_s, now)
        for key, held in (await backend.read_records(await backend.list_records(REPLICA))).items():
            said = seconds_of(str(held.record.get("updated_at")))
            if said is None or now - said >= self._grace_s:
                self._report.replicas += await backend.delete_record(key, held.record["generation"])


def _at_rest(record: GarbageRecord, now: float) -> GarbageRecord:
    return record if record.sweeping is None else changed(record, "gc", now, sweeping=None)


def _by_owner(revisions: Collection[str], marks: Mapping[str, tuple[str, Mark]]) -> dict[str, list[str]]:
    owners: dict[str, list[str]] = defaultdict(list)
    for revision in revisions:
        owners[marks[revision][0]].append(revision)
    return owners
