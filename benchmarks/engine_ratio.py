"""`python -m benchmarks.engine_ratio`: the native engine against the plain backbone in ONNX Runtime, at three shapes.

Weights and adapters are random: speed depends on shapes. Everyone starts from the same encoded rows, and everyone's
time includes the embedding lookup. The plain backbone is given its best: norms folded into its weights, and the rows of
a run that are fastest for it of those in PLAIN_ROWS. In a round all take turns several times and the fastest turn of
each counts; a figure is the median over rounds of the ratio within a round. With one thread CPU seconds are counted, as
in `benchmarks.engines`. Beside it stands the largest distance of a probability from the equations in float64.

The papers give towers, ranks and input widths; which inputs belong to the user is ours to say: see SHAPES. What that
choice gives is seen beside `share=False`, where nothing is computed once for a request.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from adapters_store.backbone import Backbone
from adapters_store.folding import Folded, FoldedModule, fold_backbone
from adapters_store.manifest import BackboneManifest
from adapters_store.tensors import write_tensors
from benchmarks.contenders import Contender
from benchmarks.engines import best_of
from features.fields import Field
from features.lookup import EmbeddingLookup
from features.rows import EncodedRows
from service.engine import Segment
from service.engines.native import EngineAbsent, NativeEngine

WIDTH = 16
PLAIN_ROWS = (256, 512, 1024, 3200)
REPEATS = 7
Array = NDArray[Any]


@dataclass(frozen=True)
class Shape:
    """One paper's network.

    Args:
        name: of the data set.
        user: vocabulary sizes of what a request's rows share: fields of the user, the context, the domain.
        item: of the rest.
        dense: numbers of the user and of the item.
        tower: widths.
        ranks: of the natural, the auxiliary and the fusion's matrices, by layer.
    """

    name: str
    user: tuple[int, ...]
    item: tuple[int, ...]
    dense: tuple[int, int]
    tower: tuple[int, ...]
    ranks: tuple[int, ...]

    @property
    def inputs(self) -> int:
        """Width of the first layer's input."""
        return WIDTH * (len(self.user) + len(self.item)) + sum(self.dense)


SHAPES = (
    # 7 sparse fields and the age: methods.md 1
    Shape("MovieLens", (6041, 3, 22, 3440, 33), (3707, 19), (1, 0), (256, 128), (8, 8)),
    # user and item alone: input 32
    Shape("Amazon", (50_000,), (50_000,), (0, 0), (1024, 512, 256, 64), (16, 16, 8, 8)),
    # input 408: 25 sparse fields and 8 numbers, of which we count 16 and 4 as the user's or the context's
    Shape(
        "Ali-CCP",
        (60_000, 98, 14, 3, 8, 4, 4, 3, 5, 12_000, 100_000, 80_000, 20_000, 3, 4, 4),
        (100_000, 9000, 80_000, 60_000, 20_000, 8000, 60_000, 100_000, 60_000),
        (4, 4),
        (1024, 512, 512, 256, 256, 64, 64),
        (32, 32, 32, 16, 16, 8, 8),
    ),
)


@dataclass(frozen=True)
class World:
    """One shape's backbone, requests and folds.

    Args:
        shape: of it.
        backbone: as the service reads it, without a graph.
        requests: encoded rows; request i is scored by fold i.
        multi: two divisions fused by attention.
        single: one division.
    """

    shape: Shape
    backbone: Backbone
    requests: tuple[EncodedRows, ...]
    multi: tuple[Folded, ...]
    single: tuple[Folded, ...]


def make_world(shape: Shape, requests: int, items: int, seed: int = 0) -> World:
    """Draw a world; weights keep activations near 1 through the tower."""
    rng = np.random.default_rng(seed)
    fields = _fields(shape)
    weights: dict[str, Array] = {
        f"embedding.{field.name}": _normal(rng, 1.0, field.vocabulary_size, WIDTH)
        for field in fields
        if field.kind == "sparse"
    }
    widths = (shape.inputs, *shape.tower)
    for level, (k, d) in enumerate(pairwise(widths)):
        module = f"tower.{level}"
        weights |= {f"{module}.weight": _normal(rng, k**-0.5, d, k), f"{module}.bias": _normal(rng, 0.1, d)}
        for part, base in (("weight", 1.2), ("bias", 0.0), ("mean", 0.0), ("var", 0.8)):
            weights[f"{module}.norm.{part}"] = (base + 0.2 * rng.random(d)).astype(np.float32)
    weights |= {"output.weight": _normal(rng, widths[-1] ** -0.5, 1, widths[-1]), "output.bias": _normal(rng, 0.1, 1)}
    content = {"weights.safetensors": write_tensors(weights, {"content": "weights"})}
    backbone = Backbone("0" * 64, BackboneManifest(fields=fields, tower=list(shape.tower)), content)
    rows = tuple(_request(rng, fields, items) for _ in range(requests))
    query = [(_normal(rng, k**-0.5, r, k), _normal(rng, 0.1, r)) for k, r in zip(widths, shape.ranks, strict=False)]
    multi = tuple(_fold(rng, backbone, shape, 2, query) for _ in range(requests))
    return World(shape, backbone, rows, multi, tuple(_fold(rng, backbone, shape, 1, query) for _ in range(requests)))


