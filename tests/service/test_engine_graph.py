"""The graph of a bundle: nothing but what the exporter writes is handed to ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from benchmarks.forge import Run
from network import onnx_export
from service.engines import graph
from service.engines.graph import check_graph
from service.errors import EngineFailed

TENSOR = onnx.TensorProto


def model(operator: str = "Relu", domain: str = "") -> onnx.ModelProto:
    """A graph of one node and one initializer."""
    node = helper.make_node(operator, ["x"], ["logit"], domain=domain)
    weight = helper.make_tensor("w", TENSOR.FLOAT, [2], [1.0, 2.0])
    x, logit = (helper.make_tensor_value_info(name, TENSOR.FLOAT, ["n"]) for name in ("x", "logit"))
    made = helper.make_graph([node], "g", [x], [logit], [weight])
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", onnx_export.OPSET)])


def outside(made: onnx.ModelProto) -> None:
    """Let the initializer's data be a file's."""
    tensor = made.graph.initializer[0]
    tensor.data_location = TENSOR.EXTERNAL
    tensor.external_data.add(key="location", value="tokens.yaml")


def outside_without_saying_so(made: onnx.ModelProto) -> None:
    """Name a file, and leave the flag out."""
    made.graph.initializer[0].external_data.add(key="location", value="tokens.yaml")


def outside_in_an_attribute(made: onnx.ModelProto) -> None:
    """Let an attribute's data be a file's."""
    tensor = helper.make_tensor("a", TENSOR.FLOAT, [1], [1.0])
    tensor.data_location = TENSOR.EXTERNAL
    made.graph.node[0].attribute.append(helper.make_attribute("value", tensor))


def nested(made: onnx.ModelProto) -> None:
    """Hide a graph in an allowed node."""
    made.graph.node[0].attribute.append(helper.make_attribute("body", model("Loop").graph))


def function(made: onnx.ModelProto) -> None:
    """Define Relu as something else."""
    node = helper.make_node("Loop", ["x"], ["y"])
    made.functions.append(helper.make_function("", "Relu", ["x"], ["y"], [node], made.opset_import))


def other_opset(made: onnx.ModelProto) -> None:
    """Import operators of ONNX Runtime's own."""
    made.opset_import.append(helper.make_opsetid("com.microsoft", 1))


def sparse(made: onnx.ModelProto) -> None:
    """Add a sparse initializer, whose parts are tensors too."""
    made.graph.sparse_initializer.add()


def nameless(made: onnx.ModelProto) -> None:
    """Leave the operator out."""
    made.graph.node[0].ClearField("op_type")


HIDDEN: list[tuple[Callable[[onnx.ModelProto], None], str]] = [
    (outside, "another file"),
    (outside_without_saying_so, "another file"),
    (outside_in_an_attribute, "another file"),
    (nested, "inside a node"),
    (function, "functions"),
    (other_opset, "com.microsoft"),
    (sparse, "sparse"),
    (nameless, "without an operator"),
]


def test_the_reader_takes_exactly_what_the_exporter_may_write() -> None:
    """Law: both sides name the same operators and the same size, though neither may import the other."""
    assert (graph.OPERATORS, graph.MAX_BYTES) == (onnx_export.OPERATORS, onnx_export.MAX_BYTES)


def test_an_exported_graph_is_taken(random_run: Run) -> None:
    """Law: what training exports passes, and so does every allowed operator."""
    check_graph((random_run.folder / "bundle" / "scoring.onnx").read_bytes())
    for operator in graph.OPERATORS:
        check_graph(model(operator).SerializeToString())
    check_graph(model(domain="ai.onnx").SerializeToString())


@pytest.mark.parametrize("operator", ["Loop", "If", "Constant", "Cast", "relu", "", "Relu\0", "Rélu"])
def test_any_other_operator_is_refused_by_name(operator: str) -> None:
    """Law: an operator is allowed by its exact name only."""
    with pytest.raises(EngineFailed, match="operator"):
        check_graph(model(operator).SerializeToString())
    with pytest.raises(EngineFailed, match=r"'com\.microsoft'"):
        check_graph(model("Relu", domain="com.microsoft").SerializeToString())


@pytest.mark.parametrize(("hide", "named"), HIDDEN, ids=[hide.__name__ for hide, _ in HIDDEN])
def test_what_is_hidden_in_a_graph_is_found(hide: Callable[[onnx.ModelProto], None], named: str) -> None:
    """Law: neither an attribute, a function, another opset nor a second file brings in what is not allowed."""
    made = model()
    hide(made)
    with pytest.raises(EngineFailed, match=named):
        check_graph(made.SerializeToString())


@pytest.mark.parametrize("hide", [outside, nested, function, other_opset])
def test_what_is_appended_to_a_sound_graph_is_found(hide: Callable[[onnx.ModelProto], None]) -> None:
    """Law: a parser merges a field that is given twice, so the second one is looked at as well."""
    made = model()
    hide(made)
    sound = model().SerializeToString()
    check_graph(sound + sound)
    with pytest.raises(EngineFailed):
        check_graph(sound + made.SerializeToString())


def test_a_graph_over_the_limit_is_refused_unread() -> None:
    """Law: size comes first."""
    with pytest.raises(EngineFailed, match="more than"):
        check_graph(bytes(graph.MAX_BYTES + 1))


@given(st.binary(max_size=200))
def test_bytes_that_are_no_graph_are_refused_or_hold_nothing(content: bytes) -> None:
    """Law: whatever the bytes, the answer is EngineFailed or nothing, never another error."""
    with suppress(EngineFailed):
        check_graph(content)


@given(st.data())
def test_a_damaged_graph_never_smuggles_in_an_operator(data: st.DataObject) -> None:
    """Law: if a damaged graph passes, then whatever onnx itself reads from the same bytes is allowed, too."""
    content = bytearray(model("Gemm").SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        check_graph(bytes(content))
        read = onnx.load_model_from_string(bytes(content))
    except Exception:  # refused by one of the two readers, whose errors share no base
        return
    assert {node.op_type for node in read.graph.node} <= graph.OPERATORS
    assert not any(tensor.external_data or tensor.data_location for tensor in read.graph.initializer)
    assert not read.functions
