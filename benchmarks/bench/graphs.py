"""ONNX graphs that peers run: the plain backbone, and a domain pair with the papers' equations as they stand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from adapters_store.backbone import Backbone
from adapters_store.folding import fold_backbone
from benchmarks.bench.world import World, auxiliary_of

Array = NDArray[Any]
Held = Literal["constant", "replaceable"]
PARTS = ("down", "up", "scale", "shift")
OPSET, IR = 20, 10


@dataclass
class _Draft:
    """A graph that is being written; nodes have one output each.

    Args:
        nodes: so far.
        constants: initializers so far.
        inputs: beside the fields' vectors.
    """

    nodes: list[Any] = field(default_factory=list)
    constants: list[Any] = field(default_factory=list)
    inputs: list[Any] = field(default_factory=list)

    def add(self, operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """One node; its output's name."""
        self.nodes.append(helper.make_node(operator, list(inputs), [output], **attributes))
        return output

    def constant(self, name: str, value: Array) -> str:
        """One initializer; its name."""
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def replaceable(self, name: str, value: Array) -> str:
        """An initializer that a run may replace: an input that has a default."""
        self.inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, list(value.shape)))
        return self.constant(name, value)


def plain_graph(backbone: Backbone, passed_over: Mapping[str, Sequence[int | str]] | None = None) -> bytes:
    """The backbone alone, norms folded into its weights: what is fastest for everyone.

    Args:
        backbone: of kind mlp.
        passed_over: inputs, by their shapes, that it takes and does nothing with.
    """
    draft, weights = _Draft(), backbone.weights
    x = draft.add("Concat", _names(backbone), "x", axis=1)
    for level, (module, packed) in enumerate(fold_backbone(backbone).modules.items()):
        weight = weights[f"{module}.weight"] * packed.norm_scale[:, None]
        bias = weights[f"{module}.bias"] * packed.norm_scale + packed.norm_shift
        given = [x, draft.constant(f"w{level}", weight), draft.constant(f"b{level}", bias)]
        x = draft.add("Relu", [draft.add("Gemm", given, f"h{level}", transB=1)], f"y{level}")
    for name, shape in (passed_over or {}).items():
        draft.inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape)))
    return _finished(draft, backbone, x)


def pair_tensors(world: World, domain: int) -> tuple[dict[str, Array], dict[str, Array]]:
    """What a domain pair has of its own: (its natural adapter with the pair's norms, its auxiliary adapter)."""
    own, other = world.naturals[domain].tensors, world.auxiliaries[auxiliary_of(domain)].tensors
    natural, auxiliary = dict[str, Array](), dict[str, Array]()
    for level in range(len(world.shape.tower)):
        module = f"tower.{level}"
        natural |= {f"natural.{module}.{part}": own[f"{module}.{part}"] for part in PARTS}
        auxiliary |= {f"auxiliary.{module}.{part}": other[f"{module}.{part}"] for part in PARTS}
        for part in ("weight", "bias", "mean", "var"):
            natural[f"natural.{module}.norm.{part}"] = own[f"pair.0.{module}.norm.{part}"]
    return natural, auxiliary


def pair_graph(world: World, domain: int, held: Held = "constant") -> bytes:
    """MultiLoRA Eq. 7 to 11 of one domain pair.

    Args:
        world: of the backbone.
        domain: natural domain i.
        held: how the pair's own tensors stand in the graph; `replaceable` ones may be given to a run.
    """
    natural, auxiliary = pair_tensors(world, domain)
    draft, weights = _Draft(), world.backbone.weights
    hold = draft.constant if held == "constant" else draft.replaceable
    for name, value in {**natural, **auxiliary}.items():
        hold(name, value)
    x = draft.add("Concat", _names(world.backbone), "x", axis=1)
    for level in range(len(world.shape.tower)):
        module = f"tower.{level}"
        given = [x, draft.constant(f"w{level}", weights[f"{module}.weight"])]
        h0 = draft.add("Gemm", [*given, draft.constant(f"b{level}", weights[f"{module}.bias"])], f"h{level}", transB=1)
        added = _fused(draft, world, module, x, h0)
        h = draft.add("Add", [h0, added], f"{module}:fused")
        norms = [f"natural.{module}.norm.{part}" for part in ("weight", "bias", "mean", "var")]
        eps = world.backbone.manifest.norm_eps
        normed = draft.add("BatchNormalization", [h, *norms], f"{module}:normed", epsilon=eps)
        x = draft.add("Relu", [normed], f"y{level}")
    return _finished(draft, world.backbone, x)


