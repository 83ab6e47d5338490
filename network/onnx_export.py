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
from network.embeddings import LookedUp
from network.errors import ExportError
from network.folded import FoldedLayer, FoldedModule

OPSET = 18
MAX_BYTES = 64 * 2**20
OPERATORS = frozenset(
    {"Add", "Concat", "Gemm", "MatMul", "Mul", "Relu", "Softmax", "Squeeze"}  # all that kind mlp needs
    | {"ReduceSum", "Split", "Sub", "Transpose", "Unsqueeze"}  # pairs of fields, and attention over them
)
"""What a bundle's graph may consist of; a reader can refuse any other."""

Size = int | Dim
NAMES = tuple(f.name for f in dataclasses.fields(FoldedModule))


class ScoringGraph(nn.Module):
    """The backbone after the lookup: the fields' vectors, first-order sums, every folded tensor; gives the logits.

    Args:
        backbone: in eval mode.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.fields = len(backbone.shape.fields)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the logits (n,)."""
        vectors, rest = inputs[: self.fields], inputs[self.fields :]
        first_order, folded = (rest[0], rest[1:]) if self.backbone.shape.first_order else (None, rest)
        size = len(NAMES)
        modules = [FoldedModule(*folded[i : i + size]) for i in range(0, len(folded), size)]
        looked = LookedUp(torch.cat(vectors, dim=1), vectors, first_order)
        return self.backbone.score_looked_up(looked, FoldedLayer(modules))


def input_names(backbone: Backbone) -> list[str]:
    """Return the graph's inputs in order: `x.<field>`, `first_order` where the kind has it, `<module>.<tensor>`."""
    shape = backbone.shape
    names = [f"x.{f.name}" for f in shape.fields] + ["first_order"] * shape.first_order
    return names + [f"{module.name}.{name}" for module in shape.modules for name in NAMES]


def export_scoring(backbone: Backbone) -> bytes:
    """Return `scoring.onnx`: dynamic in rows n, divisions m, ranks R and fusion ranks rf of each module.

    Args:
        backbone: everything of it after the lookup becomes constants of the graph.

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
    content = stripped(program.model_proto)
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


def stripped(model: onnx.ModelProto) -> bytes:
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
    widths = (*shape.widths, *[1] * shape.first_order)
    inputs = [torch.zeros(3, width) for width in widths]
    shapes: list[dict[int, Dim]] = [{0: n} for _ in widths]
    sizes = {n: 3, m: 2}
    for number, module in enumerate(shape.modules):
        k, d = module.inputs, module.outputs
        R, rf = Dim(f"R{number}"), Dim(f"rf{number}")
        sizes |= {R: 6, rf: 5}
        wanted: list[tuple[Size, ...]] = [
            (R, k), (d, R), (m, d), (rf, k), (rf,), (rf, R), (m, rf), (m, R), (d,), (d,),
        ]  # fmt: skip
        for each in wanted:
            inputs.append(torch.zeros([s if isinstance(s, int) else sizes[s] for s in each]))
            shapes.append({i: s for i, s in enumerate(each) if not isinstance(s, int)})
    return inputs, shapes
