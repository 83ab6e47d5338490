"""The dense graph computes what the network computes with whatever weights it is given."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from network import onnx_export_dense
from network.backbone import Backbone
from network.inputs import NetworkShape
from network.onnx_export_dense import dense_input_names, export_dense
from tests.network.samples import SHAPE, backbone_of, batch_of

SHAPES = {
    "mlp": SHAPE,
    "mlp without norms": dataclasses.replace(SHAPE, norm=False),
    "deepfm": dataclasses.replace(SHAPE, kind="deepfm"),
    "dcn_v2": dataclasses.replace(SHAPE, kind="dcn_v2"),
}


@pytest.fixture(scope="module", params=list(SHAPES))
def shape(request: pytest.FixtureRequest) -> NetworkShape:
    found = SHAPES[request.param]
    assert isinstance(found, NetworkShape)
    return found


@pytest.fixture(scope="module")
def graph(shape: NetworkShape) -> bytes:
    return export_dense(backbone_of(0, shape))


def feeds(backbone: Backbone, rows: int) -> dict[str, Any]:
    """The graph's inputs, norms folded in float64 apart from the code that serves."""
    weights = {name: value.double().numpy() for name, value in backbone.weights().items()}
    for level in range(len(backbone.shape.tower) if backbone.shape.norm else 0):
        gamma, beta, mean, var = (weights[f"tower.{level}.norm.{p}"] for p in ("weight", "bias", "mean", "var"))
        scale = gamma / np.sqrt(var + backbone.shape.norm_eps)
        weights |= {f"tower.{level}.norm_scale": scale, f"tower.{level}.norm_shift": beta - mean * scale}
    looked = backbone.embeddings.look_up(batch_of(rows))
    vectors = {f"x.{f.name}": v for f, v in zip(backbone.shape.fields, looked.vectors, strict=True)}
    if looked.first_order is not None:
        vectors["first_order"] = looked.first_order
    every = weights | {name: vector.detach().double().numpy() for name, vector in vectors.items()}
    return {name: np.float32(every[name]) for name in dense_input_names(backbone)}


@pytest.mark.parametrize("rows", [1, 67])
def test_dense_graph_equals_the_network_of_the_weights_that_it_is_given(
    graph: bytes, shape: NetworkShape, rows: int
) -> None:
    """Law: exported from one network, the graph scores any other of the same shape as that one's forward does."""
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    for seed in (0, 7):
        other = backbone_of(seed, shape)
        (found,) = session.run(None, feeds(other, rows))
        literal = backbone_of(seed, shape).double()(batch_of(rows)).numpy()
        np.testing.assert_allclose(found, literal, rtol=0, atol=5e-6 * max(1.0, float(np.abs(literal).max())))


def test_dense_graph_holds_no_weight_and_no_place(graph: bytes, shape: NetworkShape) -> None:
    """Law: backbones of one shape share the graph's bytes, which hold nothing of a backbone's numbers or a machine."""
    if shape is SHAPE:
        assert export_dense(backbone_of(3, shape)) == graph
    assert b".py" not in graph
    model = onnx.load_model_from_string(graph)
    assert [each.name for each in model.graph.input] == dense_input_names(backbone_of(0, shape))
    # what is left are shapes and axes, and one half of deepfm's identity
    assert sum(np.prod(constant.dims, dtype=int) for constant in model.graph.initializer) < 16
    assert len(graph) < 8192


def test_tables_are_no_input(shape: NetworkShape) -> None:
    """Law: what is looked up by row stays outside the graph; every other weight is an input."""
    names = dense_input_names(backbone_of(0, shape))
    assert not any(name.startswith(onnx_export_dense.TABLES) for name in names)
    assert torch.tensor([name.startswith("output.") for name in names]).sum() == 2
