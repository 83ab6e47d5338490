"""What takes changes from callers."""

from __future__ import annotations

from service.activation import Activation
from service.assembly.environment import Environment
from service.assembly.loading import Loading
from service.assembly.residents import Residents
from service.publisher import Publisher


def publishing(given: Environment, held: Residents, load: Loading) -> Publisher:
    """Wire it, on top of what loads: what is published here is brought into memory the same way."""
    return Publisher(
        given.store,
        given.reader,
        load.preparer,
        Activation(load.preparer, load.loader, held.domains, held.slots, given.peers),
        held.domains,
        held.slots,
        given.threads.loader,
        limits=given.limits,
        in_flight=given.config.publishes_in_flight,
    )
