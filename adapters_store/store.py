"""The adapter store: revisions by digest, and the records that say which of them serves."""

import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

from adapters_store.backend import Backend, Versioned, in_flight
from adapters_store.blobs import Clock
from adapters_store.domain_changes import DomainChanges, Intent, Outcome
from adapters_store.errors import RecordConflict, RecordError
from adapters_store.fleet import FleetStore
from adapters_store.ids import check_domain, check_revision
from adapters_store.record_store import DOMAIN
from adapters_store.records import Condition, DomainRecord, Stamped, parse_record
from adapters_store.releases import Standing
from adapters_store.transitions import (
    activated,
    canaried,
    deleted,
    frozen,
    rolled_back,
    shadowed,
    thawed,
    without,
)

_NONE: Mapping[str, str] = {}


class AdapterStore(FleetStore):
    """What training publishes to and the service reads from.

    Args:
        backend: Where the bytes are.
        clock: Seconds since the epoch, for `updated_at`.
    """

    def __init__(self, backend: Backend, clock: Clock) -> None:
        super().__init__(backend, clock)
        self._changes = DomainChanges(self)

    async def domain(self, domain: str) -> DomainRecord | None:
        """The record of a domain, a tombstone too, or None.

        Raises:
            BadId: `domain` is none.
            NewerSchema: A newer build wrote it.
            MalformedRecord: What is stored is no such record.
            StoreUnavailable: The store cannot be read.
        """
        stamped = await self.stamped_domain(domain)
        return None if stamped is None else stamped.record

    async def stamped_domain(self, domain: str) -> Stamped[DomainRecord] | None:
        """The record of a domain with its version; errors as `domain`."""
        key = DOMAIN + check_domain(domain)
        held = await self._backend.read_record(key)
        return None if held is None else Stamped(parse_record(held.record, DomainRecord, key), held.version)

    async def stamped_domains(self, domains: Sequence[str]) -> tuple[dict[str, Stamped[DomainRecord]], dict[str, str]]:
        """The records of many domains.

        Returns:
            Domain to record with its version, absent ones left out; and domain to what is wrong with its record.

        Raises:
            BadId: One is no domain id.
            StoreUnavailable: The store cannot be read.
        """
        keys = {DOMAIN + check_domain(domain): domain for domain in domains}
        found: dict[str, Stamped[DomainRecord]] = {}
        faults: dict[str, str] = {}
        try:
            held = await self._backend.read_records(list(keys))
        except RecordError:  # one of them is no JSON: find out which

            async def look(key: str) -> Versioned | None:
                try:
                    return await self._backend.read_record(key)
                except RecordError as error:
                    faults[keys[key]] = str(error)
                    return None

            read = await in_flight(keys, look)
            held = {key: one for key, one in zip(keys, read, strict=True) if one is not None}
        for key, one in held.items():
            try:
                found[keys[key]] = Stamped(parse_record(one.record, DomainRecord, key), one.version)
            except RecordError as error:
                faults[keys[key]] = str(error)
        return found, faults

    async def domains(self, after: str = "", limit: int = 100) -> list[DomainRecord]:
        """Records in order of domain id, tombstones included.

        Args:
            after: Only domains that sort behind this one.
            limit: At most so many.

        Raises:
            RecordError: What is stored is no such record.
            StoreUnavailable: The store cannot be read.
        """
        keys = await self._backend.list_records(DOMAIN, DOMAIN + after, limit)
        held = await self._backend.read_records(keys)
        return [parse_record(held[key].record, DomainRecord, key) for key in keys if key in held]

    async def set_live(
        self,
        domain: str,
        division: str,
        revision: str,
        by: str,
        if_generation: int | Condition | None = None,
        create_only: bool = False,
        pins: Mapping[str, str] = _NONE,
        fusion: str | None = None,
    ) -> DomainRecord:
        """Make a stored revision live. If it effectively is, nothing changes and no condition is looked at.

        Args:
            domain: Whose.
            division: The revision's division.
            revision: What becomes live.
            by: Who asks.
            if_generation: Only if the record still has this generation (0: there is none), and the release pointer its.
            create_only: Only if nothing is live.
            pins: Auxiliary domain to revision that the revision pins; they must be in the store, too.
            fusion: That the revision pins, or None.

        Returns:
            The record as it is now.

        Raises:
            BadId: An id is none.
            BlobMissing: The store does not have a revision, or is deleting it.
            RecordConflict: A condition does not hold.
            Frozen: Changes are stopped.
            WrongDomain: The domain is of another division.
            StoreUnavailable: Unknown whether it happened.
        """
        return await self._changes.one(
            self.activation(domain, division, revision, by, if_generation, create_only, pins, fusion)
        )

    def activation(
        self,
        domain: str,
        division: str,
        revision: str,
        by: str,
        if_generation: int | Condition | None = None,
        create_only: bool = False,
        pins: Mapping[str, str] = _NONE,
        fusion: str | None = None,
    ) -> Intent:
        """What `set_live` does, to be carried out with others by `change_many`; arguments and errors as there."""

        def transition(record: DomainRecord, standing: Standing, again: bool) -> DomainRecord:
            serving = standing.effective(record)
            if create_only and not again and serving is not None and serving != revision:
                raise RecordConflict(f"domain {domain!r} already serves {serving}")
            return activated(record, division, revision, by, self._clock(), standing)

        return Intent(domain, transition, by, division, Condition.of(if_generation), revision, pins, fusion)

    async def change_many(self, intents: Sequence[Intent]) -> list[Outcome]:
        """Carry out intents of different domains, each for itself.

        Returns:
            What became of each, in order; a refusal is an outcome.

        Raises:
            StoreUnavailable: The store failed; unknown which of them happened. Repeating is safe.
        """
        return await self._changes.many(intents)

    async def set_canary(
        self,
        domain: str,
        revision: str,
        percent: float,
        by: str,
        if_generation: int | Condition | None = None,
        pins: Mapping[str, str] = _NONE,
        fusion: str | None = None,
    ) -> DomainRecord:
        """Serve a stored revision to some users; its salt is kept while only percent moves.

        Args:
            domain: Whose.
            revision: Which.
            percent: Of the users, 0 < percent <= 100.
            by: Who asks.
            if_generation: As for `set_live`.
            pins: As for `set_live`.
            fusion: As for `set_live`.

        Returns:
            The record as it is now.

        Raises:
            BadId: An id or the percentage is none.
            BlobMissing: The store does not have the revision, or is deleting it.
            DomainUnknown: There is no such record.
            RecordConflict: Nothing is live, or this revision is, or a condition does not hold.
            Frozen: Changes are stopped.
            StoreUnavailable: Unknown whether it happened.
        """
        salt = secrets.token_hex(16)

        def transition(record: DomainRecord, standing: Standing, again: bool) -> DomainRecord:
            return record if again else canaried(record, revision, percent, salt, by, self._clock(), standing)

        return await self._changes.one(
            Intent(domain, transition, by, None, Condition.of(if_generation), revision, pins, fusion)
        )

    async def set_shadow(
        self,
        domain: str,
        revision: str,
        percent: float,
        by: str,
        if_generation: int | Condition | None = None,
        pins: Mapping[str, str] = _NONE,
        fusion: str | None = None,
    ) -> DomainRecord:
        """Score a stored revision beside the live one; arguments, returns and errors as `set_canary`."""

        def transition(record: DomainRecord, standing: Standing, again: bool) -> DomainRecord:
            return record if again else shadowed(record, revision, percent, by, self._clock(), standing)

        return await self._changes.one(
            Intent(domain, transition, by, None, Condition.of(if_generation), revision, pins, fusion)
        )

    async def clear_canary(self, domain: str, by: str, if_generation: int | Condition | None = None) -> DomainRecord:
        """End the canary; if there is none, nothing changes. Errors as `set_canary`."""
        return await self._clear("canary", domain, by, if_generation)

    async def clear_shadow(self, domain: str, by: str, if_generation: int | Condition | None = None) -> DomainRecord:
        """End the shadow; if there is none, nothing changes. Errors as `set_canary`."""
        return await self._clear("shadow", domain, by, if_generation)

    async def rollback(
        self, domain: str, from_: str, by: str, if_generation: int | Condition | None = None
    ) -> DomainRecord:
        """Walk a domain back from `from_` to the newest earlier revision that nobody rolled back from.

        Args:
            domain: Whose.
            from_: The effective live revision, as the caller saw it.
            by: Who asks.
            if_generation: As for `set_live`.

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

        def transition(record: DomainRecord, standing: Standing, again: bool) -> DomainRecord:
            if again and standing.effective(record) != from_:
                return record
            return rolled_back(record, from_, by, self._clock(), standing)

        return await self._changes.one(
            Intent(domain, transition, by, condition=Condition.of(if_generation), always=True)
        )

    async def delete(self, domain: str, by: str, if_generation: int | Condition | None = None) -> DomainRecord:
        """Write a tombstone: the domain serves nothing until something is activated again.

        Args:
            domain: Whose.
            by: Who asks.
            if_generation: As for `set_live`.

        Returns:
            The record as it is now.

        Raises:
            BadId: `domain` is none.
            DomainUnknown: There is no such record.
            RecordConflict: The condition does not hold.
            StoreUnavailable: Unknown whether it happened.
        """

        def transition(record: DomainRecord, standing: Standing, again: bool) -> DomainRecord:
            return deleted(record, by, self._clock(), standing)

        return await self._changes.one(
            Intent(domain, transition, by, condition=Condition.of(if_generation), always=True)
        )

    async def freeze(self, domain: str | None, by: str, reason: str) -> None:
        """Stop changes of a domain, or of all; rolling back, deleting and thawing stay possible.

        Args:
            domain: Whose; None: all.
            by: Who asks.
            reason: Why; shown to whoever is refused.

        Raises:
            BadId: `domain` is none.
            DomainUnknown: There is no such record.
            StoreUnavailable: Unknown whether it happened.
        """
        if domain is None:
            await self.freeze_all(by, reason)
            return

        def transition(record: DomainRecord, standing: Standing, again: bool) -> DomainRecord:
            return frozen(record, by, self._clock(), reason)

        await self._changes.one(Intent(domain, transition, by, always=True))

    async def thaw(self, domain: str | None, by: str) -> None:
        """Allow changes of a domain, or of all, again; arguments and errors as `freeze`."""
        if domain is None:
            await self.thaw_all(by)
            return

        def transition(record: DomainRecord, standing: Standing, again: bool) -> DomainRecord:
            return thawed(record, by, self._clock())

        await self._changes.one(Intent(domain, transition, by, always=True))

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

    async def _clear(self, alias: str, domain: str, by: str, if_generation: int | Condition | None) -> DomainRecord:
        def transition(record: DomainRecord, standing: Standing, again: bool) -> DomainRecord:
            return record if again else without(record, alias, by, self._clock())

        return await self._changes.one(Intent(domain, transition, by, condition=Condition.of(if_generation)))
