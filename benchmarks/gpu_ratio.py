"""`python -m benchmarks.gpu_ratio`: the torch engine on one GPU against the plain backbone and the device's limits.

Weights and adapters are random, shapes and requests those of `benchmarks.engine_ratio`. Printed for each shape:

- rows/s of MultiLoRA and SingleLoRA through `TorchEngine.run`: encoding, copies, kernels, calibration;
- rows/s of the kernels alone, replayed as the CUDA graph that `run` replays, for MultiLoRA, SingleLoRA, the backbone's
  own fold in the same kernels, and the plain backbone in torch's products, norms folded in, as a graph of its own;
- the ratio of each to the faster of the two plain ones;
- the copy ceiling: rows/s if the batch's bytes were copied and nothing else was done;
- the product ceiling: rows/s if the tower's products alone were done by torch, in float32 and in TF32;
- launches in a batch, and the largest distance of a probability from the equations in float64.

A figure is the median over rounds in which all take turns. `--device cpu` runs a tiny world once, by Triton's
interpreter where TRITON_INTERPRET=1 is set and Triton is installed, to see that the script runs; it times nothing.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from itertools import pairwise
from time import perf_counter
from typing import Any

import numpy as np
import torch

from adapters_store.folding import Folded, fold_backbone
from benchmarks.engine_ratio import SHAPES, Shape, World, exact_probabilities, make_world
from service.engine import Segment
from service.engines.gpu.batching import TILE, Batch, Part
from service.engines.gpu.lanes import CudaLane
from service.engines.torch_engine import TorchEngine, TorchPrepared

TINY = Shape("tiny", (40, 7), (30,), (1, 1), (24, 16), (4, 3))
REPLAYS = 20
Score = Callable[[], object]


def segments_of(engine: TorchEngine, world: World, folds: Sequence[Folded]) -> list[Segment]:
    """Each request by its fold."""
    prepared = [engine.prepare(fold) for fold in folds]
    if not all(isinstance(one, TorchPrepared) for one in prepared):
        raise SystemExit("the pool is too small for these adapters: give more --pool-bytes")
    return [Segment(rows, own, engine) for rows, own in zip(world.requests, prepared, strict=True)]


def batches_of(engine: TorchEngine, segments: Sequence[Segment]) -> list[Batch]:
    """What the engine would send."""
    return engine.batches([Part(segment.rows, segment.prepared.held.slot) for segment in segments])


def distance(engine: TorchEngine, world: World, folds: Sequence[Folded]) -> float:
    """Largest distance of a probability from float64."""
    logits = np.concatenate(engine.run(segments_of(engine, world, folds)))
    return float(np.abs(1.0 / (1.0 + np.exp(-logits)) - exact_probabilities(world, folds)).max())


def check_on_cpu() -> None:
    """Run everything that runs without a GPU, once, in small."""
    world = make_world(TINY, 3, 5)
    engine = TorchEngine(world.backbone, device="cpu", pool_bytes=1 << 20)
    for name, folds in folds_of(world).items():
        print(f"{engine.kernels_in_use}, {name}: max |dp| {distance(engine, world, folds):.1e}")
    print(f"launches {engine.lane.launches}, plain backbone {plain_backbone(world, 'cpu')().shape}")


def folds_of(world: World) -> dict[str, Sequence[Folded]]:
    """Name to one fold a request."""
    backbone_only = fold_backbone(world.backbone)
    return {"MultiLoRA": world.multi, "SingleLoRA": world.single, "backbone": [backbone_only] * len(world.requests)}


def plain_backbone(world: World, device: str) -> Callable[[], Any]:
    """The tower in torch's products on inputs that are on the device already, norms folded into its weights."""
    n, x = sum(rows.n for rows in world.requests), None
    layers = []
    for module, folded in fold_backbone(world.backbone).modules.items():
        weight = world.backbone.weights[f"{module}.weight"] * folded.norm_scale[:, None]
        bias = world.backbone.weights[f"{module}.bias"] * folded.norm_scale + folded.norm_shift
        layers.append((torch.tensor(weight, device=device), torch.tensor(bias, device=device)))
    x = torch.rand(n, world.shape.inputs, device=device)
    output = torch.tensor(world.backbone.weights["output.weight"], device=device)

    def score() -> Any:
        h = x
        with torch.no_grad():
            for weight, bias in layers:
                h = torch.relu(torch.nn.functional.linear(h, weight, bias))
            return torch.nn.functional.linear(h, output)

    return score


def products(world: World, device: str) -> Callable[[], Any]:
    """The tower's products alone."""
    n = sum(rows.n for rows in world.requests)
    widths = (world.shape.inputs, *world.shape.tower)
    pairs = [(torch.rand(n, k, device=device), torch.rand(k, d, device=device)) for k, d in pairwise(widths)]
    return lambda: [left @ right for left, right in pairs]


