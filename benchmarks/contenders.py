"""Who is compared: each scores all requests of a world from encoded rows, the embedding lookup included."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from benchmarks.world import DOMAINS, ITEMS, RANKS, World
from features.rows import EncodedRows
from network.backbone import Backbone
from network.fused import FusedTower
from network.onnx_export import OPSET, quietly
from service.engine import Segment
from service.engines.onnx import OnnxEngine

Vectors = dict[str, NDArray[np.float32]]
Logits = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Contender:
    """One way to score a world.

    Args:
        name: as it is printed.
        score: gives the logits (3200,) of all requests.
        expects: whose logits these are: `fused`, `backbone`, or None for a lower bound that computes less.
    """

    name: str
    score: Callable[[], Logits]
    expects: str | None


def contenders(world: World, threads: int) -> list[Contender]:
    """Everyone, the plain backbone first.

    Args:
        world: what is scored.
        threads: of each engine, inside one run.
    """
    return [
        Contender("plain backbone, ONNX Runtime, one run", _plain(world, threads), "backbone"),
        Contender("Espalier, onnx engine", _espalier(world, threads), "fused"),
        Contender("ONNX Runtime session per domain pair, literal", _literal_sessions(world, threads), "fused"),
        Contender("ONNX Runtime session per domain pair, folded", _folded_sessions(world, threads), "fused"),
        Contender("PEFT mixed batch, without fusion and norms", _peft(world, threads), None),
    ]


def _espalier(world: World, threads: int) -> Callable[[], Logits]:
    engine = OnnxEngine(world.bundle, threads=threads)
    prepared = [engine.prepare(folded) for folded in world.folded()]
    segments = [Segment(rows, own, engine) for rows, own in zip(world.requests, prepared, strict=True)]
    return lambda: np.concatenate(engine.run(segments))


def _plain(world: World, threads: int) -> Callable[[], Logits]:
    names = [f"x.{field.name}" for field in world.network.shape.fields]
    session = _session(_export(_Plain(world.network), names, _vectors_example(world), len(names)), threads)
    lookup = world.lookup

    def score() -> Logits:
        return _run(session, lookup.vectors(EncodedRows.concatenate(world.requests)))

    return score


def _literal_sessions(world: World, threads: int) -> Callable[[], Logits]:
    """Each pair's own graph with the papers' equations as they stand, its adapters as constants."""
    pairs = [_Pair(world.network, world.tower, i, i % 2) for i in range(DOMAINS)]
    tensors = [{name: value.numpy() for name, value in pair.state_dict().items()} for pair in pairs]
    example = [*_vectors_example(world), *(torch.from_numpy(value) for value in tensors[0].values())]
    fields = [f"x.{field.name}" for field in world.network.shape.fields]
    graph = _export(_FromTensors(pairs[0], len(fields)), [*fields, *tensors[0]], example, len(fields))
    return _sessions(world, [_session(_baked(graph, own), threads) for own in tensors])


def _folded_sessions(world: World, threads: int) -> Callable[[], Logits]:
    """Each pair's own copy of Espalier's graph, its fold as constants: what folding alone gives a session per pair."""
    engine = OnnxEngine(world.bundle)
    graph = world.bundle.file("scoring.onnx")
    feeds = [engine.prepare(folded).feeds for folded in world.folded()]
    return _sessions(world, [_session(_baked(graph, own), threads) for own in feeds])


def _sessions(world: World, sessions: list[Any]) -> Callable[[], Logits]:
    lookup = world.lookup

    def score() -> Logits:
        vectors = lookup.vectors(EncodedRows.concatenate(world.requests))
        parts = []
        for i, session in enumerate(sessions):
            rows = slice(i * ITEMS, (i + 1) * ITEMS)
            parts.append(_run(session, {name: array[rows] for name, array in vectors.items()}))
        return np.concatenate(parts)

    return score


def _peft(world: World, threads: int) -> Callable[[], Logits]:
    """PEFT's own mixed batch: `adapter_names` for each row, one LoRA a domain; it has neither fusion nor norms."""
    torch.set_num_threads(threads)
    config = LoraConfig(r=RANKS[0], target_modules=["0", "3"])
    mixed = get_peft_model(_sequential(world.network), config, adapter_name="domain-0")
    for i in range(1, DOMAINS):
        mixed.add_adapter(f"domain-{i}", config)
    mixed.eval()
    names = [f"domain-{i}" for i in range(DOMAINS) for _ in range(ITEMS)]
    lookup = world.lookup

    @torch.inference_mode()
    def score() -> Logits:
        vectors = lookup.vectors(EncodedRows.concatenate(world.requests))
        x = torch.from_numpy(np.concatenate(list(vectors.values()), axis=1))
        logits: Logits = mixed(x, adapter_names=names).squeeze(-1).numpy()
        return logits

    return score


