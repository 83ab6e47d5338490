"""What a bundle's graph may be made of, looked at before ONNX Runtime is given it.

A bundle may come from whoever can write to the store. ONNX Runtime would run any operator, and would read files of the
working directory that a tensor names as its data; a bundle's graph needs neither. Read here without the onnx package,
which the service does not install: field numbers are those of onnx.proto (onnx/onnx.proto, IR version 10), the encoding
is https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from collections.abc import Iterator

from service.errors import EngineFailed

MAX_BYTES = 64 * 2**20
OPERATORS = frozenset(
    {"Add", "Concat", "Gemm", "MatMul", "Mul", "Relu", "Softmax", "Squeeze"}
    | {"ReduceSum", "Split", "Sub", "Transpose", "Unsqueeze"}  # of kinds deepfm, neurfm and autoint
)
_DOMAINS = ("", "ai.onnx")

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MODEL_GRAPH, _MODEL_OPSET, _MODEL_TRAINING, _MODEL_FUNCTIONS = 7, 8, 20, 25
_OPSET_DOMAIN = 1
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_SPARSE = 1, 5, 15
_NODE_OPERATOR, _NODE_ATTRIBUTE, _NODE_DOMAIN = 4, 5, 7
_ATTRIBUTE_TENSOR, _ATTRIBUTE_TENSORS = 5, 10
_ATTRIBUTE_NESTED = {6: "graph", 11: "graphs", 22: "sparse tensor", 23: "sparse tensors"}
_TENSOR_EXTERNAL, _TENSOR_LOCATION = 13, 14

Field = tuple[int, int, int | memoryview]
"""Number, wire type, and the value: a number, or the bytes of what is length-delimited."""


class _Fault(Exception):
    """What is wrong, without the file's name."""


def check_graph(content: bytes, name: str = "scoring.onnx") -> None:
    """Hold a graph to what a bundle's may be.

    Args:
        content: of the file.
        name: of the file, for the error.

    Raises:
        EngineFailed: it is too large or no ONNX file, has an operator outside OPERATORS or of another domain,
            functions, graphs inside nodes, or data outside the file.
    """
    try:
        _check_model(content)
    except _Fault as fault:
        raise EngineFailed(f"{name} {fault}") from None


def _check_model(content: bytes) -> None:
    if len(content) > MAX_BYTES:
        raise _Fault(f"has {len(content)} bytes, more than {MAX_BYTES}")
    for number, _, value in _fields(memoryview(content)):
        if number == _MODEL_GRAPH:
            _check_graph(_message(value))
        elif number == _MODEL_OPSET:
            for part, _, domain in _fields(_message(value)):
                if part == _OPSET_DOMAIN:
                    _check_domain(_text(domain))
        elif number in (_MODEL_TRAINING, _MODEL_FUNCTIONS):
            raise _Fault("defines functions of its own; a bundle's graph has none")


def _check_graph(graph: memoryview) -> None:
    for number, _, value in _fields(graph):
        if number == _GRAPH_NODE:
            _check_node(_message(value))
        elif number == _GRAPH_INITIALIZER:
            _check_tensor(_message(value))
        elif number == _GRAPH_SPARSE:
            raise _Fault("has a sparse initializer; a bundle's graph has none")


def _check_node(node: memoryview) -> None:
    named = False
    for number, _, value in _fields(node):
        if number == _NODE_OPERATOR:
            named = True
            operator = _text(value)
            if operator not in OPERATORS:
                raise _Fault(
                    f"uses the operator {operator[:40]!r}; a bundle's graph may use {', '.join(sorted(OPERATORS))}"
                )
        elif number == _NODE_DOMAIN:
            _check_domain(_text(value))
        elif number == _NODE_ATTRIBUTE:
            _check_attribute(_message(value))
    if not named:
        raise _Fault("has a node without an operator")


def _check_attribute(attribute: memoryview) -> None:
    for number, _, value in _fields(attribute):
        if number in (_ATTRIBUTE_TENSOR, _ATTRIBUTE_TENSORS):
            _check_tensor(_message(value))
        elif number in _ATTRIBUTE_NESTED:
            raise _Fault(f"has a {_ATTRIBUTE_NESTED[number]} inside a node; a bundle's has none")


def _check_tensor(tensor: memoryview) -> None:
    for number, _, value in _fields(tensor):
        if number == _TENSOR_EXTERNAL or (number == _TENSOR_LOCATION and value != 0):
            raise _Fault("keeps a tensor in another file; a bundle's graph is one file")


def _check_domain(domain: str) -> None:
    if domain not in _DOMAINS:
        raise _Fault(f"uses operators of {domain[:40]!r}; a bundle's graph uses those of ONNX only")


def _fields(message: memoryview) -> Iterator[Field]:
    """The fields of a message in their order; one that is given twice comes twice, as a parser would merge them."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, at = _varint(message, at)
            yield number, wire, value
            continue
        if wire == _BYTES:
            size, at = _varint(message, at)
        else:
            size = {_FIXED64: 8, _FIXED32: 4}.get(wire, -1)
        # wire types 3 and 4 are groups, which onnx.proto has none of
        if size < 0 or at + size > len(message) or number == 0:
            raise _Fault("is no ONNX file: its encoding is damaged")
        yield number, wire, message[at : at + size]
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            break
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & (2**64 - 1), at
    raise _Fault("is no ONNX file: its encoding is damaged")


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise _Fault("is no ONNX file: a number stands where a message is expected")
    return value


def _text(value: int | memoryview) -> str:
    return str(_message(value), "utf-8", "replace")
