"""`python -m benchmarks.engine_ratio`: the engines against the plain backbone and every peer, at three shapes.

Weights and adapters are random: speed depends on shapes. Everyone starts from the same encoded rows, and everyone's
time includes the embedding lookup. The plain backbone and OpenVINO are given the rows of a run that are fastest for
them. In a round all take turns several times and the fastest turn of each counts; a figure is the median over rounds of
the ratio within a round. With one thread CPU seconds are counted: what waits for a core that another program holds is
no cost of a contender's. Beside it stands the largest distance of a probability from the equations in float64.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapters_store.folding import Folded
from benchmarks.bench.batches import measure
from benchmarks.bench.peers_onnx import PLAIN
from benchmarks.bench.shapes import SHAPES, Batching, Shape
from benchmarks.bench.world import World, make_world

__all__ = ["SHAPES", "Shape", "World", "exact_probabilities", "main", "make_world"]


def exact_probabilities(world: World, folds: Sequence[Folded]) -> NDArray[np.float64]:
    """The equations of `adapters_store.folding` as they stand there, in float64."""
    weights = {name: value.astype(np.float64) for name, value in world.backbone.weights.items() if "emb" not in name}
    parts = []
    for rows, fold in zip(world.requests, folds, strict=True):
        x = np.concatenate(list(world.lookup.vectors(rows).values()), axis=1).astype(np.float64)
        for module, packed in fold.modules.items():
            f = {name: value.astype(np.float64) for name, value in packed.arrays().items()}
            h = x @ weights[f"{module}.weight"].T + weights[f"{module}.bias"]
            z, q = x @ f["down"].T, x @ f["query"].T + f["query_shift"]
            s = (z * (q @ f["key"])) @ f["group"].T + q @ f["key_shift"].T
            w = np.exp(s - s.max(axis=1, keepdims=True))
            w /= w.sum(axis=1, keepdims=True)
            h += (z * (w @ f["group"])) @ f["up"].T + w @ f["shift"]
            x = np.maximum(h * f["norm_scale"] + f["norm_shift"], 0.0)
        parts.append(x @ weights["output.weight"][0] + weights["output.bias"][0])
    found: NDArray[np.float64] = 1.0 / (1.0 + np.exp(-np.concatenate(parts)))
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine_ratio", description=__doc__)
    parser.add_argument("--shapes", nargs="*", default=[shape.name for shape in SHAPES])
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--items", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="also write {shape: {contender: ratio}} here")
    asked = parser.parse_args(arguments)
    batching = Batching(asked.requests, asked.items)
    result: dict[str, dict[str, Any]] = {}
    for shape in [shape for shape in SHAPES if shape.name in asked.shapes]:
        batch = measure(shape, batching, asked.threads)
        trial = batch.trial
        print(f"{shape.name} {shape.inputs} -> {list(shape.tower)}, {batching}")
        for name in trial.names:
            off = f"  max |dp| {batch.errors[name]:.1e}" if name in batch.errors else ""
            print(f"  {name:60} {trial.rate(name):12,.0f} rows/s  {trial.said(name, PLAIN)}{off}")
        for name, why in batch.absent.items():
            print(f"  {name:60} absent: {why}")
        result[shape.name] = {name: round(trial.ratio(name, PLAIN).median, 3) for name in trial.names}
    if asked.json:
        asked.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