def _fields(shape: Shape) -> list[Field]:
    of = {"user": (shape.user, shape.dense[0]), "item": (shape.item, shape.dense[1])}
    fields = []
    for side, (sizes, dense) in of.items():
        sparse = [
            Field(name=f"{side}-{i}", kind="sparse", of=side, vocabulary_size=size, width=WIDTH)  # type: ignore[arg-type]
            for i, size in enumerate(sizes)
        ]
        numbers = [Field(name=f"{side}-number-{i}", kind="dense", of=side) for i in range(dense)]  # type: ignore[arg-type]
        fields += [*sparse, *numbers]
    return fields


def _request(rng: np.random.Generator, fields: Sequence[Field], items: int) -> EncodedRows:
    arrays: dict[str, Array] = {}
    for field in fields:
        n = items if field.of == "item" else 1
        drawn = (
            rng.random(n).astype(np.float32)
            if field.kind == "dense"
            else rng.integers(0, field.vocabulary_size, n).astype(np.int32)
        )
        arrays[field.name] = np.repeat(drawn, items // n)
    return EncodedRows(items, arrays)


def _fold(
    rng: np.random.Generator, backbone: Backbone, shape: Shape, m: int, query: Sequence[tuple[Array, Array]]
) -> Folded:
    plain = fold_backbone(backbone)
    modules = {}
    for level, (module, own) in enumerate(plain.modules.items()):
        (d, k), r = backbone.modules[module], shape.ranks[level]
        attended = m > 1
        modules[module] = FoldedModule(
            down=_normal(rng, k**-0.5, m * r, k),
            up=_normal(rng, 0.3 * r**-0.5, d, m * r),
            shift=_normal(rng, 0.1, m, d),
            query=query[level][0] if attended else np.zeros((1, k), np.float32),
            query_shift=query[level][1] if attended else np.zeros(1, np.float32),
            key=_normal(rng, 0.5 / r, r, m * r) if attended else np.zeros((1, r), np.float32),
            key_shift=_normal(rng, 0.1, m, r) if attended else np.zeros((1, 1), np.float32),
            group=np.repeat(np.eye(m, dtype=np.float32), r, axis=1),
            norm_scale=own.norm_scale,
            norm_shift=own.norm_shift,
        )
    return Folded(modules)


def _normal(rng: np.random.Generator, spread: float, *shape: int) -> NDArray[np.float32]:
    return rng.normal(0.0, spread, shape).astype(np.float32)


def exact_probabilities(world: World, folds: Sequence[Folded]) -> NDArray[np.float64]:
    """The equations of `adapters_store.folding` as they stand there, in float64."""
    lookup = EmbeddingLookup(world.backbone.manifest.fields, world.backbone.weights)
    weights = {name: value.astype(np.float64) for name, value in world.backbone.weights.items() if "emb" not in name}
    parts = []
    for rows, fold in zip(world.requests, folds, strict=True):
        x = np.concatenate(list(lookup.vectors(rows).values()), axis=1).astype(np.float64)
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
    return _probability(np.concatenate(parts))


def _probability(logits: NDArray[Any]) -> NDArray[np.float64]:
    return 1.0 / (1.0 + np.exp(-logits.astype(np.float64)))


def native(world: World, folds: Sequence[Folded], threads: int, **options: Any) -> Callable[[], Array]:
    """The native engine on all requests."""
    engine = NativeEngine(world.backbone, threads, **options)
    prepared = [engine.prepare(fold) for fold in folds]
    segments = [Segment(rows, own, engine) for rows, own in zip(world.requests, prepared, strict=True)]
    return lambda: np.concatenate(engine.run(segments))


def plain(world: World, threads: int, rows_per_run: int) -> Callable[[], Array]:
    """The backbone alone in ONNX Runtime, norms folded into the weights."""
    fields = world.backbone.manifest.fields
    lookup = EmbeddingLookup(fields, world.backbone.weights)
    session = _session(_plain_graph(world), threads)

    def score() -> Array:
        vectors = lookup.vectors(EncodedRows.concatenate(world.requests))
        n = sum(rows.n for rows in world.requests)
        parts = []
        for start in range(0, n, rows_per_run):
            feeds = {name: array[start : start + rows_per_run] for name, array in vectors.items()}
            parts.append(session.run(["logit"], feeds)[0][:, 0])
        return np.concatenate(parts)

    return score


def _plain_graph(world: World) -> bytes:
    names = [f"x.{field.name}" for field in world.backbone.manifest.fields]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", field.width])
        for name, field in zip(names, world.backbone.manifest.fields, strict=True)
    ]
    constants, nodes, x = [], [helper.make_node("Concat", names, ["x"], axis=1)], "x"
    for level, (module, packed) in enumerate(fold_backbone(world.backbone).modules.items()):
        weight = world.backbone.weights[f"{module}.weight"] * packed.norm_scale[:, None]
        bias = world.backbone.weights[f"{module}.bias"] * packed.norm_scale + packed.norm_shift
        constants += [numpy_helper.from_array(weight, f"w{level}"), numpy_helper.from_array(bias, f"b{level}")]
        nodes.append(helper.make_node("Gemm", [x, f"w{level}", f"b{level}"], [f"h{level}"], transB=1))
        nodes.append(helper.make_node("Relu", [f"h{level}"], [f"y{level}"]))
        x = f"y{level}"
    for name in ("weight", "bias"):
        constants.append(numpy_helper.from_array(np.array(world.backbone.weights[f"output.{name}"]), name))
    nodes.append(helper.make_node("Gemm", [x, "weight", "bias"], ["logit"], transB=1))
    outputs = [helper.make_tensor_value_info("logit", TensorProto.FLOAT, ["n", 1])]
    graph = helper.make_graph(nodes, "plain", inputs, outputs, constants)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(made)
    content: bytes = made.SerializeToString()
    return content


