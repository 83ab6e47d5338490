"""Batch invariance: whatever stands beside a row, its score is the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.bench import ours
from benchmarks.bench.contender import PeerAbsent
from benchmarks.bench.shapes import Shape
from benchmarks.bench.world import make_world
from service.engine import Engine, Segment
from service.engines.native import EngineAbsent
from service.engines.onnx import OnnxEngine
from service.engines.torch_engine import TorchEngine

ENGINES = ("native fp32", "native bf16", "onnx", "torch", "torch, Triton's interpreter")
POOL_BYTES = 256 << 20
SEGMENTS, MOST_ROWS, MOST_SEGMENTS = 24, 40, 30


@dataclass(frozen=True)
class Company:
    """One engine, looked at.

    Args:
        engine: one of ENGINES.
        compositions: how many random batches.
        segments: in all of them.
        changed: segments with other bits than alone.
        distance: largest distance of a probability from that of the row alone.
        absent: why it was not looked at.
    """

    engine: str
    compositions: int = 0
    segments: int = 0
    changed: int = 0
    distance: float = 1.0
    absent: str = ""


def looked_at(shape: Shape, name: str, compositions: int, seed: int = 0) -> Company:
    """Random batches of one engine; each segment is compared with itself alone.

    Args:
        shape: of the network.
        name: one of ENGINES; the last one needs TRITON_INTERPRET=1 in the environment.
        compositions: how many.
        seed: of everything drawn.
    """
    rng = np.random.default_rng(seed)
    world = make_world(shape, SEGMENTS, MOST_ROWS, seed)
    try:
        engine = _engine(name, world)
    except (PeerAbsent, EngineAbsent) as why:
        return Company(name, absent=str(why))
    folds = [(world.multi, world.single, world.alone)[i % 3][i] for i in range(SEGMENTS)]
    segments = [
        Segment(rows.take(np.arange(rng.integers(1, MOST_ROWS + 1))), engine.prepare(fold), engine)
        for rows, fold in zip(world.requests, folds, strict=True)
    ]
    return compared(name, engine, segments, rng, compositions)


def compared(
    name: str, engine: Engine, segments: Sequence[Segment], rng: np.random.Generator, compositions: int
) -> Company:
    """The same of segments that are given."""
    alone = [engine.run([segment])[0] for segment in segments]
    seen = changed = 0
    worst = 0.0
    for _ in range(compositions):
        chosen = rng.integers(0, len(segments), int(rng.integers(1, MOST_SEGMENTS + 1))).tolist()
        for i, part in zip(chosen, engine.run([segments[i] for i in chosen]), strict=True):
            seen += 1
            changed += part.tobytes() != alone[i].tobytes()
            # a NaN is no distance of 0
            worst = max(worst, float(np.nan_to_num(np.abs(_probability(part) - _probability(alone[i])).max(), nan=1.0)))
    return Company(name, compositions, seen, changed, worst)


def _engine(name: str, world: Any) -> Engine:
    if name.startswith("native"):
        return ours.native_engine(world, precision=name.removeprefix("native "))
    if name == "onnx":
        return OnnxEngine(world.with_graph)
    plain = name == "torch"
    engine = TorchEngine(world.backbone, device="cpu", pool_bytes=POOL_BYTES, plain=plain)
    if not plain and engine.kernels_in_use != "triton":
        raise PeerAbsent("Triton is not installed, or its interpreter is not switched on (TRITON_INTERPRET=1)")
    return engine


def _probability(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = 1.0 / (1.0 + np.exp(-logits))
    return found
