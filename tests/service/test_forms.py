"""Laws of the two forms of a body: which one the headers name, and that they say the same."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.refusals import InvalidRequest, MalformedRequest, UnsupportedMediaType
from service.routes.forms import JSON, MSGPACK, Forms
from service.routes.score import ScoreBody, ScoreBodyMsgpack

FORMS = Forms[ScoreBody](ScoreBody, ScoreBodyMsgpack)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
PLAIN = st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**63 - 1), FLOATS, st.text(max_size=8))
IDS = st.one_of(st.text(max_size=8), st.integers(-(2**63), 2**63 - 1))
BODIES = st.fixed_dictionaries(
    {
        "user_id": IDS,
        "domain_id": st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_:=.-]{0,7}", fullmatch=True),
        "item_ids": st.lists(IDS, max_size=20),
    },
    optional={
        "context": st.none() | st.dictionaries(st.text(max_size=8), PLAIN | st.lists(PLAIN, max_size=4), max_size=4),
        "strict": st.booleans(),
        "min_generation": st.none() | st.integers(0, 2**64 - 1),
    },
)


@given(BODIES)
def test_a_request_is_the_same_in_both_forms(body: dict[str, Any]) -> None:
    """Law: what JSON and MessagePack say of one request is read into equal values of equal types."""
    json = FORMS.of_body(JSON).decode(msgspec.json.encode(body))
    packed = FORMS.of_body(MSGPACK).decode(msgspec.msgpack.encode(body))
    assert repr(msgspec.structs.asdict(packed)) == repr(msgspec.structs.asdict(json))


@given(FLOATS)
def test_a_number_is_answered_bit_for_bit_in_both_forms(score: float) -> None:
    """Law: neither form rounds a float64."""
    json = msgspec.json.decode(FORMS.of_body(JSON).encode([score]))
    packed = msgspec.msgpack.decode(FORMS.of_body(MSGPACK).encode([score]))
    assert [json[0].hex(), packed[0].hex()] == [score.hex(), score.hex()]


@given(BODIES, st.data())
def test_bytes_are_read_or_refused_whatever_they_are(body: dict[str, Any], data: st.DataObject) -> None:
    """Law: a body of MessagePack with anything put in its middle is a request, or one of the two refusals."""
    raw = msgspec.msgpack.encode(body)
    first, last = sorted(data.draw(st.tuples(*[st.integers(0, len(raw))] * 2)))
    with suppress(InvalidRequest, MalformedRequest):
        FORMS.of_body(MSGPACK).decode(raw[:first] + data.draw(st.binary(max_size=6)) + raw[last:])


@pytest.mark.parametrize(
    ("context", "named"),
    [
        ({"a": b"1"}, "bytes"),
        ({"a": [b"1"]}, "bytes"),
        ({"a": {"b": 1}}, "object"),
        ({"a": [[1]]}, "array"),
        ({"a": msgspec.msgpack.Ext(5, b"x")}, "ext"),
        ({1: 2}, "str"),
        ([1], "object"),
    ],
)
def test_what_json_cannot_say_is_no_context(context: Any, named: str) -> None:
    """Law: MessagePack's own types reach neither a field nor a line of feedback."""
    raw = msgspec.msgpack.encode({"user_id": 1, "domain_id": "a", "item_ids": [], "context": context})
    with pytest.raises(InvalidRequest, match=named):
        FORMS.of_body(MSGPACK).decode(raw)


@pytest.mark.parametrize("raw", [b"", b"{}", b"\x83", b"\xc1", b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff\xa1a"])
def test_bytes_that_are_no_messagepack_are_told_as_such(raw: bytes) -> None:
    """Law: what is cut, empty, JSON or announces more than it brings is refused, and nothing is reserved for it."""
    with pytest.raises((MalformedRequest, InvalidRequest)):
        FORMS.of_body(MSGPACK).decode(raw)


@pytest.mark.parametrize(
    ("content_type", "form"),
    [
        (None, JSON),
        ("", JSON),
        (";", JSON),
        ("application/json", JSON),
        ("Application/JSON; charset=utf-8", JSON),
        ("application/vnd.api+json", JSON),
        ("application/x-www-form-urlencoded", JSON),
        ("application/x-msgpack", MSGPACK),
        ("Application/X-MsgPack;v=5", MSGPACK),
    ],
)
def test_the_content_type_names_the_form_of_the_body(content_type: str | None, form: str) -> None:
    """Law: JSON where nothing is said or what curl says by itself; parameters and capitals change nothing."""
    assert FORMS.of_body(content_type).media_type == form


@pytest.mark.parametrize("content_type", ["text/plain", "multipart/form-data", "application/xml", "json", "a" * 999])
def test_another_form_is_refused_with_those_there_are(content_type: str) -> None:
    """Law: the refusal names both forms, and no more of the header than fits a line."""
    with pytest.raises(UnsupportedMediaType, match=f"{JSON} or {MSGPACK}") as refused:
        FORMS.of_body(content_type)
    assert len(str(refused.value)) < 250


@pytest.mark.parametrize(
    ("accept", "to_json", "to_msgpack"),
    [
        (None, JSON, MSGPACK),
        ("*/*", JSON, MSGPACK),
        ("application/*", JSON, MSGPACK),
        ("application/json", JSON, JSON),
        ("application/x-msgpack", MSGPACK, MSGPACK),
        ("application/x-msgpack, application/json", JSON, MSGPACK),
        ("application/x-msgpack;q=0.5, application/json", JSON, JSON),
        ("Application/X-MsgPack, */*;q=0.1", MSGPACK, MSGPACK),
        ("application/json;q=0, */*", MSGPACK, MSGPACK),
        ("application/x-msgpack;q=oops, application/json;q=0.1", JSON, JSON),
        ("text/html", JSON, MSGPACK),
        ("", JSON, MSGPACK),
    ],
)
def test_accept_chooses_the_form_of_the_answer(accept: str | None, to_json: str, to_msgpack: str) -> None:
    """Law: the form of more weight; that of the body where both are as good, and where neither is named."""
    chosen = [FORMS.of_answer(accept, FORMS.of_body(body)).media_type for body in (JSON, MSGPACK)]
    assert chosen == [to_json, to_msgpack]
