"""The adapter store: revisions by digest, and the records that say which of them serves."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from adapters_store.backbone import MANIFEST, Backbone, read_bundle, read_bundle_from_store
from adapters_store.backend import Backend
from adapters_store.canonical import digest
from adapters_store.errors import BlobMissing, DigestMismatch, DomainUnknown, RecordConflict, StoreUnavailable
from adapters_store.ids import check_division, check_domain, check_revision
from adapters_store.records import (
    BackboneRecord,
    DomainRecord,
    activated,
    defaulted,
    deleted,
    parse_record,
    rolled_back,
)

Clock = Callable[[], float]
RecordT = TypeVar("RecordT", DomainRecord, BackboneRecord)

_DOMAIN = "domain/"
_BACKBONE = "backbone"
# Each lost race means that someone else won it, so this many in a row mean a fault, not contention.
_ATTEMPTS = 1000


class AdapterStore:
    """What training publishes to and the service reads from.

    Args:
        backend: Where the bytes are.
        clock: Seconds since the epoch, for `updated_at`.
    """

    def __init__(self, backend: Backend, clock: Clock) -> None:
        self._backend = backend
        self._clock = clock

    async def close(self) -> None:
        """Close the backend."""
        await self._backend.close()

    async def put(self, content: bytes) -> str:
        """Store an artifact's bytes; storing the same again changes nothing.

        Args:
            content: The bytes; what they are is the caller's to verify.

        Returns:
            Their revision.

        Raises:
            StoreUnavailable: They may not have been stored.
        """
        revision = await asyncio.to_thread(digest, content)
        await self._backend.put_blob(revision, content)
        return revision

    async def get(self, revision: str) -> bytes:
        """Fetch an artifact's bytes.

        Raises:
            BadId: `revision` is none.
            BlobMissing: The store has no such bytes.
            DigestMismatch: The bytes in the store are not those that were put there.
            StoreUnavailable: The store cannot be read.
        """
        content = await self._backend.get_blob(check_revision(revision))
        if await asyncio.to_thread(digest, content) != revision:
            raise DigestMismatch(f"blob {revision} is damaged in the store: publish it again")
        return content

    async def has(self, revision: str) -> bool:
        """Whether the store has these bytes.

        Raises:
            BadId: `revision` is none.
            StoreUnavailable: The store cannot be read.
        """
        return await self._backend.has_blob(check_revision(revision))

    async def domain(self, domain: str) -> DomainRecord | None:
        """The record of a domain, a tombstone too, or None.

        Raises:
            BadId: `domain` is none.
            MalformedRecord: What is stored is no such record.
            StoreUnavailable: The store cannot be read.
        """
        key = _DOMAIN + check_domain(domain)
        stored = await self._backend.read_record(key)
        return None if stored is None else parse_record(stored.record, DomainRecord, key)

    async def domains(self, after: str = "", limit: int = 100) -> list[DomainRecord]:
        """Records in order of domain id, tombstones included.

        Args:
            after: Only domains that sort behind this one.
            limit: At most so many.

        Raises:
            MalformedRecord: What is stored is no such record.
            StoreUnavailable: The store cannot be read.
        """
        keys = await self._backend.list_records(_DOMAIN, _DOMAIN + after, limit)
        records = [await self.domain(key.removeprefix(_DOMAIN)) for key in keys]
        return [record for record in records if record is not None]

    async def generations(self) -> dict[str, int]:
        """Domain to generation of its record, tombstones included: cheap, for a watcher to poll.

        Raises:
            StoreUnavailable: The store cannot be read.
        """
        found = await self._backend.read_records(await self._backend.list_records(_DOMAIN))
        return {key.removeprefix(_DOMAIN): held.record["generation"] for key, held in found.items()}

    async def set_live(
        self,
        domain: str,
        division: str,
        revision: str,
        by: str,
        if_generation: int | None = None,
        create_only: bool = False,
    ) -> DomainRecord:
        """Make a stored revision live. If it already is, nothing changes and no condition is looked at.

        Args:
            domain: Whose.
            division: The revision's division.
            revision: What becomes live.
            by: Who asks.
            if_generation: Only if the record still has this generation (0: there is none).
            create_only: Only if nothing is live.

        Returns:
            The record as it is now.

        Raises:
            BadId: An id is none.
            BlobMissing: The store does not have the revision.
            RecordConflict: A condition does not hold.
            WrongDomain: The domain is of another division.
            StoreUnavailable: Unknown whether it happened.
        """
        check_division(division)
        if not await self.has(revision):
            raise BlobMissing(f"revision {revision} is not in the store: put it there before it becomes live")

        def change(record: DomainRecord) -> DomainRecord:
            if create_only and record.live is not None and record.live.revision != revision:
                raise RecordConflict(f"domain {domain!r} already serves {record.live.revision}")
            return activated(record, division, revision, by, self._clock())

        return await self._change_domain(domain, division, change, if_generation)

    async def rollback(self, domain: str, from_: str, by: str, if_generation: int | None = None) -> DomainRecord:
        """Walk a domain back from `from_` to the newest earlier revision that nobody rolled back from.

        Args:
            domain: Whose.
            from_: The live revision, as the caller saw it.
            by: Who asks.
            if_generation: Only if the record still has this generation.

        Returns:
            The record as it is now.

        Raises:
            BadId: An id is none.
            DomainUnknown: There is no such record.
            RecordConflict: Another revision is live, or a condition does not hold.
            NothingToRollBack: There is no such earlier revision.
            StoreUnavailable: Unknown whether it happened.
        """
        check_revision(from_)
        return await self._change_domain(
            domain, None, lambda record: rolled_back(record, from_, by, self._clock()), if_generation
        )

    async def delete(self, domain: str, by: str, if_generation: int | None = None) -> DomainRecord:
        """Write a tombstone: the domain serves nothing until something is activated again.

        Args:
            domain: Whose.
            by: Who asks.
            if_generation: Only if the record still has this generation.

        Returns:
            The record as it is now.

        Raises:
            BadId: `domain` is none.
            DomainUnknown: There is no such record.
            RecordConflict: The condition does not hold.
            StoreUnavailable: Unknown whether it happened.
        """
        return await self._change_domain(domain, None, lambda record: deleted(record, by, self._clock()), if_generation)

    async def publish_backbone(self, folder: Path, by: str = "") -> str:
        """Store a bundle folder and make it the default.

        Args:
            folder: The bundle; every file is checked against its digest.
            by: Who asks.

        Returns:
            The bundle's revision.

        Raises:
            ArtifactError: The bundle is refused.
            StoreUnavailable: The folder cannot be read, or the store not written.
        """
        revision = await self.put_bundle(folder)
        await self.set_default_backbone(revision, by)
        return revision

    async def put_bundle(self, folder: Path) -> str:
        """Store a bundle folder without making it the default; arguments and errors as `publish_backbone`."""
        backbone = await asyncio.to_thread(read_bundle, folder)
        for entry in backbone.manifest.files:
            await self._put_as(entry.sha256, await asyncio.to_thread(backbone.file, entry.name))
        return await self._put_as(backbone.revision, await asyncio.to_thread((folder / MANIFEST).read_bytes))

    async def backbone_record(self) -> BackboneRecord:
        """Which bundle is the default; generation 0 and default None before the first publish.

        Raises:
            MalformedRecord: What is stored is no such record.
            StoreUnavailable: The store cannot be read.
        """
        stored = await self._backend.read_record(_BACKBONE)
        return BackboneRecord() if stored is None else parse_record(stored.record, BackboneRecord, _BACKBONE)

    async def set_default_backbone(self, revision: str, by: str = "") -> BackboneRecord:
        """Make a stored bundle the default; if it already is, nothing changes.

        Args:
            revision: Of the bundle.
            by: Who asks.

        Returns:
            The record as it is now.

        Raises:
            BadId: `revision` is none.
            BlobMissing: The store does not have it.
            StoreUnavailable: Unknown whether it happened.
        """
        if not await self.has(revision):
            raise BlobMissing(f"bundle {revision} is not in the store: publish it first")
        return await self._change(
            _BACKBONE, self.backbone_record, lambda record: defaulted(record, revision, by, self._clock()), None
        )

    async def bundle(self, revision: str) -> Backbone:
        """Fetch a bundle.

        Raises:
            BadId: `revision` is none.
            BlobMissing: The manifest or a file is not in the store.
            ArtifactError: The bundle is refused.
            StoreUnavailable: The store cannot be read.
        """
        return await read_bundle_from_store(self, revision)

    async def _put_as(self, revision: str, content: bytes) -> str:
        """Store bytes that were checked when they were read before; a file that changed since is refused."""
        if await self.put(content) != revision:
            raise DigestMismatch(f"a file of the bundle changed while it was published; expected {revision}")
        return revision

    async def _change_domain(
        self,
        domain: str,
        division: str | None,
        change: Callable[[DomainRecord], DomainRecord],
        if_generation: int | None,
    ) -> DomainRecord:
        """Change one domain's record; `division` lets a new domain begin."""

        async def read() -> DomainRecord:
            record = await self.domain(domain)
            if record is not None:
                return record
            if division is None:
                raise DomainUnknown(f"the store has no domain {domain!r}")
            return DomainRecord(domain=domain, division=division)

        return await self._change(_DOMAIN + check_domain(domain), read, change, if_generation)

    async def _change(
        self,
        key: str,
        read: Callable[[], Awaitable[RecordT]],
        change: Callable[[RecordT], RecordT],
        if_generation: int | None,
    ) -> RecordT:
        """Read, change, compare and set; a lost race is tried again unless the caller named a generation."""
        for _ in range(_ATTEMPTS):
            record = await read()
            after = change(record)
            if after is record:
                return record
            if if_generation is not None and record.generation != if_generation:
                raise RecordConflict(f"record {key!r} has generation {record.generation}, not {if_generation}")
            if await self._backend.compare_and_set(key, record.generation, after.model_dump(mode="json")):
                return after
        raise StoreUnavailable(f"record {key!r}: {_ATTEMPTS} attempts in a row lost to other writers")
