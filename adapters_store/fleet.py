"""Fleet releases: stored, staged for replicas to prepare, made live and rolled back by one change of one record."""

import asyncio
from collections.abc import Sequence

from adapters_store.backend import Backend
from adapters_store.blobs import Clock
from adapters_store.errors import BlobMissing, NotStaged, RecordConflict
from adapters_store.ids import check_revision
from adapters_store.record_store import GARBAGE, RELEASE, STAGED, RecordStore, is_sweeping
from adapters_store.records import GarbageRecord, ReleasePointer, ReplicaReport, StagedRelease
from adapters_store.releases import RELEASE_BOUND, Release, flipped, parse_release, release_rolled_back, staged

_RELEASES_HELD = 4


class FleetStore(RecordStore):
    """What holds for all domains together."""

    def __init__(self, backend: Backend, clock: Clock) -> None:
        super().__init__(backend, clock)
        self._releases: dict[str, Release] = {}

    async def pointer(self) -> ReleasePointer:
        """Which release serves; generation 0 and release None before the first.

        Raises:
            RecordError: What is stored cannot be read by this build.
            StoreUnavailable: The store cannot be read.
        """
        return await self._read(RELEASE, ReleasePointer)

    async def staged(self) -> StagedRelease:
        """Which release replicas prepare; errors as `pointer`."""
        return await self._read(STAGED, StagedRelease)

    async def put_release(self, release: Release) -> str:
        """Store a release manifest; nothing serves it until it is flipped to.

        Returns:
            Its revision.

        Raises:
            StoreUnavailable: It may not have been stored.
        """
        return await self.put(await asyncio.to_thread(release.encoded))

    async def release(self, revision: str) -> Release:
        """Fetch a release manifest; the last few are held.

        Raises:
            BadId: `revision` is none.
            BlobMissing: The store does not have it.
            ArtifactError: It is damaged, or no release.
            StoreUnavailable: The store cannot be read.
        """
        held = self._releases.get(check_revision(revision))
        if held is None:
            held = await asyncio.to_thread(parse_release, await self.get(revision, RELEASE_BOUND))
            self._releases[revision] = held
            if len(self._releases) > _RELEASES_HELD:
                self._releases.pop(next(iter(self._releases)))
        return held

    async def stage(self, revision: str | None, by: str) -> StagedRelease:
        """Let replicas fetch and prepare a release, or none.

        Args:
            revision: Of the release; every revision that it names must be in the store.
            by: Who asks.

        Returns:
            The record as it is now.

        Raises:
            BadId: `revision` is none.
            BlobMissing: The release, or a revision that it names, is not in the store.
            ArtifactError: It is no release.
            Frozen: Changes are stopped.
            RecordConflict: Garbage is being deleted just now.
            StoreUnavailable: Unknown whether it happened.
        """
        await self._check_not_frozen()
        named = set() if revision is None else {revision, *(await self.release(revision)).revisions()}
        if revision is not None and not await self.has(revision):  # held here, and gone there
            raise BlobMissing(f"release {revision} is not in the store: put it there before it is staged")
        record = await self._change(STAGED, StagedRelease, lambda record: staged(record, revision, by, self._clock()))
        # Looked at after the release is named, as garbage collection looks at what is named after it says that it
        # deletes: of a collection at the same time one side sees the other.
        if named and is_sweeping(await self._read(GARBAGE, GarbageRecord), self._clock()):
            raise RecordConflict("garbage is being deleted just now: stage again in a moment")
        missing = named - await self._backend.has_blobs(sorted(named))
        if missing:
            raise BlobMissing(f"{len(missing)} revisions of the release are not in the store, such as {min(missing)}")
        return record

    async def flip(self, revision: str, by: str, min_staged: float = 0.99) -> ReleasePointer:
        """Make a staged release live, by one change of one record; if it already is, nothing changes.

        Args:
            revision: Of the release.
            by: Who asks.
            min_staged: Share of the release that every replica must have prepared; 0 asks no replica.

        Returns:
            The pointer as it is now.

        Raises:
            BadId: `revision` is none.
            BlobMissing: The release, or a revision that it names, is not in the store.
            Frozen: Changes are stopped.
            NotStaged: It is not staged, or a replica has prepared less; the worst one is named.
            StoreUnavailable: Unknown whether it happened.
        """
        held = await self.pointer()
        if held.release == check_revision(revision):
            await self._backend.confirm([RELEASE])
            return held
        await self._check_not_frozen()
        if min_staged > 0:
            if (await self.staged()).release != revision:
                raise NotStaged(f"release {revision} is not staged: stage it first")
            _check_staged(await self.replica_reports(), revision, min_staged)
        else:
            await self.stage(revision, by)  # no replica has looked whether everything is there
        return await self._change(
            RELEASE, ReleasePointer, lambda pointer: flipped(pointer, revision, by, self._clock())
        )

    async def roll_back_release(self, from_: str, by: str) -> ReleasePointer:
        """Return to the release before; domains changed under that one have what they had then.

        Args:
            from_: The live release, as the caller saw it.
            by: Who asks.

        Returns:
            The pointer as it is now.

        Raises:
            BadId: `from_` is none.
            BlobMissing: The earlier one was collected as garbage.
            RecordConflict: Another release is live.
            NothingToRollBack: There is no earlier one.
            StoreUnavailable: Unknown whether it happened.
        """
        check_revision(from_)
        earlier = release_rolled_back(await self.pointer(), from_, by, self._clock()).release
        if earlier is not None and not await self.has(earlier):
            raise BlobMissing(f"the release before, {earlier}, is not in the store any more: flip to another instead")
        return await self._change(
            RELEASE, ReleasePointer, lambda pointer: release_rolled_back(pointer, from_, by, self._clock())
        )


def _check_staged(reports: Sequence[ReplicaReport], release: str, min_staged: float) -> None:
    if not reports:
        raise NotStaged("no replica says that it prepares the release: start one, or flip with min_staged 0")

    def share(report: ReplicaReport) -> float:
        if report.release != release:
            return 0.0
        return report.staged / report.of if report.of else 0.0  # it has not read yet what there is to prepare

    worst = min(reports, key=share)
    if share(worst) < min_staged:
        raise NotStaged(
            f"replica {worst.replica} has prepared {share(worst):.1%} of release {release}, less than {min_staged:.1%}"
        )
