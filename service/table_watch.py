"""Follow the feature tables' records: load a new table beside the one that serves, then swap one reference."""

from __future__ import annotations

import asyncio
from functools import partial

from adapters_store.backbone import Backbone
from adapters_store.feature_tables import SIDES, Side
from adapters_store.store import AdapterStore
from service.confirming import confirmed
from service.observer import Observer
from service.tables import CurrentTables, load_side


class TableFollower:
    """Brings this replica to the tables that the store's records name.

    Args:
        store: where records and layers are read.
        truth: the same without the disk cache.
        backbone: whose tables they are.
        tables: swapped; requests that run keep what they took.
        observer: told of swaps.
    """

    def __init__(
        self,
        store: AdapterStore,
        truth: AdapterStore,
        backbone: Backbone,
        tables: CurrentTables,
        observer: Observer,
    ) -> None:
        self._store = store
        self._truth = truth
        self._backbone = backbone
        self._tables = tables
        self._observer = observer
        self._applied = dict.fromkeys(SIDES, 0)
        self._locks = {side: asyncio.Lock() for side in SIDES}

    @property
    def keys(self) -> dict[Side, str]:
        """Side -> key of its record."""
        return {side: f"features/{self._backbone.fingerprint}:{side}" for side in SIDES}

    async def follow(self, side: Side) -> None:
        """Read a side's record and load the table that it names, if that is another than the one that serves.

        Raises:
            adapters_store.errors.StoreError: it could not be read, or is refused; the table before goes on serving.
        """
        async with self._locks[side]:
            fingerprint = self._backbone.fingerprint
            record = await confirmed(
                self._applied[side],
                partial(self._store.feature_record, fingerprint, side),
                partial(self._truth.feature_record, fingerprint, side),
            )
            table, revision = await load_side(self._store, self._backbone, side, record, self._tables.current)
            self._applied[side] = record.generation
            if revision == self._tables.current.revisions[side]:
                return
            # of the other side whatever serves now: it may have been swapped meanwhile
            self._tables.swap(self._tables.current.with_side(side, table, revision))
            self._observer.tables_swapped(side, revision, len(table))
