"""Making a new domain live: verified, rehearsed and stored before anything is visible to anybody."""

from __future__ import annotations

from adapters_store.artifact import decode_adapter
from adapters_store.canonical import digest
from adapters_store.errors import Frozen, RecordConflict
from adapters_store.feature_publishing import PublishedLayer, publish_layer
from adapters_store.feature_tables import Side
from adapters_store.records import Condition, DomainRecord
from adapters_store.store import AdapterStore
from adapters_store.verification import LogitsOf, verify_adapter
from training.newcomer.ground import Ground, read_ground


def verify_newcomer(content: bytes, ground: Ground, logits_of: LogitsOf) -> None:
    """Accept an artifact as a replica will.

    Args:
        content: the file.
        ground: what it was made for.
        logits_of: the engine.

    Raises:
        ArtifactError: it is refused; says why.
    """
    pins = ground.pins
    adapter = decode_adapter(content)
    verify_adapter(adapter, ground.bundle, pins.auxiliaries, pins.fusion, logits_of, domain=ground.domain)


class NewcomerPublisher:
    """Publishes one new domain by three changes: a layer for each side that has new ids, then the domain's record.

    Each is a compare-and-set on what the adapter was trained on, so nobody's change is written over, a release of the
    whole fleet neither. What a failure in between leaves behind is rows of ids that nothing else names, and a repeat
    goes on from there.

    Args:
        store: where to.
        ground: what the adapter was trained on.
        content: the artifact, verified.
        by: who asks.
    """

    def __init__(self, store: AdapterStore, ground: Ground, content: bytes, by: str) -> None:
        self._store = store
        self._ground = ground
        self._content = content
        self._by = by
        self._pointer: int | None = None
        self.revision = digest(content)

    @property
    def sides(self) -> list[Side]:
        """The sides that have new ids."""
        return [side for side, added in self._ground.added.items() if len(added.rows.index)]

    async def prepare(self) -> None:
        """Refuse what would be refused, and store the artifact, which nobody sees yet.

        Raises:
            RecordConflict: backbone, a table or the domain changed since the ground was read.
            DomainTaken: the domain came to serve meanwhile.
            Frozen: changes are stopped.
            ArtifactError: a layer is refused.
            StoreUnavailable: unknown what was stored.
        """
        ground = self._ground
        now = await read_ground(self._store, ground.domain, "none" if ground.live is None else "replace")
        if now.bundle.revision != ground.bundle.revision:
            raise RecordConflict(
                f"the default backbone became {now.bundle.revision} while this domain was trained on "
                f"{ground.bundle.revision}: run the command again"
            )
        if _generation(now) != _generation(ground) or now.live != ground.live:
            raise RecordConflict(f"domain {ground.domain!r} changed while it was trained: look at it, and run again")
        self._pointer = now.pointer
        stop = (await self._store.switches()).frozen or (None if now.record is None else now.record.frozen)
        if stop is not None:
            raise Frozen(f"changes are stopped by {stop.by or 'someone'} since {stop.at}: {stop.reason}")
        for side in self.sides:
            await self._layer(side, dry_run=True)
        await self._store.put(self._content)

    async def layer(self, side: Side) -> PublishedLayer:
        """Add one side's new ids to its table.

        Raises:
            RecordConflict: another table became current meanwhile.
            Frozen: changes are stopped.
            StoreUnavailable: unknown whether it happened.
        """
        return await self._layer(side, dry_run=False)

    async def live(self) -> DomainRecord:
        """Make the adapter live.

        Raises:
            RecordConflict: the domain's record changed meanwhile, or the fleet's release since the preparation.
            Frozen: changes are stopped.
            StoreUnavailable: unknown whether it happened.
        """
        ground = self._ground
        condition = Condition(_generation(ground), self._pointer)
        try:
            return await self._store.set_live(
                ground.domain, ground.division.name, self.revision, self._by, if_generation=condition
            )
        except RecordConflict as error:
            raise RecordConflict(f"{error}; run the command again") from None

    async def _layer(self, side: Side, dry_run: bool) -> PublishedLayer:
        ground, added = self._ground, self._ground.added[side]
        parent = ground.tables[side].revision
        try:
            return await publish_layer(
                self._store,
                ground.bundle,
                side,
                added.rows,
                added.unknown_values,
                parent=parent,
                by=self._by,
                dry_run=dry_run,
            )
        except RecordConflict:
            raise RecordConflict(
                f"the current table of {side} is not {parent} any more, which this domain was trained on: run the "
                "command again"
            ) from None


def _generation(ground: Ground) -> int:
    return 0 if ground.record is None else ground.record.generation
