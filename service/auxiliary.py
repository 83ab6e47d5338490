"""The rung of the ladder below a domain's own adapter: auxiliary adapters alone, by their live records.

They are fused as a natural adapter fuses them, its own division masked out of the softmax: by the fusion that all of
them pin. So their revisions, which the answer names, say all that scored it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from adapters_store.errors import ArtifactError, StoreError
from adapters_store.folding import Combination
from adapters_store.manifest import Calibration
from service.backbones import Backbones
from service.clock import Clock
from service.domains import Domains
from service.errors import EngineFailed
from service.loader import LOST, Loader
from service.preparer import Preparer
from service.slots import Lease, SlotTable

Pins = tuple[tuple[str, str], ...]  # (auxiliary domain, its live revision), in the order of the divisions

_ASIDE = 256
_RETRY_S = 1.0  # what the store could not give is asked for by no request for so long


class Auxiliaries:
    """Prepared combinations of auxiliary adapters, loaded when a request first needs them.

    They score with the default backbone only: those of another fingerprint are refused for that.

    Args:
        backbones: those in memory.
        domains: knows the live records.
        loader: reads those that are not known yet.
        preparer: folds a combination, off the scoring path.
        slots: holds the prepared ones beside the natural adapters, within one bound.
        clock: when the store may be asked again for what it could not give.
    """

    def __init__(
        self,
        backbones: Backbones,
        domains: Domains,
        loader: Loader,
        preparer: Preparer,
        slots: SlotTable,
        clock: Clock,
    ) -> None:
        self._backbones = backbones
        self._domains = domains
        self._loader = loader
        self._preparer = preparer
        self._slots = slots
        self._clock = clock
        self._ask_again_at: dict[Pins, float] = {}
        self._flights: dict[Pins, asyncio.Task[None]] = {}
        self._calibration = self._default_calibration()

    def lease(self, combinations: Sequence[Combination]) -> list[Lease | None]:
        """Hold what scores each of these combinations of one request; None where none of its domains has an adapter.

        Nothing is held where something is not prepared that should score some of them: what an answer names would not
        tell then which rows it scored.
        """
        pins = [self._pins(combination) for combination in combinations]
        if any(one and self._slots.get(one) is None for one in pins):
            return [None] * len(pins)
        return [self._slots.lease(one) if one else None for one in pins]

    def is_ready(self, combination: Combination) -> bool:
        """Whether everything is here that these auxiliary domains have, or asking for the rest is in vain for now."""
        known = all(domain is None or self._domains.get(domain) is not None for domain in combination)
        pins = self._pins(combination)
        return known and self._is_settled(pins)

    async def ready(self, combination: Combination) -> None:
        """Load what these auxiliary domains need; returns also when it cannot be had."""
        for domain in combination:
            if domain is not None and self._domains.get(domain) is None and not self._loader.store_failed(domain):
                pulled = self._loader.pull(domain)
                if pulled is not None:
                    await asyncio.wait({pulled})
        pins = self._pins(combination)
        if self._is_settled(pins) or self._loader.store_failed(pins[0][0]):
            return
        flight = self._flights.get(pins)
        if flight is None:
            flight = self._flights[pins] = asyncio.get_running_loop().create_task(self._load(pins))
            flight.add_done_callback(lambda _: self._flights.pop(pins))
        await asyncio.shield(flight)

    def forget(self) -> None:
        """Let go of what is not of the default backbone, which is another than before, or not by its calibration."""
        before, self._calibration = self._calibration, self._default_calibration()
        for place in [place for place in self._slots if not isinstance(place, str)]:
            slot = self._slots.get(place)
            if slot is not None and (slot.serving is not self._backbones.default or before != self._calibration):
                self._slots.evict(place)

    async def stop(self) -> None:
        """Cancel what is in flight."""
        for flight in self._flights.values():
            flight.cancel()
        await asyncio.gather(*self._flights.values(), return_exceptions=True)

    def _is_settled(self, pins: Pins) -> bool:
        return not pins or self._slots.get(pins) is not None or self._clock.now() < self._ask_again_at.get(pins, 0.0)

    def _pins(self, combination: Combination) -> Pins:
        """The live revisions of the domains that have one which this replica accepts."""
        pins = []
        for domain in combination:
            known = None if domain is None else self._domains.get(domain)
            if domain is not None and known is not None and known.live is not None and known.live not in known.rejected:
                pins.append((domain, known.live))
        return tuple(pins)

    async def _load(self, pins: Pins) -> None:
        adapters = []
        serving, calibration = self._backbones.default, self._default_calibration()
        try:
            for domain, revision in pins:
                adapters.append((await self._preparer.verified_auxiliary(domain, revision, serving)).adapter)
            slot = await self._preparer.auxiliary_slot(adapters, serving)
        except LOST:
            self._set_aside(pins)
        except (ArtifactError, EngineFailed) as error:  # the last alone, or with those before: they are tried without
            self._domains.reject(domain, revision, str(error), type(error).__name__)
        except StoreError:
            self._set_aside(pins)
        else:
            if serving is self._backbones.default and calibration == self._default_calibration():
                self._slots.activate(pins, slot)  # else the next request begins anew

    def _default_calibration(self) -> Calibration:
        return self._backbones.default.backbone.manifest.calibration

    def _set_aside(self, pins: Pins) -> None:
        self._ask_again_at.pop(pins, None)  # so that the first is the one that failed longest ago
        if len(self._ask_again_at) >= _ASIDE:
            del self._ask_again_at[next(iter(self._ask_again_at))]
        self._ask_again_at[pins] = self._clock.now() + _RETRY_S
