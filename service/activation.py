"""From a record that was just written to what this replica, and the other workers of it, score by."""

from __future__ import annotations

from contextlib import suppress

from adapters_store.errors import StoreError
from adapters_store.records import DomainRecord
from service.domains import Domains, Known, Trial
from service.loader import Loader
from service.peers import Peers
from service.preparer import Preparer, Verified
from service.slots import Slot, SlotTable


class Activation:
    """Brings this replica to a change that was made through it.

    Who changes a record prepares before it (`prepared`), notes what was known then, and lands after it, by `live` or
    `beside`. The change is done by then: where another one came between, what the store says now decides.

    Args:
        preparer: prepares, off the scoring path.
        loader: brings this replica to what the store says.
        domains: where a record is applied.
        slots: what serves now.
        peers: the other workers of this replica.
    """

    def __init__(self, preparer: Preparer, loader: Loader, domains: Domains, slots: SlotTable, peers: Peers) -> None:
        self._preparer = preparer
        self._loader = loader
        self._domains = domains
        self._slots = slots
        self._peers = peers

    async def prepared(self, verified: Verified) -> Slot | None:
        """Prepared before the record moves, so that nothing is left that could fail then; None for an auxiliary one."""
        if self._domains.is_auxiliary(verified.adapter.manifest.division):
            return None
        return await self._preparer.slot(verified)

    async def live(self, record: DomainRecord, slot: Slot | None, since: Known | None) -> None:
        """Flip to what a record that was just written makes live.

        Args:
            record: as it was written.
            slot: of what it makes live; None for an auxiliary domain, and after a deletion.
            since: what was known here before it was written.
        """
        revision = None if slot is None else slot.revision
        if not self._domains.is_auxiliary(record.division):
            live = self._domains.fleet.live(record.domain, record)
            if live != revision:  # a release was flipped to, here already
                await self.caught_up(record)
                return
        if not self._domains.apply(record.domain, record, slot, since=since):
            await self.caught_up(record)

    async def beside(
        self, record: DomainRecord, since: Known | None, alias: Trial, prepared: Slot | None = None
    ) -> None:
        """Apply a record whose canary or shadow was just changed.

        A slot that was in memory before the change is found again or not: it may have been freed meanwhile.

        Args:
            record: as it was written.
            since: what was known here before it was written.
            alias: which of the two was changed.
            prepared: of what it names, where that was not in memory.
        """
        domain, slot = record.domain, self._slots.get(record.domain)
        serves = slot is not None and slot.revision == self._domains.fleet.live(domain, record)
        if serves and self._domains.apply(domain, record, slot, since=since):
            if prepared is not None:
                self._domains.attach(domain, alias, prepared)
            if self._domains.wants(domain, alias) is None:
                return
        await self.caught_up(record)

    async def caught_up(self, record: DomainRecord) -> None:
        """Bring this replica to a record that was just written, as far as the store lets it.

        The change is done: a failure to load it is no failure of the change. The domain's state shows it, and requests
        and the watcher try again.
        """
        with suppress(StoreError):
            await self._loader.refresh(record.domain, again=True)

    async def reached(self, domain: str, record: DomainRecord | None) -> None:
        """Bring this replica to what others wrote, if it lags or never loaded the domain.

        Raises:
            adapters_store.errors.StoreError: the store failed.
        """
        # without a record the domain serves by the release alone
        await self._loader.refresh(domain, 0 if record is None else record.generation)

    async def everywhere(self, domain: str, generation: int | None) -> None:
        """Wait until the other workers have applied what this replica has; without a record there is nothing to."""
        if generation is not None:
            await self._peers.applied(domain, generation)
