"""Mixed batches of many domains: Espalier's engines, the plain backbone, and every peer, in one run."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.bench import ours, peers_onnx, peers_openvino, peers_peft
from benchmarks.bench.contender import Contender, PeerAbsent
from benchmarks.bench.literal import probabilities
from benchmarks.bench.rounds import ROUNDS, TURNS, Trial, best_of, measured
from benchmarks.bench.shapes import Batching, Shape
from benchmarks.bench.world import World, make_world

LITERAL = "literal network, torch fp32"
TOLERANCE = 2e-5
HALF_TOLERANCE = 5e-2


@dataclass(frozen=True)
class Batch:
    """One network and batch, measured.

    Args:
        shape: name of the network.
        batching: requests x items.
        layers: of the network.
        trial: the times.
        errors: largest distance of a probability from float64, by contender.
        absent: who could not take part, and why.
        tuned: which form of a peer was best for it, and took part.
    """

    shape: str
    batching: Batching
    layers: int
    trial: Trial
    errors: dict[str, float]
    absent: dict[str, str] = field(default_factory=dict)
    tuned: dict[str, str] = field(default_factory=dict)


def measure(shape: Shape, batching: Batching, threads: int = 1, quick: bool = False) -> Batch:
    """Measure one batch.

    Raises:
        RuntimeError: a contender computes something else than its equations.
    """
    # CPU seconds on one thread: what waits for a core that another program holds is no cost of a contender's
    clock = time.process_time if threads == 1 else time.perf_counter
    world = make_world(shape, batching.requests, batching.items)
    with tempfile.TemporaryDirectory() as folder:
        found, absent, tuned = everyone(world, threads, Path(folder), clock)
        errors = check(world, found)
        watched = [(contender.name, peers_onnx.PLAIN) for contender in found[1:]]
        rounds, turns = (3, 1) if quick else (ROUNDS, TURNS)
        trial = measured(found, watched, world.rows, clock, rounds, turns)
    return Batch(shape.name, batching, len(shape.tower), trial, errors, absent, tuned)


def everyone(
    world: World, threads: int, folder: Path, clock: Callable[[], float]
) -> tuple[list[Contender], dict[str, str], dict[str, str]]:
    """All contenders, the plain backbone in ONNX Runtime first; who is absent; and the forms that were chosen."""
    tuned: dict[str, str] = {}
    found = [chosen(peers_onnx.PLAIN, peers_onnx.plain_forms(world, threads), clock, tuned)]
    own, absent = ours.contenders(world, threads)
    found += own
    for precision, name in peers_openvino.NAMES.items():
        try:
            found.append(chosen(name, peers_openvino.forms(world, threads, precision), clock, tuned))
        except PeerAbsent as why:
            absent[name] = str(why)
    found.append(peers_onnx.session_per_pair(world, threads))
    found.append(peers_onnx.session_per_fold(world, threads))
    found.append(peers_onnx.lora_adapters(world, threads, folder))
    found.append(peers_peft.mixed_batch(world, threads))
    return found, absent, tuned


def chosen(name: str, forms: Sequence[Contender], clock: Callable[[], float], tuned: dict[str, str]) -> Contender:
    """The fastest form of a peer, under the peer's name."""
    seconds = best_of(forms, 3, clock)
    best = forms[int(np.argmin(seconds))]
    tuned[name] = best.name.removeprefix(f"{name}, ")
    return Contender(name, best.score, best.form)


def check(world: World, found: Sequence[Contender]) -> dict[str, float]:
    """Largest distance of a probability from the literal equations in float64, by contender.

    Raises:
        RuntimeError: it is so large that the contender computes something else.
    """
    exact = {form: probabilities(world, form) for form in ("multi", "single", "plain")}
    errors = {LITERAL: distance(probabilities(world, "multi", torch.float32), exact["multi"])}
    for contender in found:
        if contender.form is None:
            continue
        logits = contender.score().astype(np.float64)
        errors[contender.name] = distance(1.0 / (1.0 + np.exp(-logits)), exact[contender.form])
        allowed = HALF_TOLERANCE if "bf16" in contender.name else TOLERANCE
        if not errors[contender.name] <= allowed:
            raise RuntimeError(f"{contender.name} is off by {errors[contender.name]:.1e}: it computes something else")
    return errors


def distance(one: Any, other: Any) -> float:
    """Largest difference."""
    return float(np.abs(np.asarray(one) - np.asarray(other)).max())
