"""Follow the feature tables' records: load a new table beside the one that serves, then swap one reference."""

from __future__ import annotations

import asyncio
from functools import partial

from adapters_store.feature_tables import SIDES, Side
from adapters_store.store import AdapterStore
from service.confirming import confirmed
from service.observer import Observer
from service.serving import Serving
from service.tables import load_side


class TableFollower:
    """Brings this replica to the tables that the store's records name.

    Args:
        store: where records and layers are read.
        truth: the same without the disk cache.
        serving: the backbone whose tables are swapped; requests that run keep what they took.
        observer: told of swaps.
    """

    def __init__(
        self,
        store: AdapterStore,
        truth: AdapterStore,
        serving: Serving,
        observer: Observer,
    ) -> None:
        self._store = store
        self._truth = truth
        self._serving = serving
        self._observer = observer
        self._applied = dict.fromkeys(SIDES, 0)
        self._locks = {side: asyncio.Lock() for side in SIDES}
        for side, table in serving.tables.current.loaded.items():
            observer.table_rows(side, len(table))

    @property
    def keys(self) -> dict[Side, str]:
        """Side -> key of its record."""
        return {side: f"features/{self._serving.fingerprint}:{side}" for side in SIDES}

    async def follow(self, side: Side) -> None:
        """Read a side's record and load the table that it names, if that is another than the one that serves.

        Raises:
            adapters_store.errors.StoreError: it could not be read, or is refused; the table before goes on serving.
        """
        async with self._locks[side]:
            fingerprint, tables = self._serving.fingerprint, self._serving.tables
            record = await confirmed(
                self._applied[side],
                partial(self._store.feature_record, fingerprint, side),
                partial(self._truth.feature_record, fingerprint, side),
            )
            backbone = None
            while backbone is not self._serving.backbone:  # another bundle may come while a table of it is read
                backbone = self._serving.backbone
                table, revision = await load_side(self._store, backbone, side, record, tables.current)
            self._applied[side] = record.generation
            if revision == tables.current.revisions[side]:
                return
            moved = {"from": tables.current.revisions[side], "to": revision}
            # of the other side whatever serves now: it may have been swapped meanwhile
            tables.swap(tables.current.with_side(side, table, revision))
            self._observer.tables_swapped(side, revision, len(table))
            self._observer.followed(
                "publish_features", by=record.by, generation=record.generation, side=side, revision=revision, **moved
            )
