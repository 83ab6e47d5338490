"""ONNX Runtime as a peer: the plain backbone, a session for each domain pair, and its own LoraAdapter.

Tuned as its documentation says: all graph optimizations (its default), one thread inside a run where one core is given,
none between operators, no spinning on a core that others need, run options and adapters made once, before any run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from benchmarks.bench.contender import Contender, Logits, Score
from benchmarks.bench.graphs import baked, pair_graph, pair_tensors, plain_graph
from benchmarks.bench.world import AUXILIARIES, World
from service.engines.onnx import OnnxEngine

PLAIN = "plain backbone, ONNX Runtime"
LITERAL = "ONNX Runtime session per domain pair"
FOLDED = "ONNX Runtime session per domain pair, our fold as constants"
ADAPTERS = "ONNX Runtime LoraAdapter"
RUN_ROWS = (256, 512, 1024, 3200)


def session(graph: bytes, threads: int) -> Any:
    """A session on the CPU."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # as Espalier's engines are set
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def plain_forms(world: World, threads: int) -> list[Contender]:
    """The plain backbone with as many rows a run as may be best for it."""
    made = session(plain_graph(world.backbone), threads)
    sizes = sorted({min(rows, world.rows) for rows in RUN_ROWS})
    return [Contender(f"{PLAIN}, {rows} rows a run", _plain(world, made, rows), "plain") for rows in sizes]


def session_per_pair(world: World, threads: int) -> Contender:
    """A session for each pair: the papers' equations as they stand, its adapters as constants."""
    graphs = [pair_graph(world, i) for i in range(len(world.requests))]
    return Contender(LITERAL, _each(world, [session(graph, threads) for graph in graphs]), "multi")


def session_per_fold(world: World, threads: int) -> Contender:
    """A session for each pair: Espalier's own graph, its fold as constants."""
    engine, graph = OnnxEngine(world.with_graph), world.with_graph.file("scoring.onnx")
    sessions = [session(baked(graph, engine.prepare(fold).feeds), threads) for fold in world.multi]
    return Contender(FOLDED, _each(world, sessions), "multi")


def lora_adapters(world: World, threads: int, folder: Path) -> Contender:
    """One session; a run for each request with its natural and its auxiliary LoraAdapter active.

    Args:
        world: what is scored.
        threads: inside a run.
        folder: where the adapters' files are written.
    """
    made = session(pair_graph(world, 0, "replaceable"), threads)
    naturals, auxiliaries, options = list[Any](), list[Any](), list[Any]()
    for i in range(len(world.requests)):
        natural, auxiliary = pair_tensors(world, i)
        naturals.append(_loaded(folder / f"natural-{i}.onnx_adapter", natural))
        if i < len(AUXILIARIES):
            auxiliaries.append(_loaded(folder / f"auxiliary-{i}.onnx_adapter", auxiliary))
        options.append(onnxruntime.RunOptions())
        options[-1].add_active_adapter(naturals[-1])
        options[-1].add_active_adapter(auxiliaries[i % len(AUXILIARIES)])
    # run options do not keep their adapters alive
    kept = (*naturals, *auxiliaries)
    return Contender(ADAPTERS, _each(world, [made] * len(options), options, kept), "multi")


def _loaded(path: Path, tensors: dict[str, Any]) -> Any:
    """An adapter in ONNX Runtime's own file form."""
    form = onnxruntime.AdapterFormat()
    form.set_adapter_version(1)
    form.set_model_version(1)
    values = {name: onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(v)) for name, v in tensors.items()}
    form.set_parameters(values)
    form.export_adapter(str(path))
    adapter = onnxruntime.LoraAdapter()
    adapter.Load(str(path))
    return adapter


def _plain(world: World, made: Any, rows_per_run: int) -> Score:
    def score() -> Logits:
        vectors = world.vectors()
        parts = []
        for start in range(0, world.rows, rows_per_run):
            feeds = {name: array[start : start + rows_per_run] for name, array in vectors.items()}
            parts.append(made.run(["logit"], feeds)[0])
        return np.concatenate(parts)

    return score


def _each(
    world: World, sessions: Sequence[Any], options: Sequence[Any] | None = None, kept: Sequence[Any] = ()
) -> Score:
    """A run for each request; its session, and its options where there are any; `kept` lives as long as this."""
    stops = np.cumsum([rows.n for rows in world.requests]).tolist()

    def score(kept: Sequence[Any] = kept) -> Logits:
        vectors = world.vectors()
        parts, start = [], 0
        for i, (made, stop) in enumerate(zip(sessions, stops, strict=True)):
            feeds = {name: array[start:stop] for name, array in vectors.items()}
            parts.append(made.run(["logit"], feeds, options[i] if options else None)[0])
            start = stop
        return np.concatenate(parts)

    return score
