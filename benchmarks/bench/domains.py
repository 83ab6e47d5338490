"""What many domains cost: more of them in a batch, and more of them in memory."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import psutil

from benchmarks.bench import ours
from benchmarks.bench.contender import Contender, Logits, PeerAbsent, Score
from benchmarks.bench.rounds import ROUNDS, TURNS, Trial, measured
from benchmarks.bench.shapes import MAIN, Shape
from benchmarks.bench.world import World, make_world
from service.engine import Engine, Prepared, Segment

ONE, MANY = "1 domain", "64 domains"
FEW_RESIDENT, MANY_RESIDENT = "10 resident adapters", "10,000 resident adapters"
DISTINCT = 64
SHARE_OF_MEMORY = 0.8


@dataclass(frozen=True)
class Domains:
    """One network and precision, measured.

    Args:
        shape: name of the network.
        precision: of the native engine.
        isa: instruction set that it used.
        trial: the times; None where the engine or the memory for it is missing.
        absent: why.
    """

    shape: str
    precision: str
    isa: str = ""
    trial: Trial | None = None
    absent: str = ""


def in_a_batch(shape: Shape, precision: str, quick: bool = False) -> Domains:
    """3,200 rows of one domain, and the same of 64 domains."""
    count, items = (8, 5) if quick else (64, 50)
    world = make_world(shape, count, items)
    try:
        engine = ours.native_engine(world, precision=precision)
    except PeerAbsent as why:
        return Domains(shape.name, precision, absent=str(why))
    found = [
        Contender(ONE, ours.scoring(engine, world, world.multi[:1] * count), "multi"),
        Contender(MANY, ours.scoring(engine, world, world.multi), "multi"),
    ]
    return Domains(shape.name, precision, engine.isa, _trial(found, world.rows, quick))


def resident(shape: Shape, precision: str, quick: bool = False) -> Domains:
    """The main batch, its domains drawn anew at each turn from 10 prepared adapters, and from 10,000."""
    few, many = (2, 20) if quick else (10, 10_000)
    world = make_world(shape, min(DISTINCT, many), MAIN.items if not quick else 5)
    try:
        engine = ours.native_engine(world, precision=precision)
    except PeerAbsent as why:
        return Domains(shape.name, precision, absent=str(why))
    needed = many * engine.prepare(world.multi[0]).nbytes
    free = int(SHARE_OF_MEMORY * psutil.virtual_memory().available)
    if needed > free:
        short = f"{many:,} adapters take {needed / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB may be taken here"
        return Domains(shape.name, precision, engine.isa, absent=short)
    # what matters is that each has memory of its own, not that all tensors differ
    prepared = [engine.prepare(world.multi[i % len(world.multi)]) for i in range(many)]
    requests = 4 if quick else MAIN.requests
    # each once: a virtual machine's memory is slow for a while after it was first written, which is not what is asked
    for first in range(0, many, requests):
        _score(engine, world, prepared[first : first + requests])
    found = [
        Contender(FEW_RESIDENT, _drawing(engine, world, prepared[:few], requests), None),
        Contender(MANY_RESIDENT, _drawing(engine, world, prepared, requests), None),
    ]
    return Domains(shape.name, precision, engine.isa, _trial(found, requests * world.requests[0].n, quick))


def _drawing(engine: Engine, world: World, prepared: Sequence[Prepared], requests: int) -> Score:
    """Scores requests by adapters that are drawn at each call."""
    rng = np.random.default_rng(0)

    def score() -> Logits:
        return _score(engine, world, [prepared[i] for i in rng.integers(0, len(prepared), requests).tolist()])

    return score


def _score(engine: Engine, world: World, prepared: Sequence[Prepared]) -> Logits:
    """A request of each of these adapters."""
    asked = world.requests[: len(prepared)]
    segments = [Segment(rows, own, engine) for rows, own in zip(asked, prepared, strict=True)]
    return np.concatenate(engine.run(segments))


def _trial(found: Sequence[Contender], rows: int, quick: bool) -> Trial:
    rounds, turns = (3, 1) if quick else (ROUNDS, TURNS)
    return measured(found, [(found[0].name, found[1].name)], rows, time.process_time, rounds, turns)
