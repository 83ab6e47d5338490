"""What follows the store in the background, and tells it what this replica holds."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

from service.assembly.environment import Environment
from service.assembly.loading import Loading
from service.assembly.residents import Residents
from service.assembly.scoring import Scoring
from service.batcher import Batcher
from service.in_use import InUse
from service.pace import BUSY_S, Pace
from service.prewarm import Prewarmer
from service.releases import ReleaseFollower
from service.staging import Staging
from service.watcher import Follow, Watcher


@dataclass(frozen=True, slots=True)
class Following:
    """What runs beside requests.

    Args:
        releases: flips to the release that the pointer names.
        staging: prepares the release that is staged.
        in_use: keeps what serves from being evicted from the disk; None without a disk cache.
        prewarmer: loads pinned and busy domains.
        watcher: brings this replica to what changed in the store.
    """

    releases: ReleaseFollower
    staging: Staging
    in_use: InUse | None
    prewarmer: Prewarmer
    watcher: Watcher


def following(
    given: Environment, held: Residents, load: Loading, score: Scoring, followed: dict[str, Follow]
) -> Following:
    """Wire it, on top of all the rest.

    Args:
        given: the replica's world.
        held: what is in memory.
        load: what loads.
        score: whose load decides how much of a core the background may take.
        followed: key of a record, or its beginning -> what follows it; filled in here.
    """
    releases = ReleaseFollower(
        given.reader,
        given.store,
        held.domains,
        held.slots,
        load.loader,
        given.clock,
        given.observer,
        in_flight=given.config.stage_in_flight,
    )
    staging = _staging(given, held, load, score)
    followed |= {
        "backbone": load.backbones.follow,
        "release": releases.follow,
        "switches": score.switches.follow,
        "staged": staging.follow,
    }
    disk = given.disk
    in_use = None if disk is None else InUse(disk, held.backbones, held.domains, held.slots, staging, given.clock)
    watcher = _watcher(given, held, load, score, followed)
    return Following(releases, staging, in_use, _prewarmer(given, held, load), watcher)


def _staging(given: Environment, held: Residents, load: Loading, score: Scoring) -> Staging:
    return Staging(
        given.reader,
        given.store,
        held.domains,
        held.slots,
        load.preparer,
        given.clock,
        given.observer,
        replica_id=given.config.replica_id,
        pace=_pace(given, score.batcher, given.config.stage_share),
        in_flight=given.config.stage_in_flight,
        cached=given.cached,
    )


def _prewarmer(given: Environment, held: Residents, load: Loading) -> Prewarmer:
    config = given.config
    return Prewarmer(
        given.reader,
        given.store,
        load.loader,
        held.slots,
        given.clock,
        given.observer,
        pinned=config.pinned,
        limit_s=config.prewarm_s,
        every_s=config.prewarm_every_s,
        domains=config.prewarm_domains,
    )


def _watcher(
    given: Environment, held: Residents, load: Loading, score: Scoring, followed: dict[str, Follow]
) -> Watcher:
    return Watcher(
        given.reader,
        held.domains,
        load.loader,
        followed,
        given.clock,
        given.observer,
        reconcile_s=given.config.reconcile_s,
        feed=given.config.feed,
        random=random.random,
        wall=time.time,
        pace=_pace(given, score.batcher, given.config.loader_share),
    )


def _pace(given: Environment, batcher: Batcher, share: float) -> Pace:
    """What loads nobody waits for may take of a core while requests are scored."""
    return Pace(
        given.clock,
        busy=lambda: given.clock.now() - batcher.scored_at < BUSY_S,
        share=share,
    )
