"""One byte form of JSON, and a strict reader."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters_store.canonical import canonical_json, digest, parse_json

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(JSON)
def test_canonical_json_reads_back_and_repeats(value: object) -> None:
    """Law: writing, reading and writing again gives the same value and the same bytes."""
    content = canonical_json(value)
    assert parse_json(content) == value
    assert canonical_json(parse_json(content)) == content


@given(st.dictionaries(st.text(), st.integers(), min_size=2))
def test_order_of_keys_does_not_matter(value: dict[str, int]) -> None:
    """Law: equal objects are equal bytes whatever order they were built in."""
    assert canonical_json(value) == canonical_json(dict(reversed(value.items())))


def test_form_is_the_documented_one() -> None:
    """Law: UTF-8, sorted keys, no spaces."""
    assert canonical_json({"b": 1, "a": ["é", None, 1.5]}) == '{"a":["é",null,1.5],"b":1}'.encode()
    assert digest(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('{"a":1,"a":2}', "duplicate JSON key 'a'"),
        ('{"a":{"b":1,"b":1}}', "duplicate JSON key 'b'"),
        ("NaN", "NaN is no JSON number"),
        ("[-Infinity]", "-Infinity is no JSON number"),
        ("1e999", "not finite"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        (r'"\ud800"', "surrogates not allowed"),
        ("9" * 5000, "limit"),
        ("{", "Expecting"),
        ("", "Expecting"),
    ],
)
def test_strict_reader_says_what_is_wrong(text: str, fault: str) -> None:
    """Law: what is ambiguous, unbounded or could not be written again is refused, and the fault is named."""
    with pytest.raises(ValueError, match=fault):
        parse_json(text)


def test_bytes_that_are_no_utf8_are_refused() -> None:
    """Law: JSON is UTF-8."""
    with pytest.raises(ValueError, match="utf-8"):
        parse_json(b'"\xff"')


def test_numbers_that_are_not_finite_are_not_written() -> None:
    """Law: canonical JSON is JSON."""
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"x": math.nan})
    assert json.loads(canonical_json({"x": 1e300})) == {"x": 1e300}
