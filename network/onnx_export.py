"""`scoring.onnx`: the folded network as one self-contained graph, exported from the forward that trains."""

from __future__ import annotations

import dataclasses
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import onnx
import torch
from torch import Tensor, nn
from torch.export import Dim

from network.backbone import Backbone
from network.errors import ExportError
from network.folded import FoldedLayer, FoldedModule

OPSET = 18
MAX_BYTES = 64 * 2**20
OPERATORS = frozenset({"Add", "Concat", "Gemm", "MatMul", "Mul", "Relu", "Softmax", "Squeeze"})
"""What a bundle's graph may consist of; a reader can refuse any other."""

Size = int | Dim
NAMES = tuple(f.name for f in dataclasses.fields(FoldedModule))


class ScoringGraph(nn.Module):
    """The backbone after the lookup: one vector for each field, then every folded tensor, gives the logits.

    Args:
        backbone: in eval mode.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.fields = len(backbone.shape.fields)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the logits (n,)."""
        folded = inputs[self.fields :]
        size = len(NAMES)
        modules = [FoldedModule(*folded[i : i + size]) for i in range(0, len(folded), size)]
        return self.backbone.score(torch.cat(inputs[: self.fields], dim=1), FoldedLayer(modules))


def input_names(backbone: Backbone) -> list[str]:
    """Return the graph's input names in order: `x.<field>`, then `tower.<l>.<tensor>`."""
    names = [f"x.{f.name}" for f in backbone.shape.fields]
    return names + [f"tower.{level}.{name}" for level in range(len(backbone.shape.tower)) for name in NAMES]


def export_scoring(backbone: Backbone) -> bytes:
    """Return `scoring.onnx`: dynamic in rows n, divisions m, ranks R and fusion ranks rf of each layer.

    Args:
        backbone: its linear layers and output layer become constants of the graph.

    Raises:
        ExportError: the graph has an operator outside `OPERATORS`, data outside the file, or more than `MAX_BYTES`.
    """
    inputs, shapes = _example(backbone)
    with quietly():
        program = torch.onnx.export(
            ScoringGraph(backbone).eval(),
            tuple(inputs),
            dynamo=True,
            input_names=input_names(backbone),
            output_names=["logit"],
            dynamic_shapes=(tuple(shapes),),
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None
    content = _stripped(program.model_proto)
    check_graph(content, input_names(backbone))
    return content


def check_graph(content: bytes, inputs: list[str]) -> None:
    """Hold a graph to the rules of the bundle.

    Raises:
        ExportError: an operator outside `OPERATORS`, data outside the file, other inputs, or more than `MAX_BYTES`.
    """
    if len(content) > MAX_BYTES:
        raise ExportError(f"the graph has {len(content)} bytes, more than {MAX_BYTES}")
    model = onnx.load_model_from_string(content)
    strange = sorted({f"{node.domain}:{node.op_type}" for node in model.graph.node if node.op_type not in OPERATORS})
    if strange:
        raise ExportError(
            f"the graph uses {', '.join(strange)}; a bundle's graph may use {', '.join(sorted(OPERATORS))}"
        )
    outside = [t.name for t in model.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
    if outside:
        raise ExportError(f"the graph keeps {', '.join(outside)} outside the file")
    names = [each.name for each in model.graph.input]
    if names != inputs:
        raise ExportError(f"the graph's inputs are {names}, expected {inputs}")
    try:
        onnx.checker.check_model(model, full_check=True)
    except onnx.checker.ValidationError as error:
        raise ExportError(f"the graph is not valid ONNX: {error}") from error


def _stripped(model: onnx.ModelProto) -> bytes:
    """Serialize without the exporter's notes: they hold stack traces with the paths of this machine."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    content: bytes = model.SerializeToString()
    return content


@contextmanager
def quietly() -> Iterator[None]:
    """Keep the exporter's warnings about its own insides and about torchvision to itself."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _example(backbone: Backbone) -> tuple[list[Tensor], list[dict[int, Dim]]]:
    """Example inputs, and which of their dimensions are dynamic."""
    n, m = Dim("n"), Dim("m")
    shape = backbone.shape
    inputs = [torch.zeros(3, 1 if f.kind == "dense" else shape.width) for f in shape.fields]
    shapes: list[dict[int, Dim]] = [{0: n} for _ in shape.fields]
    sizes = {n: 3, m: 2}
    for level, (k, d) in enumerate(shape.layers):
        R, rf = Dim(f"R{level}"), Dim(f"rf{level}")
        sizes |= {R: 6, rf: 5}
        wanted: list[tuple[Size, ...]] = [
            (R, k), (d, R), (m, d), (rf, k), (rf,), (rf, R), (m, rf), (m, R), (d,), (d,),
        ]  # fmt: skip
        for each in wanted:
            inputs.append(torch.zeros([s if isinstance(s, int) else sizes[s] for s in each]))
            shapes.append({i: s for i, s in enumerate(each) if not isinstance(s, int)})
    return inputs, shapes
