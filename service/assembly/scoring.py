"""The main path: scorer, what it may fall back to, batcher, engine thread."""

from __future__ import annotations

import random
from dataclasses import dataclass

from service.assembly.environment import Environment
from service.assembly.loading import Loading
from service.assembly.residents import Residents
from service.batcher import Batcher
from service.dispatch import SHORT_S, Dispatch
from service.ladder import Ladder
from service.replica_config import ReplicaConfig
from service.scorer import Scorer
from service.shadow import Shadows
from service.switches import Switchboard


@dataclass(frozen=True, slots=True)
class Scoring:
    """What a request passes.

    Args:
        switches: what is switched off for the whole fleet.
        batcher: gathers segments for the engine.
        scorer: answers requests.
    """

    switches: Switchboard
    batcher: Batcher
    scorer: Scorer


def scoring(given: Environment, held: Residents, load: Loading) -> Scoring:
    """Wire it, on top of what is in memory and what loads."""
    config, clock, observer = given.config, given.clock, given.observer
    switches = Switchboard(given.reader, given.store, observer)
    batcher = Batcher(
        Dispatch(given.threads.engine, short_s=_inline_s(config)),
        clock,
        observer,
        batch_rows=config.batch_rows,
        batch_wait_s=config.batch_wait_ms / 1000,
        queue_rows=config.queue_rows,
    )
    ladder = Ladder(
        held.domains,
        held.slots,
        load.auxiliaries,
        load.loader,
        switches,
        held.backbones,
        clock,
        precedence=load.precedence,
        cold_wait_s=config.cold_wait_ms / 1000,
    )
    shadows = Shadows(
        held.domains,
        held.slots,
        observer,
        crowded=lambda: batcher.half_full,
        random=random.random,
    )
    scorer = Scorer(
        ladder,
        batcher,
        shadows,
        held.domains,
        load.loader,
        clock,
        observer,
        precedence=load.precedence,
        max_items=config.max_items,
    )
    return Scoring(switches, batcher, scorer)


def _inline_s(config: ReplicaConfig) -> float:
    """The longest batch that the event loop scores itself; none where the engine's thread has a core or locks of its
    own."""
    return 0.0 if config.engine_cpus or config.engine == "torch" else SHORT_S