def _session(graph: bytes, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # as Espalier's engines are set
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def contenders(world: World, threads: int, clock: Callable[[], float]) -> list[Contender]:
    """Everyone, the plain backbone first, in its fastest form."""
    forms = {rows: Contender(f"plain, {rows} rows a run", plain(world, threads, rows), None) for rows in PLAIN_ROWS}
    seconds = best_of(list(forms.values()), 3, clock)
    best = list(forms.values())[int(np.argmin(seconds))]
    backbone_only = [fold_backbone(world.backbone)] * len(world.requests)
    return [
        best,
        Contender("MultiLoRA", native(world, world.multi, threads), "multi"),
        Contender("MultiLoRA, nothing shared", native(world, world.multi, threads, share=False), "multi"),
        Contender("SingleLoRA", native(world, world.single, threads), "single"),
        *_halves(world, threads),
        Contender("backbone alone", native(world, backbone_only, threads), "plain"),
        Contender("backbone alone, nothing shared", native(world, backbone_only, threads, share=False), "plain"),
    ]


def _halves(world: World, threads: int) -> list[Contender]:
    """The same in bfloat16, where the processor has it."""
    try:
        return [
            Contender("MultiLoRA, bf16", native(world, world.multi, threads, precision="bf16"), "multi"),
            Contender("SingleLoRA, bf16", native(world, world.single, threads, precision="bf16"), "single"),
        ]
    except EngineAbsent:
        return []


def errors(world: World, found: Sequence[Contender]) -> dict[str, float]:
    """Largest distance of a probability from the equations in float64, by contender."""
    backbone_only = [fold_backbone(world.backbone)] * len(world.requests)
    folds = {"multi": world.multi, "single": world.single, "plain": backbone_only}
    exact = {name: exact_probabilities(world, own) for name, own in folds.items()}
    return {
        contender.name: float(np.abs(_probability(contender.score()) - exact[contender.expects or "plain"]).max())
        for contender in found
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine_ratio", description=__doc__)
    parser.add_argument("--shapes", nargs="*", default=[shape.name for shape in SHAPES])
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--items", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args(arguments)
    clock = time.process_time if asked.threads == 1 else time.perf_counter
    result: dict[str, dict[str, float]] = {}
    for shape in [shape for shape in SHAPES if shape.name in asked.shapes]:
        world = make_world(shape, asked.requests, asked.items)
        found = contenders(world, asked.threads, clock)
        off = errors(world, found)
        seconds = np.array([best_of(found, REPEATS, clock) for _ in range(asked.rounds)])
        ratios = seconds[:, :1] / seconds
        print(f"{shape.name} {shape.inputs} -> {list(shape.tower)}, {asked.requests} x {asked.items}")
        for i, contender in enumerate(found):
            rate = asked.requests * asked.items / statistics.median(seconds[:, i])
            low, high = np.quantile(ratios[:, i], [0.25, 0.75])
            print(
                f"  {contender.name:34} {rate:12,.0f} rows/s  {statistics.median(ratios[:, i]):.3f} "
                f"({low:.3f} to {high:.3f})  max |dp| {off[contender.name]:.1e}"
            )
        result[shape.name] = {c.name: statistics.median(ratios[:, i]) for i, c in enumerate(found)}
    if asked.json:
        asked.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
