"""Switches that an operator sets for the whole fleet."""

from __future__ import annotations

from adapters_store.store import AdapterStore
from service.observer import Observer


class Switchboard:
    """The switches as last read.

    Args:
        store: where they are recorded.
        observer: told which are on.
    """

    def __init__(self, store: AdapterStore, observer: Observer) -> None:
        self._store = store
        self._observer = observer
        self.backbone_only = False

    async def follow(self) -> None:
        """Read them anew; they hold from the next admission on.

        Raises:
            adapters_store.errors.StoreError: they could not be read; what was read last holds.
        """
        self.backbone_only = (await self._store.switches()).adapters_only_backbone
        self._observer.backbone_only(self.backbone_only)
