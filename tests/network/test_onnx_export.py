"""The exported graph computes what the literal network computes, for every mode and any number of divisions."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor

from network.backbone import Backbone
from network.errors import ExportError
from network.folded import FoldedLayer, FoldedModule
from network.fused import FusedTower
from network.fusion import Mode
from network.grouping import Domains
from network.onnx_export import NAMES, check_graph, export_scoring, input_names
from tests.network.samples import SHAPE, backbone_of, batch_of, tower_of

MODES: list[Mode] = ["attention", "add", "avg", "single"]


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return backbone_of()


@pytest.fixture(scope="module")
def graph(backbone: Backbone) -> bytes:
    return export_scoring(backbone)


@pytest.fixture(scope="module")
def session(graph: bytes) -> Any:
    return onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])


def fold(backbone: Backbone, tower: FusedTower, domains: Domains) -> list[FoldedModule]:
    """Fold one tuple in float64, apart from the code that serves (docs/architecture.md, "Folded module")."""
    present = tower.present(domains)
    members = [tower.adapter(i, d).double().tensors() for i, d in enumerate(present) if d >= 0]
    factor = len(members) if tower.mode == "add" else 1
    modules = []
    for level, (k, d) in enumerate(SHAPE.layers):
        at, w = f"tower.{level}.", backbone.double().weights()
        loras = members or [{at + "down": torch.zeros(1, k), at + "up": torch.zeros(d, 1)}]
        ranks = [len(t[at + "down"]) for t in loras]
        up = torch.cat([t[at + "up"] * t.get(at + "scale", torch.ones(d))[:, None] * factor for t in loras], dim=1)
        shift = torch.stack([t.get(at + "shift", torch.zeros(d)) * factor for t in loras])
        query = key = torch.zeros((1, d))
        divisor = 1
        if tower.fusion is not None:
            query, key = tower.fusion.query[level].detach(), tower.fusion.key[level].detach()
            divisor = len(query)
        gain, offset = tower.double().norms_of(tower.norm_name(domains))[level].folded()
        query, key = query.double(), key.double() / divisor
        parts = {
            "down": torch.cat([t[at + "down"] for t in loras]),
            "up": up,
            "shift": shift,
            "query": query @ w[at + "weight"],
            "query_shift": query @ w[at + "bias"],
            "key": key @ up.double(),
            "key_shift": shift.double() @ key.T,
            "group": torch.eye(len(loras)).repeat_interleave(torch.tensor(ranks), dim=1),
            "norm_scale": gain,
            "norm_shift": offset,
        }
        modules.append(FoldedModule(**{name: value.double() for name, value in parts.items()}))
    return modules


def feeds(backbone: Backbone, x: Tensor, modules: list[FoldedModule]) -> dict[str, Any]:
    widths = [1 if f.kind == "dense" else SHAPE.width for f in SHAPE.fields]
    tensors = [*x.split(widths, dim=1), *(getattr(module, name) for module in modules for name in NAMES)]
    return {name: t.detach().float().numpy() for name, t in zip(input_names(backbone), tensors, strict=True)}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("sizes", "domains"),
    [
        ((3, 2), (0, 1)),
        ((3, 2), (2, 0)),
        ((3, 2), (1, -1)),
        ((3, 2), (-1, -1)),
        ((2, 2, 3), (0, 1, 2)),
        ((2, 2, 3), (1, -1, 0)),
    ],
)
def test_graph_equals_the_literal_network(session: Any, mode: Mode, sizes: tuple[int, ...], domains: Domains) -> None:
    """Law: ONNX Runtime's logits of the fold are the float64 network's literal ones within float32's rounding."""
    backbone = backbone_of().double()
    tower = tower_of(backbone, mode, sizes).double()
    batch = batch_of(67)
    literal = tower.logits(backbone, batch, torch.tensor([domains]).expand(67, len(domains)))
    modules = fold(backbone, tower, domains)
    x = backbone.embeddings(batch)
    torch.testing.assert_close(backbone.score(x, FoldedLayer(modules)), literal, rtol=1e-11, atol=1e-11)
    (found,) = session.run(None, feeds(backbone, x, modules))
    np.testing.assert_allclose(found, literal.detach().numpy(), atol=5e-6)


@pytest.mark.parametrize("rows", [1, 2, 1000])
def test_graph_takes_any_number_of_rows(session: Any, rows: int) -> None:
    """Law: the row count is free, one row included; m = R = 1 is the backbone."""
    backbone = backbone_of().double()
    tower = tower_of(backbone, "single").double()
    batch = batch_of(rows)
    modules = fold(backbone, tower, (-1, -1))
    (found,) = session.run(None, feeds(backbone, backbone.embeddings(batch), modules))
    assert found.shape == (rows,)
    np.testing.assert_allclose(found, backbone(batch).numpy(), atol=5e-6)


def test_graph_is_one_file_that_names_no_place(graph: bytes, backbone: Backbone) -> None:
    """Law: the same backbone gives the same bytes, without stack traces or paths of the machine that exported it."""
    assert export_scoring(backbone_of()) == graph
    assert b".py" not in graph
    model = onnx.load_model_from_string(graph)
    assert [i.name for i in model.graph.input] == input_names(backbone)
    assert [o.name for o in model.graph.output] == ["logit"]


def test_graphs_outside_the_rules_are_refused(graph: bytes, backbone: Backbone) -> None:
    """Law: an operator off the list, outside data and other inputs are each refused by name."""
    names = input_names(backbone)
    check_graph(graph, names)
    model = onnx.load_model_from_string(graph)
    next(node for node in model.graph.node if node.op_type == "Relu").op_type = "Tanh"
    with pytest.raises(ExportError, match="Tanh"):
        check_graph(model.SerializeToString(), names)
    with pytest.raises(ExportError, match="inputs"):
        check_graph(graph, names[1:])
    model = onnx.load_model_from_string(graph)
    model.graph.initializer[0].ClearField("raw_data")
    model.graph.initializer[0].data_location = onnx.TensorProto.EXTERNAL
    model.graph.initializer[0].external_data.add(key="location", value="beside.bin")
    with pytest.raises(ExportError, match="outside"):
        check_graph(model.SerializeToString(), names)
