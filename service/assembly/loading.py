"""What brings backbones and adapters from the store into memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from adapters_store.backbone import Backbone
from service.assembly.environment import Environment
from service.assembly.residents import Residents
from service.auxiliary import Auxiliaries
from service.backbone_watch import BackboneFollower
from service.engine import Engine
from service.loader import Loader
from service.precedence import Precedence
from service.prepared.blobs import PreparedBlobs
from service.preparer import Preparer
from service.watcher import Follow


@dataclass(frozen=True, slots=True)
class Loading:
    """The way from the store to a slot.

    Args:
        precedence: lets loads that a request waits for go first.
        backbones: loads the backbones that the record and adapters name.
        preparer: from bytes to a slot.
        loader: from a domain's record to what it serves.
        auxiliaries: what scores where a domain has only auxiliary adapters.
    """

    precedence: Precedence
    backbones: BackboneFollower
    preparer: Preparer
    loader: Loader
    auxiliaries: Auxiliaries


def loading(
    given: Environment,
    held: Residents,
    make_engine: Callable[[Backbone], Engine],
    followed: dict[str, Follow],
    moved: Callable[[], None],
) -> Loading:
    """Wire it.

    Args:
        given: the replica's world.
        held: what is in memory.
        make_engine: for a backbone that comes beside the default.
        followed: the records that the watcher follows; those of resident backbones' tables are kept in it.
        moved: called when another backbone serves, or is in memory.
    """
    config, clock, observer = given.config, given.clock, given.observer
    backbones = BackboneFollower(
        given.reader,
        given.store,
        held.backbones,
        held.domains,
        held.slots,
        given.threads.backbone,
        make_engine,
        followed,
        moved,
        clock,
        observer,
        every_s=config.reconcile_s,
    )
    precedence = Precedence()
    preparer = Preparer(
        given.reader,
        held.backbones,
        backbones.bring,
        given.threads.loader,
        given.limits,
        precedence.give_way,
        _kept(given, precedence),
    )
    loader = Loader(
        given.reader,
        given.store,
        preparer,
        held.domains,
        held.slots,
        clock,
        observer,
        in_flight=config.cold_in_flight,
    )
    auxiliaries = Auxiliaries(held.backbones, held.domains, loader, preparer, held.slots, clock)
    return Loading(precedence, backbones, preparer, loader, auxiliaries)


def _kept(given: Environment, precedence: Precedence) -> PreparedBlobs | None:
    """What was verified and folded before, where there is a disk to keep it on."""
    if given.disk is None or not given.config.prepared:
        return None
    return PreparedBlobs(
        given.disk,
        given.disk.folder,
        given.threads.loader,
        given.limits,
        precedence.give_way,
        told=given.observer.prepared,
    )