def graph_of(score: Score) -> Score:
    """A call recorded as a CUDA graph; returns what replays it."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with torch.cuda.stream(stream):
        for _ in range(3):
            score()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        score()
    return graph.replay


def on_device_s(score: Score, stream: Any | None = None) -> float:
    """Seconds of one call, by the device's clock, over REPLAYS calls in a row."""
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    with torch.cuda.stream(stream or torch.cuda.current_stream()):
        first.record()
        for _ in range(REPLAYS):
            score()
        last.record()
    last.synchronize()
    return float(first.elapsed_time(last)) / 1e3 / REPLAYS


def wall_s(score: Score) -> float:
    """Seconds of one call, by the wall clock."""
    torch.cuda.synchronize()
    start = perf_counter()
    score()
    return perf_counter() - start


def copies(batch: Batch, ints: int) -> Score:
    """The bytes of a batch, from pinned memory."""
    pinned, target = torch.zeros(ints, dtype=torch.int32, pin_memory=True), torch.zeros(ints, dtype=torch.int32).cuda()
    return lambda: target.copy_(pinned, non_blocking=True)


def contenders(world: World, pool_bytes: int | None, precision: Any) -> dict[str, tuple[Callable[[], float], str]]:
    """Name to what measures one turn in seconds, and a remark."""
    found: dict[str, tuple[Callable[[], float], str]] = {}
    for name, folds in folds_of(world).items():
        # an engine each, so that each lane keeps the batch that it replays; one batch holds everything
        rows = sum(-(-request.n // TILE) * TILE for request in world.requests)
        engine = TorchEngine(world.backbone, pool_bytes=pool_bytes, precision=precision, rows_per_run=rows)
        off = distance(engine, world, folds)
        segments = segments_of(engine, world, folds)
        batches = batches_of(engine, segments)
        if len(batches) != 1 or not isinstance(engine.lane, CudaLane):
            raise SystemExit("one batch on a CUDA device is what this measures")
        lane = engine.lane
        for _ in range(2):
            lane.start(batches[0])
            lane.finish()
        remark = f"max |dp| {off:.1e}, {lane.launches} launches, {engine.kernels_in_use}"
        found[f"{name}, run"] = (lambda engine=engine, segments=segments: wall_s(lambda: engine.run(segments)), remark)  # type: ignore[misc]
        found[f"{name}, kernels"] = (lambda lane=lane: on_device_s(lane.replay, lane.stream), remark)  # type: ignore[misc]
        ints = sum(part.size for part in (batches[0].tiles, batches[0].codes, batches[0].counts, batches[0].tail))
    plain = graph_of(plain_backbone(world, "cuda"))
    found["plain backbone, torch's products"] = (lambda: on_device_s(plain), "inputs already gathered")
    copied = copies(batches[0], ints)
    found["ceiling: copy"] = (lambda: on_device_s(copied), f"{4 * ints:,} bytes from pinned memory")
    for fast in (False, True):
        found[f"ceiling: products, {'TF32' if fast else 'float32'}"] = (_products_s(world, fast), "")
    return found


def _products_s(world: World, fast: bool) -> Callable[[], float]:
    torch.backends.cuda.matmul.allow_tf32 = fast
    replay = graph_of(products(world, "cuda"))
    torch.backends.cuda.matmul.allow_tf32 = False
    return lambda: on_device_s(replay)


def measure(world: World, rounds: int, pool_bytes: int | None, precision: Any) -> None:
    """Let all take turns and print."""
    found = contenders(world, pool_bytes, precision)
    seconds = np.array([[measured() for measured, _ in found.values()] for _ in range(rounds)])
    n = sum(rows.n for rows in world.requests)
    names = list(found)
    plain = seconds[:, [names.index("backbone, kernels"), names.index("plain backbone, torch's products")]].min(1)
    print(f"{world.shape.name} {world.shape.inputs} -> {list(world.shape.tower)}, {n} rows, {precision}")
    for at, name in enumerate(names):
        low, middle, high = np.quantile(plain / seconds[:, at], [0.25, 0.5, 0.75])
        rate = n / statistics.median(seconds[:, at])
        print(f"  {name:38} {rate:14,.0f} rows/s  {middle:.3f} ({low:.3f} to {high:.3f})  {found[name][1]}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_ratio", description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--shapes", nargs="*", default=[shape.name for shape in SHAPES])
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--items", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--pool-bytes", type=int)
    parser.add_argument("--precision", choices=("ieee", "tf32x3", "tf32"), default="ieee")
    asked = parser.parse_args(arguments)
    if asked.device == "cpu":
        check_on_cpu()
        return
    for shape in [shape for shape in SHAPES if shape.name in asked.shapes]:
        measure(make_world(shape, asked.requests, asked.items), asked.rounds, asked.pool_bytes, asked.precision)


if __name__ == "__main__":
    main()
