"""OpenVINO as a peer: the plain backbone in fp32 and in bf16.

Tuned as its documentation says: static shapes, the latency hint with one stream, memory shared with numpy on the way
in, an inference request that is made once. The rows of a run are those that are fastest for it.
"""

from __future__ import annotations

import importlib
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bench.contender import Contender, Logits, PeerAbsent, Score
from benchmarks.bench.graphs import plain_graph
from benchmarks.bench.world import World

NAMES = {"fp32": "plain backbone, OpenVINO fp32", "bf16": "plain backbone, OpenVINO bf16"}
RUN_ROWS = (128, 160, 256, 320, 400, 500, 640, 1000, 1600, 3200)


def forms(world: World, threads: int, precision: str) -> list[Contender]:
    """The plain backbone with as many rows a run as may be best for it; each divides the batch, so shapes are static.

    Raises:
        PeerAbsent: OpenVINO is not installed, or the processor has no bfloat16 for it.
    """
    core = _core()
    if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise PeerAbsent("OpenVINO sees no bfloat16 in this processor")
    sizes = [rows for rows in RUN_ROWS if world.rows % rows == 0] or [world.rows]
    graph = plain_graph(world.backbone)
    return [
        Contender(
            f"{NAMES[precision]}, {rows} rows a run", _scoring(world, core, graph, rows, threads, precision), "plain"
        )
        for rows in sizes
    ]


def _core() -> Any:
    try:
        return importlib.import_module("openvino").Core()
    except ImportError as error:
        raise PeerAbsent("openvino is not installed: pip install -c constraints.txt openvino") from error


def _scoring(world: World, core: Any, graph: bytes, rows: int, threads: int, precision: str) -> Score:
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plain.onnx"
        path.write_bytes(graph)
        network = core.read_model(path)
        network.reshape({f"x.{own.name}": [rows, own.width] for own in world.backbone.manifest.fields})
        request = core.compile_model(network, "CPU", settings).create_infer_request()

    def score() -> Logits:
        vectors = world.vectors()
        parts = []
        for start in range(0, world.rows, rows):
            feeds = {name: array[start : start + rows] for name, array in vectors.items()}
            parts.append(request.infer(feeds, share_inputs=True)[0])
        return np.concatenate(parts)

    return score
