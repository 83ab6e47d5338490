"""What a replica holds in memory: backbones, prepared adapters within their bound, and what is known of each domain."""

from __future__ import annotations

from dataclasses import dataclass

from features.fields import Division
from service.assembly.environment import Environment
from service.backbones import Backbones
from service.domains import Domains
from service.residency import Evictions
from service.serving import Serving
from service.slots import Slot, SlotTable


@dataclass(frozen=True, slots=True)
class Residents:
    """What is in memory.

    Args:
        backbones: the default one, and perhaps one beside it.
        slots: prepared adapters.
        domains: records as they were applied here.
    """

    backbones: Backbones
    slots: SlotTable
    domains: Domains

    def divisions(self) -> list[Division]:
        """Those of every backbone in memory, the default's last."""
        return [
            division for serving in reversed(list(self.backbones)) for division in serving.backbone.manifest.divisions
        ]


def residents(given: Environment, serving: Serving) -> Residents:
    """Nothing but the default backbone, and the domains that hear of evictions."""
    config, observer, clock = given.config, given.observer, given.clock
    evictions = Evictions(
        lambda domain: domains.forget(domain), observer, limit_bytes=config.memory_bytes, now=clock.now
    )
    slots = SlotTable(
        Slot.empty,
        observer.resident,
        limit_bytes=config.memory_bytes,
        pinned=config.pinned,
        evicted=evictions.evicted,
        now=clock.now,
    )
    domains = Domains(serving.backbone.manifest.divisions, slots, observer, unknown_limit=config.unknown_domains)
    return Residents(Backbones(serving), slots, domains)
