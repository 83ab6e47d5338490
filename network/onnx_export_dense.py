"""`scoring_dense.onnx`: the same network with its weights as inputs, for adapters that change all of them (MAMDR)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.func import functional_call

from network.backbone import Backbone
from network.embeddings import LookedUp
from network.onnx_export import OPSET, check_graph, quietly, stripped

TABLES = ("embedding.", "first_order.")
"""Weights that are looked up by row before the graph begins, so that they are none of its inputs."""
_NORM = ".norm."


class DenseLayer:
    """A `TowerLayer` whose norms are inputs, each folded: norm(W x + b) = (W x + b) * scale + shift.

    Args:
        norms: scale (d,) and shift (d,) of each hidden layer; empty where layers have no norm.
    """

    training = False
    dropout = 0.0

    def __init__(self, norms: Sequence[tuple[Tensor, Tensor]]) -> None:
        self._norms = norms

    def __call__(self, level: int, x: Tensor, linear: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the module's output (n, d), normed where it has a norm."""
        h = linear(x)
        if level >= len(self._norms):
            return h
        scale, shift = self._norms[level]
        return h * scale + shift


class DenseGraph(nn.Module):
    """The backbone after the lookup: the fields' vectors, first-order sums, then every weight; gives the logits.

    Args:
        backbone: in eval mode; only the structure of it enters the graph.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.scored = _Scored(backbone)
        self.shape = backbone.shape
        self.names = weight_inputs(backbone)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the logits (n,)."""
        fields = len(self.shape.fields)
        weights = dict(zip(self.names, inputs[len(inputs) - len(self.names) :], strict=True))
        looked = LookedUp(
            torch.cat(inputs[:fields], dim=1), inputs[:fields], inputs[fields] if self.shape.first_order else None
        )
        levels = range(len(self.shape.tower) if self.shape.norm else 0)
        norms = [(weights.pop(f"tower.{i}.norm_scale"), weights.pop(f"tower.{i}.norm_shift")) for i in levels]
        logits: Tensor = functional_call(self.scored, self._by_own_names(weights), (looked, DenseLayer(norms)))
        return logits

    def _by_own_names(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The network's own parameters, by its own names, from a bundle's."""
        found = {_parameter(name): value for name, value in weights.items() if not name.startswith("factor.")}
        factors = [weights[f"factor.{name}"] for name in self.shape.untrained_slices if f"factor.{name}" in weights]
        if factors:  # in a bundle by field, in the network one parameter
            found["backbone.interaction.vectors.factor"] = torch.cat(factors)
        return found


class _Scored(nn.Module):
    """Makes scoring the forward pass, which alone can be called with other parameters."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, looked: LookedUp, layer: DenseLayer) -> Tensor:
        return self.backbone.score_looked_up(looked, layer)


def weight_inputs(backbone: Backbone) -> list[str]:
    """Return the graph's weight inputs in order: a bundle's names, norms as `norm_scale` and `norm_shift`."""
    names: list[str] = []
    for name in backbone.weights():
        if name.endswith(f"{_NORM}mean"):
            module = name.removesuffix(f"{_NORM}mean")
            names += [f"{module}.norm_scale", f"{module}.norm_shift"]
        elif _NORM not in name and not name.startswith(TABLES):
            names.append(name)
    return names


def dense_input_names(backbone: Backbone) -> list[str]:
    """Return the graph's input names in order: `x.<field>`, `first_order` where the kind has it, then the weights."""
    shape = backbone.shape
    return [f"x.{f.name}" for f in shape.fields] + ["first_order"] * shape.first_order + weight_inputs(backbone)


def export_dense(backbone: Backbone) -> bytes:
    """Return `scoring_dense.onnx`: dynamic in rows n; it holds no weight, so backbones of one shape share its bytes.

    Args:
        backbone: whose structure it is.

    Raises:
        ExportError: the graph has an operator outside `OPERATORS`, data outside the file, or is too large.
    """
    backbone.eval()
    weights = backbone.weights()
    rows = [torch.zeros(3, width) for width in (*backbone.shape.widths, *[1] * backbone.shape.first_order)]
    like = {f"{name}.norm_{part}": f"{name}.bias" for name in _normed(backbone) for part in ("scale", "shift")}
    inputs = rows + [torch.zeros_like(weights[like.get(name, name)]) for name in weight_inputs(backbone)]
    shapes: list[dict[int, Dim]] = [*({0: Dim("n")} for _ in rows), *({} for _ in inputs[len(rows) :])]
    names = dense_input_names(backbone)
    with quietly():
        program = torch.onnx.export(
            DenseGraph(backbone),
            tuple(inputs),
            dynamo=True,
            input_names=names,
            output_names=["logit"],
            dynamic_shapes=(tuple(shapes),),
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None
    content = stripped(program.model_proto)
    check_graph(content, names)
    return content


def _parameter(name: str) -> str:
    if name.startswith("tower."):
        return "backbone.linears." + name.removeprefix("tower.")
    return f"backbone.{name}" if name.startswith("output.") else f"backbone.interaction.{name}"


def _normed(backbone: Backbone) -> list[str]:
    return [f"tower.{level}" for level in range(len(backbone.shape.tower))] if backbone.shape.norm else []