def baked(graph: bytes, constants: Mapping[str, Array]) -> bytes:
    """The graph with these inputs made constants."""
    made = onnx.load_model_from_string(graph)
    left = [each for each in made.graph.input if each.name not in constants]
    del made.graph.input[:]
    made.graph.input.extend(left)
    made.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
    content: bytes = made.SerializeToString()
    return content


def _fused(draft: _Draft, world: World, module: str, x: str, h0: str) -> str:
    """What two LoRAs add to a layer, weighted by attention."""
    query_name, key_name = f"fusion.{module}.query", f"fusion.{module}.key"
    query = draft.constant(query_name, world.fusion.tensors[query_name])
    # the divisor of Eq. 10 is a constant too
    key = draft.constant(key_name, world.fusion.tensors[key_name] / np.float32(len(world.fusion.tensors[key_name])))
    q = draft.add("Gemm", [h0, query], f"{module}:q", transB=1)
    outputs, scores = [], []
    for side in ("natural", "auxiliary"):
        part = {name: f"{side}.{module}.{name}" for name in PARTS}
        low = draft.add("Gemm", [x, part["down"]], f"{part['down']}:z", transB=1)
        high = draft.add("Gemm", [low, part["up"]], f"{part['up']}:h", transB=1)
        scaled = draft.add("Mul", [high, part["scale"]], f"{part['scale']}:h")
        outputs.append(draft.add("Add", [scaled, part["shift"]], f"{part['shift']}:h"))
        keys = draft.add("Gemm", [outputs[-1], key], f"{side}.{module}:k", transB=1)
        matched = draft.add("Mul", [q, keys], f"{side}.{module}:qk")
        axis = draft.constant(f"{side}.{module}:axis", np.array([1], np.int64))
        scores.append(draft.add("ReduceSum", [matched, axis], f"{side}.{module}:s", keepdims=1))
    shares = draft.add("Softmax", [draft.add("Concat", scores, f"{module}:s", axis=1)], f"{module}:w", axis=1)
    draft.nodes.append(helper.make_node("Split", [shares], [f"{module}:wn", f"{module}:wa"], axis=1, num_outputs=2))
    weighted = [
        draft.add("Mul", [output, share], f"{share}:h")
        for output, share in zip(outputs, (f"{module}:wn", f"{module}:wa"), strict=True)
    ]
    return draft.add("Add", weighted, f"{module}:added")


def _finished(draft: _Draft, backbone: Backbone, x: str) -> bytes:
    for name in ("weight", "bias"):
        draft.constant(name, backbone.weights[f"output.{name}"])
    column = draft.add("Gemm", [x, "weight", "bias"], "column", transB=1)
    draft.add("Squeeze", [column, draft.constant("axes", np.array([1], np.int64))], "logit")
    fields = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", own.width])
        for name, own in zip(_names(backbone), backbone.manifest.fields, strict=True)
    ]
    outputs = [helper.make_tensor_value_info("logit", TensorProto.FLOAT, ["n"])]
    graph = helper.make_graph(draft.nodes, "tower", [*fields, *draft.inputs], outputs, draft.constants)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
    onnx.checker.check_model(made)
    content: bytes = made.SerializeToString()
    return content


def _names(backbone: Backbone) -> list[str]:
    return [f"x.{own.name}" for own in backbone.manifest.fields]
