"""The graph of the `onnx` engine, exported by the code that trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.bench.shapes import WIDTH, Shape
from features.fields import Field
from network.backbone import Backbone
from network.inputs import FieldShape, NetworkShape
from network.onnx_export import export_scoring


def graph_of(shape: Shape, fields: Sequence[Field], weights: Mapping[str, NDArray[Any]]) -> bytes:
    """`scoring.onnx` of a backbone with these weights."""
    shapes = tuple(FieldShape(field.name, field.kind, field.vocabulary_size) for field in fields)
    network = Backbone(NetworkShape(shapes, width=WIDTH, tower=shape.tower))
    network.load_weights({name: torch.from_numpy(np.array(value)) for name, value in weights.items()})
    return export_scoring(network.freeze())
