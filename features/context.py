"""Fields that a request brings itself: its context, and its domain."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.errors import ContextError
from features.fields import Field
from features.rows import EncodedRows
from features.vocabulary import Vocabulary

_LIST_VALUES = 256  # of one multi-hot value: it is repeated for every item of the request


def encode_context(fields: Iterable[Field], vocabulary: Vocabulary, context: Mapping[str, object]) -> EncodedRows:
    """Encode a request's context as one row.

    Keys that no field names are ignored: a client may already send what only the next backbone reads.

    Args:
        fields: the whole spec; only fields `of: context` are encoded.
        vocabulary: of the same backbone.
        context: field name -> raw value; absent or None is missing.

    Returns:
        One row; a missing sparse value is row 0, a missing dense one the field's `missing`, a missing list empty.

    Raises:
        ContextError: a value has the wrong type; it names the field.
    """
    arrays: dict[str, NDArray[Any]] = {}
    for field in fields:
        if field.of == "context":
            arrays |= _encode_value(field, vocabulary, context.get(field.name))
    return EncodedRows(1, arrays)


def encode_domain(fields: Iterable[Field], vocabulary: Vocabulary, domain_id: str) -> EncodedRows:
    """Encode a domain id as one row of the fields `of: domain`; an unknown one is row 0."""
    return EncodedRows(
        1, {field.name: vocabulary.rows(field.name, [domain_id]) for field in fields if field.of == "domain"}
    )


def _encode_value(field: Field, vocabulary: Vocabulary, value: object) -> dict[str, NDArray[Any]]:
    if field.kind == "dense":
        return {field.name: np.array([_dense(field, value)], np.float32)}
    if field.kind == "sparse":
        row = 0 if value is None else int(vocabulary.rows(field.name, [_raw(field, value)])[0])
        return {field.name: np.array([row], np.int32)}
    if value is not None and not isinstance(value, (list, tuple)):
        raise ContextError(field.name, f"context.{field.name} must be a list, got {type(value).__name__}")
    if value is not None and len(value) > _LIST_VALUES:
        raise ContextError(
            field.name, f"context.{field.name} has {len(value)} values, at most {_LIST_VALUES} are taken"
        )
    rows = vocabulary.rows(field.name, [_raw(field, one) for one in value or ()])
    return {f"{field.name}.values": rows, f"{field.name}.offsets": np.array([0, len(rows)], np.int64)}


def _raw(field: Field, value: object) -> str | int:
    # a JSON true is an int to Python, but no id
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise ContextError(
            field.name, f"context.{field.name} must be a string or an integer, got {type(value).__name__}"
        )
    return value


def _dense(field: Field, value: object) -> float:
    if value is None:
        return field.missing
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ContextError(field.name, f"context.{field.name} must be a number, got {type(value).__name__}")
    try:
        encoded = field.normalization.encode(float(value)) if field.normalization else float(value)
    except OverflowError:
        encoded = math.inf
    if not math.isfinite(encoded) or abs(encoded) > float(np.finfo(np.float32).max):
        raise ContextError(field.name, f"context.{field.name} must be a finite number that fits 32 bits")
    return encoded
