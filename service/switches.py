"""Switches that an operator sets for the whole fleet."""

from __future__ import annotations

import asyncio

from adapters_store.records import Switches
from adapters_store.store import AdapterStore
from service.confirming import confirmed
from service.logs import Action
from service.observer import Observer


class Switchboard:
    """The switches as last read.

    Args:
        store: where they are recorded.
        truth: the same without the disk cache.
        observer: told which are on.
    """

    def __init__(self, store: AdapterStore, truth: AdapterStore, observer: Observer) -> None:
        self._store = store
        self._truth = truth
        self._generation = 0
        self._lock = asyncio.Lock()
        self._observer = observer
        self._frozen = False
        self.backbone_only = False

    async def follow(self) -> None:
        """Read them anew; they hold from the next admission on.

        Raises:
            adapters_store.errors.StoreError: they could not be read; what was read last holds.
        """
        async with self._lock:  # a look that was answered late undoes no later one
            switches = await confirmed(self._generation, self._store.switches, self._truth.switches)
            self._tell(switches)
            self._generation = switches.generation
            self.backbone_only = switches.adapters_only_backbone
            self._observer.backbone_only(self.backbone_only)

    def _tell(self, switches: Switches) -> None:
        def moved(action: Action, before: bool, **facts: object) -> None:
            told = {"from": before, "to": not before, **facts}
            self._observer.followed(action, by=switches.by, generation=switches.generation, **told)

        if switches.adapters_only_backbone != self.backbone_only:
            moved("backbone_only", self.backbone_only)
        if switches.frozen is not None and not self._frozen:
            moved("freeze", False, reason=switches.frozen.reason)
        elif switches.frozen is None and self._frozen:
            moved("thaw", True)
        self._frozen = switches.frozen is not None
