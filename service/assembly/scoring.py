"""The main path: scorer, what it may fall back to, batcher, engine thread."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from service.assembly.environment import Environment
from service.assembly.loading import Loading
from service.assembly.residents import Residents
from service.batcher import Batcher, Logits
from service.engine import Segment, run_each
from service.ladder import Ladder
from service.scorer import Scorer
from service.shadow import Shadows
from service.switches import Switchboard
from service.threads import WorkerThread


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
        partial(_run, given.threads.engine),
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


async def _run(thread: WorkerThread, segments: Sequence[Segment]) -> Logits:
    return await thread.run(partial(run_each, segments))
