"""The fleet's small records: the default backbone, switches, replicas' reports, feature tables, marks of garbage."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, overload

from adapters_store.backbone import MANIFEST_BOUND
from adapters_store.backend import Changes
from adapters_store.blobs import BlobStore
from adapters_store.contents import contents_of
from adapters_store.errors import BlobMissing, Frozen, RecordError, StoreUnavailable
from adapters_store.ids import check_domain, check_revision
from adapters_store.records import (
    BackboneRecord,
    DomainRecord,
    FeatureRecord,
    GarbageRecord,
    PrewarmList,
    RecordT,
    ReplicaReport,
    Switches,
    changed,
    parse_record,
    seconds_of,
)
from adapters_store.transitions import default_rolled_back, defaulted, frozen, spared, switched, tables_moved, thawed

DOMAIN = "domain/"
BACKBONE = "backbone"
RELEASE = "release"
STAGED = "staged"
SWITCHES = "switches"
PREWARM = "prewarm"
GARBAGE: Literal["garbage"] = "garbage"
REPLICA = "replica/"
FEATURES = "features/"

# What a replica follows; the rest is for people and for garbage collection.
_FOLLOWED = (DOMAIN, FEATURES)
_FOLLOWED_ALONE = frozenset({BACKBONE, RELEASE, STAGED, SWITCHES})
# A replica that has not said anything for so long is gone.
SILENT_S = 90.0
# A garbage collection that has said for so long that it is deleting was cut off.
SWEEP_S = 3600.0
# Each lost race means that someone else won it, so this many in a row mean a fault, not contention.
ATTEMPTS = 1000


class RecordStore(BlobStore):
    """Blobs, and the records that are not about one domain."""

    async def versions(self) -> dict[str, str]:
        """Record key to version, of every record that a replica follows: cheap, for comparing with what was applied.

        Raises:
            StoreUnavailable: The store cannot be read.
        """
        found = await self._backend.versions("")
        return {key: version for key, version in found.items() if key in _FOLLOWED_ALONE or key.startswith(_FOLLOWED)}

    async def changes(self, position: str | None, wait_s: float) -> Changes:
        """What changed behind a position; see `Backend.changes`.

        Raises:
            StoreUnavailable: The store cannot be read.
        """
        return await self._backend.changes(position, wait_s)

    async def backbone_record(self) -> BackboneRecord:
        """Which bundle is the default; generation 0 and default None before the first publish.

        Raises:
            MalformedRecord: What is stored is no such record.
            StoreUnavailable: The store cannot be read.
        """
        return await self._read(BACKBONE, BackboneRecord)

    async def set_default_backbone(self, revision: str, by: str = "") -> BackboneRecord:
        """Make a stored bundle the default; if it already is, nothing changes.

        Args:
            revision: Of the bundle.
            by: Who asks.

        Returns:
            The record as it is now.

        Raises:
            BadId: `revision` is none.
            BlobMissing: The store does not have it, or one of its files, or is deleting them.
            DigestMismatch: It is damaged.
            Frozen: Changes are stopped.
            StoreUnavailable: Unknown whether it happened.
        """
        await self._keep_bundle(revision, by)
        if (await self.backbone_record()).default != revision:
            await self._check_not_frozen()
        return await self._change(
            BACKBONE, BackboneRecord, lambda record: defaulted(record, revision, by, self._clock())
        )

    async def roll_back_default(self, from_: str, by: str = "") -> BackboneRecord:
        """Make the default backbone before the default again; doing it once more leads back.

        Args:
            from_: Bundle that is the default, as the caller saw it.
            by: Who asks.

        Returns:
            The record as it is now.

        Raises:
            BadId: `from_` is none.
            BlobMissing: The bundle before, or a file of it, was collected as garbage.
            RecordConflict: Another bundle is the default.
            NothingToRollBack: There is no earlier one.
            StoreUnavailable: Unknown whether it happened.
        """
        check_revision(from_)
        earlier = default_rolled_back(await self.backbone_record(), from_, by, self._clock()).default
        if earlier is not None:
            await self._keep_bundle(earlier, by)
        return await self._change(
            BACKBONE, BackboneRecord, lambda record: default_rolled_back(record, from_, by, self._clock())
        )

    async def _keep_bundle(self, revision: str, by: str) -> None:
        """See that a bundle is whole, and spare it from garbage collection."""
        if not await self.has(revision):
            raise BlobMissing(f"bundle {revision} is not in the store: publish it first")
        needed = {revision, *contents_of(await self.get(revision, MANIFEST_BOUND)).names}
        await self.spare(GARBAGE, sorted(needed), by)
        missing = needed - await self._backend.has_blobs(sorted(needed))
        if missing:
            raise BlobMissing(f"file {min(missing)} of bundle {revision} is not in the store: publish the bundle again")

    async def switches(self) -> Switches:
        """What is stopped or switched off for the whole fleet; errors as `pointer`."""
        return await self._read(SWITCHES, Switches)

    async def switch_backbone_only(self, on: bool, by: str) -> Switches:
        """Serve every domain by the plain backbone, or no longer.

        Raises:
            StoreUnavailable: Unknown whether it happened.
        """
        return await self._change(SWITCHES, Switches, lambda record: switched(record, on, by, self._clock()))

    async def freeze_all(self, by: str, reason: str) -> Switches:
        """Stop changes everywhere; one that is under way may still land. Errors as `switch_backbone_only`."""
        return await self._change(SWITCHES, Switches, lambda record: frozen(record, by, self._clock(), reason))

    async def thaw_all(self, by: str) -> Switches:
        """Allow changes again; errors as `switch_backbone_only`."""
        return await self._change(SWITCHES, Switches, lambda record: thawed(record, by, self._clock()))

    async def replica_reports(self) -> list[ReplicaReport]:
        """What replicas said of themselves, those that have been silent for long apart; an unreadable one is skipped.

        Raises:
            StoreUnavailable: The store cannot be read.
        """
        found: list[ReplicaReport] = []
        for key, held in (await self._backend.read_records(await self._backend.list_records(REPLICA))).items():
            try:
                report = parse_record(held.record, ReplicaReport, key)
            except RecordError:
                continue
            if self._clock() - (seconds_of(report.updated_at) or 0.0) < SILENT_S:
                found.append(report)
        return found

    async def report_replica(self, report: ReplicaReport) -> ReplicaReport:
        """Record what a replica says of itself; generation and time are filled in.

        Raises:
            StoreUnavailable: Unknown whether it happened.
        """
        said = report.model_dump(exclude={"schema_", "generation", "updated_at", "by"})

        def change(record: ReplicaReport) -> ReplicaReport:
            return changed(record, report.replica, self._clock(), **said)

        key = REPLICA + check_domain(report.replica)
        return await self._change(key, ReplicaReport, change, ReplicaReport(replica=report.replica))

    async def withdraw_replica(self, replica: str) -> None:
        """Take back what a replica said of itself, because it stops; no flip waits for it then.

        Raises:
            StoreUnavailable: Unknown whether it happened.
        """
        key = REPLICA + check_domain(replica)
        held = await self._backend.read_record(key)
        if held is not None:
            await self._backend.delete_record(key, held.record["generation"])

    async def prewarm_list(self) -> PrewarmList:
        """What a starting replica loads first; errors as `pointer`."""
        return await self._read(PREWARM, PrewarmList)

    async def write_prewarm(self, domains: Sequence[str], by: str = "") -> PrewarmList:
        """Record what a starting replica loads first, busiest first; the last writer wins.

        Raises:
            BadId: One is no domain id.
            StoreUnavailable: Unknown whether it happened.
        """
        kept = [check_domain(domain) for domain in domains]

        def change(record: PrewarmList) -> PrewarmList:
            return changed(record, by, self._clock(), domains=kept)

        return await self._change(PREWARM, PrewarmList, change)

    async def feature_record(self, fingerprint: str, side: str) -> FeatureRecord:
        """Which feature table a backbone's fingerprint uses for `users` or `items`.

        Raises:
            BadId: `fingerprint` is none.
            RecordError: What is stored cannot be read by this build.
            StoreUnavailable: The store cannot be read.
        """
        return await self._read(_features(fingerprint, side), FeatureRecord)

    async def set_features(
        self, fingerprint: str, side: str, revision: str, expected_parent: str | None, by: str
    ) -> FeatureRecord:
        """Make a stored layer the newest of a feature table; if it already is, nothing changes.

        Args:
            fingerprint: Of the backbone.
            side: `users` or `items`.
            revision: The layer.
            expected_parent: The layer that it was made for; None: that of the bundle.
            by: Who asks.

        Returns:
            The record as it is now.

        Raises:
            BadId: An id is none.
            BlobMissing: The store does not have the layer, or is deleting it.
            Frozen: Changes are stopped.
            RecordConflict: Another layer is the newest.
            StoreUnavailable: Unknown whether it happened.
        """
        key = _features(fingerprint, side)
        await self.spare(GARBAGE, [revision, *([expected_parent] if expected_parent else [])], by)
        if not await self.has(revision):
            raise BlobMissing(f"layer {revision} is not in the store: put it there before it is used")
        await self._check_not_frozen()
        return await self._change(
            key, FeatureRecord, lambda record: tables_moved(record, revision, expected_parent, by, self._clock())
        )

    async def spare(self, key: str, revisions: Sequence[str], by: str) -> None:
        """Take garbage collection's marks off revisions that are about to be named.

        Args:
            key: Record that may have marks: a domain's or `garbage`.
            revisions: Which.
            by: Who asks.

        Raises:
            BlobMissing: One is being deleted.
            StoreUnavailable: Unknown whether it happened.
        """
        await self.change_marks(key, lambda record: spared(record, revisions, by, self._clock()))

    @overload
    async def change_marks(
        self, key: Literal["garbage"], change: Callable[[GarbageRecord], GarbageRecord]
    ) -> GarbageRecord: ...

    @overload
    async def change_marks(self, key: str, change: Callable[[Any], Any]) -> DomainRecord | GarbageRecord: ...

    async def change_marks(self, key: str, change: Callable[[Any], Any]) -> DomainRecord | GarbageRecord:
        """Change the marks of a domain's record or of `garbage`; only garbage collection calls this.

        Args:
            key: Of the record.
            change: The next record, or the same one if nothing changes.

        Returns:
            The record as it is now.

        Raises:
            StoreUnavailable: Unknown whether it happened.
        """
        if key == GARBAGE:
            return await self._change(key, GarbageRecord, change)
        # stands for a record that is not there: it has no marks, so nothing is written
        absent = DomainRecord(domain=key.removeprefix(DOMAIN), division="none")
        return await self._change(key, DomainRecord, change, absent)

    async def _check_not_frozen(self) -> None:
        stop = (await self.switches()).frozen
        if stop is not None:
            raise Frozen(f"all changes are stopped by {stop.by or 'someone'} since {stop.at}: {stop.reason}")

    async def _read(self, key: str, kind: type[RecordT], empty: RecordT | None = None) -> RecordT:
        held = await self._backend.read_record(key)
        if held is not None:
            return parse_record(held.record, kind, key)
        return kind() if empty is None else empty

    async def _change(
        self, key: str, kind: type[RecordT], change: Callable[[RecordT], RecordT], empty: RecordT | None = None
    ) -> RecordT:
        """Read, change, compare and set; a lost race is tried again."""
        for _ in range(ATTEMPTS):
            record = await self._read(key, kind, empty)
            after = change(record)
            if after is record:
                if record.generation > 0:
                    await self._backend.confirm([key])
                return record
            if await self._backend.compare_and_set(key, record.generation, after.model_dump(mode="json")):
                return after
        raise StoreUnavailable(f"record {key!r}: {ATTEMPTS} attempts in a row lost to other writers")


def is_sweeping(record: GarbageRecord, now: float) -> bool:
    """Whether a collection is deleting; one that said so an hour ago was cut off."""
    return record.sweeping is not None and now - (seconds_of(record.sweeping.at) or 0.0) < SWEEP_S


def _features(fingerprint: str, side: str) -> str:
    return f"{FEATURES}{check_revision(fingerprint)}:{check_domain(side)}"
