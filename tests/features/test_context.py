"""Laws of what a request brings itself, and of the field spec."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from features.context import encode_context, encode_domain
from features.errors import ContextError, MalformedTensors
from features.fields import Division, Field, Normalization
from features.index import RawIndex
from features.vocabulary import Vocabulary

FIELDS = (
    Field(name="hour", kind="sparse", of="context", vocabulary_size=4, width=2),
    Field(name="seen", kind="multi_hot", of="context", vocabulary_size=3, width=2),
    Field(
        name="age",
        kind="dense",
        of="context",
        normalization=Normalization(method="min_max", shift=10.0, scale=20.0),
        missing=0.5,
    ),
    Field(name="theme", kind="sparse", of="domain", vocabulary_size=3, width=2),
    Field(name="brand", kind="sparse", of="item", vocabulary_size=2, width=2),
)
VOCABULARY = Vocabulary(
    {
        "hour": RawIndex.from_values([7, 8, 9]),
        "seen": RawIndex.from_values(["a", "b"]),
        "theme": RawIndex.from_values(["theme-1", "theme-2"]),
        "brand": RawIndex.from_values(["x"]),
    }
)


def encoded(context: dict[str, object]) -> dict[str, list[Any]]:
    rows = encode_context(FIELDS, VOCABULARY, context)
    assert rows.n == 1
    return {name: array.tolist() for name, array in rows.arrays.items()}


def test_context_values_are_encoded_as_training_encodes_them() -> None:
    """A sparse value is its row, a list its rows, a number is scaled; other sides' fields are not touched."""
    assert encoded({"hour": "8", "seen": ["b", "zzz"], "age": 20, "unheard_of": object()}) == {
        "hour": [2],
        "seen.values": [2, 0],
        "seen.offsets": [0, 2],
        "age": [0.5],
    }


@pytest.mark.parametrize("context", [{}, {"hour": None, "seen": None, "age": None}])
def test_a_missing_context_value_is_row_zero_an_empty_list_or_the_mean(context: dict[str, object]) -> None:
    """Absent and null mean the same."""
    assert encoded(context) == {"hour": [0], "seen.values": [], "seen.offsets": [0, 0], "age": [0.5]}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hour", 7.5),
        ("hour", True),
        ("hour", [7]),
        ("hour", {}),
        ("seen", "ab"),
        ("seen", [1.5]),
        ("seen", [None]),
        ("age", "20"),
        ("age", False),
        ("age", float("nan")),
        ("age", float("inf")),
        ("age", 10**400),
        ("age", 1e300),
    ],
)
def test_a_context_value_of_a_wrong_type_is_refused_by_field(name: str, value: object) -> None:
    """The error names the field, so a client knows which key to mend."""
    with pytest.raises(ContextError, match=f"context.{name} must be") as caught:
        encode_context(FIELDS, VOCABULARY, {name: value})
    assert caught.value.field == name


def test_a_long_context_list_is_refused_by_field() -> None:
    """A list is repeated for every item, so its length is bounded."""
    with pytest.raises(ContextError, match=r"context.seen has 257 values, at most 256"):
        encode_context(FIELDS, VOCABULARY, {"seen": ["a"] * 257})


def test_a_domain_field_is_filled_from_the_domain_id() -> None:
    """A known domain has its row, an unknown one row 0."""
    rows = [encode_domain(FIELDS, VOCABULARY, domain).arrays["theme"].tolist() for domain in ("theme-2", "theme-9")]
    assert rows == [[2], [0]]


def test_a_vocabulary_survives_its_tensors_and_must_fit_its_fields() -> None:
    """Reading back gives the same rows; a field that declares another size is refused."""
    again = Vocabulary.from_tensors(VOCABULARY.to_tensors(), FIELDS)
    assert again.rows("hour", ["9", 7, "nine"]).tolist() == [3, 1, 0]
    assert again.size("hour") == 4
    with pytest.raises(MalformedTensors, match="vocabulary_size 9"):
        Vocabulary.from_tensors(VOCABULARY.to_tensors(), [FIELDS[0].model_copy(update={"vocabulary_size": 9})])


def test_unknown_keys_of_a_field_survive_a_round_trip() -> None:
    """A newer writer's keys are kept, so re-writing a manifest loses nothing."""
    field = Field.model_validate({"name": "f", "kind": "dense", "of": "user", "from_the_future": [1]})
    assert Field.model_validate_json(field.model_dump_json()) == field
    assert field.model_dump()["from_the_future"] == [1]


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "a.b", "kind": "dense", "of": "user"},
        {"name": "f", "kind": "dense", "of": "user", "width": 16},
        {"name": "f", "kind": "sparse", "of": "user"},
        {"name": "f", "kind": "sparse", "of": "context", "vocabulary_size": 2, "id": True},
        {"name": "f", "kind": "multi_hot", "of": "domain", "vocabulary_size": 2},
        {"name": "f", "kind": "dense", "of": "user", "missing": float("nan")},
        {"name": "f", "kind": "dense", "of": "user", "normalization": {"method": "min_max", "shift": 0, "scale": 0}},
    ],
)
def test_a_field_that_contradicts_itself_is_refused(wrong: dict[str, Any]) -> None:
    """No manifest can declare a field that no row can have."""
    with pytest.raises(ValidationError):
        Field.model_validate(wrong)


@pytest.mark.parametrize("domains", [[], ["a", "a"], ["../etc"], ["a" * 129]])
def test_a_division_needs_distinct_well_formed_domains(domains: list[str]) -> None:
    """Domain ids become paths and keys: what cannot be one is refused where it enters."""
    with pytest.raises(ValidationError):
        Division.model_validate({"name": "d", "natural": True, "of": "domain", "domains": domains})