def _sequential(network: Backbone) -> nn.Sequential:
    """The backbone's tower as PEFT takes it."""
    layers: list[nn.Module] = []
    for linear, norm, (k, d) in zip(network.linears, network.plain.norms, network.shape.layers, strict=True):
        own = nn.Linear(k, d)
        own.load_state_dict(linear.state_dict())
        layers += [own, norm, nn.ReLU()]
    return nn.Sequential(*layers, network.output)


class _Plain(nn.Module):
    """The backbone from vectors on, without any adapter input."""

    def __init__(self, network: Backbone) -> None:
        super().__init__()
        self.network = network

    def forward(self, *vectors: Tensor) -> Tensor:
        return self.network.score(torch.cat(vectors, dim=1))


class _Pair(nn.Module):
    """One domain pair, itself a `TowerLayer`: MultiLoRA Eq. 7 to 11 as they stand."""

    dropout = 0.0

    def __init__(self, network: Backbone, tower: FusedTower, natural: int, auxiliary: int) -> None:
        super().__init__()
        self.score = network.score
        self.natural = tower.adapter(0, natural).loras
        self.auxiliary = tower.adapter(1, auxiliary).loras
        self.fusion = tower.fusion
        self.norms = nn.ModuleList(tower.norms_of((natural, auxiliary)))

    def at(self, level: int, x: Tensor, linear: Callable[[Tensor], Tensor]) -> Tensor:
        """The normed pre-activation of one layer."""
        assert self.fusion is not None
        h0 = linear(x)
        outputs = torch.stack([self.natural[level](x), self.auxiliary[level](x)])
        weights = self.fusion.weights(level, self.fusion.queries(level, h0), outputs)
        normed: Tensor = self.norms[level](h0 + (outputs * weights.T.unsqueeze(-1)).sum(0))
        return normed

    def forward(self, x: Tensor) -> Tensor:
        return self.score(x, _Layer(self))


class _Layer:
    training = False
    dropout = 0.0

    def __init__(self, pair: _Pair) -> None:
        self._pair = pair

    def __call__(self, level: int, x: Tensor, linear: Callable[[Tensor], Tensor]) -> Tensor:
        return self._pair.at(level, x, linear)


class _FromTensors(nn.Module):
    """A pair whose own tensors are inputs, so that one export serves all pairs."""

    def __init__(self, pair: _Pair, fields: int) -> None:
        super().__init__()
        self.pair = pair
        self.fields = fields
        self.names = list(pair.state_dict())

    def forward(self, *inputs: Tensor) -> Tensor:
        own = dict(zip(self.names, inputs[self.fields :], strict=True))
        logits: Tensor = torch.func.functional_call(self.pair, own, (torch.cat(inputs[: self.fields], dim=1),))
        return logits


def _vectors_example(world: World) -> list[Tensor]:
    return [torch.zeros(3, 1 if f.kind == "dense" else world.network.shape.width) for f in world.network.shape.fields]


def _export(module: nn.Module, names: list[str], example: list[Tensor], fields: int) -> bytes:
    rows = torch.export.Dim("n")
    with quietly():
        program = torch.onnx.export(
            module.eval(),
            tuple(example),
            dynamo=True,
            input_names=names,
            output_names=["logit"],
            dynamic_shapes=(tuple({0: rows} if i < fields else {} for i in range(len(example))),),
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None
    content: bytes = program.model_proto.SerializeToString()
    return content


def _baked(graph: bytes, constants: Mapping[str, NDArray[Any]]) -> bytes:
    """The graph with these inputs made constants."""
    model = onnx.load_model_from_string(graph)
    left = [each for each in model.graph.input if each.name not in constants]
    del model.graph.input[:]
    model.graph.input.extend(left)
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
    content: bytes = model.SerializeToString()
    return content


def _session(graph: bytes, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # as Espalier's engine is set
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _run(session: Any, vectors: Vectors) -> Logits:
    (logits,) = session.run(["logit"], vectors)
    found: Logits = logits
    return found
