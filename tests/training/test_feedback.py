"""Laws of turning feedback into training rows: joined, last label, counted, every line accounted for."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import polars as pl
import pytest

from features.fields import Division
from training.dataset import encode
from training.errors import FeedbackUnusable
from training.feedback import FeedbackReader, context_fields, feedback_rows
from training.prepared import DatasetSpec, FieldSpec, PreparedDataset


def base() -> PreparedDataset:
    """Two integer users, three text items, two themes, an hour and tags of the context."""
    fields = (
        FieldSpec(name="user_id", kind="sparse", of="user", column="user_id", id=True),
        FieldSpec(name="item_id", kind="sparse", of="item", column="item_id", id=True),
        FieldSpec(name="hour", kind="sparse", of="context", column="hour_of_day"),
        FieldSpec(name="wait", kind="dense", of="context", column="wait"),
        FieldSpec(name="seen", kind="multi_hot", of="context", column="seen"),
        FieldSpec(name="theme", kind="sparse", of="domain", column="domain_id"),
    )
    divisions = (Division(name="theme", natural=True, of="domain", domains=("women", "men")),)
    interactions = pl.DataFrame(
        {
            "user_id": [7],
            "item_id": ["a"],
            "domain_id": ["women"],
            "label": pl.Series([1], dtype=pl.Int8),
            "hour_of_day": [3],
            "wait": [0.5],
            "seen": [["x"]],
            "probability": [0.25],
        }
    )
    users, items = pl.DataFrame({"user_id": [7, 8]}), pl.DataFrame({"item_id": ["a", "b", "7"]})
    return PreparedDataset(DatasetSpec(name="small", fields=fields, divisions=divisions), interactions, users, items)


def line(item: str, label: int, at: float = 0.0, **given: Any) -> bytes:
    """One line as the service writes it."""
    return json.dumps({"schema": 1, "at": at, "item_id": item, "label": label, **given}).encode() + b"\n"


def of(user: str, domain: str = "women") -> dict[str, str]:
    return {"user_id": user, "domain_id": domain}


def read(*segments: bytes) -> FeedbackReader:
    reader = FeedbackReader(context_fields(base()))
    for number, content in enumerate(segments):
        reader.add(f"segment-{number}", content)
    return reader


def rows(reader: FeedbackReader, **options: Any) -> list[dict[str, Any]]:
    prepared = feedback_rows(reader, base(), **options)
    prepared.check()
    return prepared.interactions.to_dicts()


def test_rows_have_the_columns_and_types_of_the_prepared_data() -> None:
    """Law: a matched line gives a row of the prepared data's own schema, context by field name, no probability."""
    context = {"hour": "18", "wait": 2, "seen": ["x", "y"], "unheard": 1}
    prepared = feedback_rows(read(line("b", 1, request_id="r", context=context, **of("8"))), base())
    assert prepared.interactions.to_dicts() == [
        {
            "user_id": 8,
            "item_id": "b",
            "domain_id": "women",
            "label": 1,
            "hour_of_day": 18,
            "wait": 2.0,
            "seen": ["x", "y"],
        }
    ]
    wanted = base().interactions.drop("probability").schema
    assert dict(prepared.interactions.schema) == dict(wanted)
    assert prepared.spec.facts["domains"][0]["rows"] == 1


def test_the_last_label_of_a_response_s_item_wins() -> None:
    """Law: events of one (request, item) are one row with the label of the latest, wherever it is; others count."""
    late = line("a", 1, 9.0, request_id="r", **of("7"))
    early = line("a", 0, 1.0, request_id="r", **of("7"))
    reader = read(late, early + early)
    assert [(row["label"], row["item_id"]) for row in rows(reader)] == [(1, "a")]
    assert (reader.tally.duplicates, reader.tally.relabelled, reader.tally.rows) == (2, 1, 1)


def test_each_response_is_a_row_of_its_own() -> None:
    """Law: the same item shown twice to a user gives two rows."""
    reader = read(line("a", 0, 1.0, request_id="r1", **of("7")) + line("a", 1, 2.0, request_id="r2", **of("7")))
    assert [row["label"] for row in rows(reader)] == [0, 1]
    assert reader.tally.duplicates == 0


def test_an_event_without_request_belongs_to_the_last_response_before_it() -> None:
    """Law: a label by user, item and domain changes the row of the latest earlier response, and no other."""
    shown = line("a", 0, 1.0, request_id="r1", **of("7")) + line("a", 0, 2.0, request_id="r2", **of("7"))
    later = line("a", 0, 9.0, request_id="r3", **of("7"))
    click = line("a", 1, 5.0, **of("7")) + line("a", 1, 5.0, **of("7", "men")) + line("a", 1, 5.0, **of("8"))
    found = {(row["user_id"], row["domain_id"], row["label"]) for row in rows(read(shown, click, later))}
    assert found == {(7, "women", 0), (7, "women", 1), (7, "men", 1), (8, "women", 1)}
    labels = [
        row["label"] for row in rows(read(shown, click, later)) if (row["user_id"], row["domain_id"]) == (7, "women")
    ]
    assert labels == [0, 1, 0]


def test_without_any_response_user_item_and_domain_are_the_row() -> None:
    """Law: events that name no response join by user, item and domain; the last label wins."""
    reader = read(line("a", 1, 1.0, **of("7")), line("a", 0, 2.0, **of("7")), line("7", 1, 3.0, **of("7")))
    assert [(row["item_id"], row["label"]) for row in rows(reader)] == [("a", 0), ("7", 1)]
    assert reader.tally.duplicates == 1


def test_a_request_completes_its_other_events() -> None:
    """Law: an unmatched event takes user, domain and context from another event of its response, or is rejected."""
    known = line("a", 0, 1.0, request_id="r", matched=True, context={"hour": 4}, **of("7"))
    reader = read(known, line("b", 1, 2.0, request_id="r") + line("b", 1, 2.0, request_id="nobody-knows"))
    found = rows(reader)
    assert [(row["user_id"], row["item_id"], row["hour_of_day"]) for row in found] == [(7, "a", 4), (7, "b", 4)]
    assert reader.tally.named[0].segment == "segment-1"
    assert reader.tally.named[0].line == 2
    assert "response is not known" in reader.tally.named[0].reason


def test_a_completing_line_is_no_event() -> None:
    """Law: what another worker knew of an event completes it, and is neither a row nor a duplicate."""
    event = line("b", 1, 2.0, request_id="r")
    known = line("b", 1, 2.0, request_id="r", matched=True, completes=True, context={"hour": 4}, **of("8"))
    reader = read(known, event)
    assert [(row["user_id"], row["item_id"], row["hour_of_day"]) for row in rows(reader)] == [(8, "b", 4)]
    assert (reader.tally.lines, reader.tally.completing, reader.tally.duplicates) == (2, 1, 0)
    assert reader.tally.rejected.total() == 0


def test_a_request_id_that_names_two_users_completes_nothing() -> None:
    """Law: where a client used one request_id twice, nobody's item becomes another user's row."""
    two = line("a", 0, 1.0, request_id="r", **of("7")) + line("a", 0, 1.0, request_id="r", **of("8"))
    reader = read(two + line("b", 1, 2.0, request_id="r"))
    assert {row["item_id"] for row in rows(reader)} == {"a"}
    assert sum(reader.tally.rejected.values()) == 1


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b"{not json}\n", "no JSON"),
        (b'{"schema":1,"at":0,"item_id":"a","label":2}\n', "no line of feedback"),
        (b'{"schema":1,"at":0,"label":1}\n', "no line of feedback"),
        (line("a", 1, **of("7")).replace(b'"schema": 1', b'"schema": 2'), "schema 2"),
        (line("a", 1, **of("9")), "does not know its user_id"),
        (line("a", 1, **of("07")), "does not know its user_id"),
        (line("a", 1, **of("seven")), "does not know its user_id"),
        (line("z", 1, **of("7")), "does not know its item_id"),
        (line("a", 1, **of("7", "children")), "does not know its domain_id"),
    ],
)
def test_a_line_that_gives_no_row_is_named(bad: bytes, reason: str) -> None:
    """Law: what cannot be used is named by segment and line with the reason, and spoils nothing else."""
    reader = read(line("a", 1, **of("8")), line("b", 0, **of("8")) + bad)
    assert len(rows(reader)) == 2
    assert [(one.segment, one.line) for one in reader.tally.named] == [("segment-1", 2)]
    assert reason in reader.tally.named[0].reason


def test_a_torn_end_is_no_line() -> None:
    """Law: bytes behind the last newline are counted as torn, even where they would be a whole line."""
    reader = read(line("a", 1, **of("7")) + line("b", 1, **of("7"))[:-1])
    assert [row["item_id"] for row in rows(reader)] == ["a"]
    assert (reader.tally.torn, reader.tally.lines, reader.tally.rejected.total()) == (1, 1, 0)


def test_appended_rows_stand_behind_the_prepared_ones() -> None:
    """Law: with append the prepared rows come first, unchanged, and all of them share one schema."""
    found = rows(read(line("b", 0, **of("8"))), append=True)
    assert [(row["user_id"], row["item_id"], row["label"], row["hour_of_day"]) for row in found] == [
        (7, "a", 1, 3),
        (8, "b", 0, None),
    ]


def test_training_encodes_the_rows() -> None:
    """Law: rows with and without context pass through the encoder that training uses; an empty context is unknown."""
    known = line("b", 1, 1.0, request_id="r", context={"hour": 18, "wait": 2, "seen": ["x"]}, **of("8"))
    prepared = feedback_rows(read(known, line("a", 0, 2.0, **of("7"))), base())
    encoded = encode(prepared, np.arange(2), width=4)
    assert encoded.label.tolist() == [1.0, 0.0]
    names = [field.name for field in encoded.fields if field.kind == "sparse"]
    hour = encoded.sparse[:, names.index("hour")].tolist()
    assert (hour[0] > 0, hour[1]) == (True, 0)
    assert np.isfinite(encoded.dense).all()


def test_no_row_at_all_is_refused() -> None:
    """Law: feedback without one usable line ends in an error that says why."""
    with pytest.raises(FeedbackUnusable, match=r"of 2 lines: it is no JSON \(1 lines\); .*item_id \(1 lines\)"):
        rows(read(line("z", 1, **of("7")) + b"{\n"))
    with pytest.raises(FeedbackUnusable, match="there is none"):
        rows(read())


def test_every_line_is_accounted_for() -> None:
    """Law: lines = rows + duplicates + rejected."""
    content = b"".join(
        line(item, label, at, **of(user))
        for at, (item, label, user) in enumerate(
            (item, label, user) for item in ("a", "b", "z") for label in (0, 1, 1) for user in ("7", "8", "9")
        )
    )
    reader = read(content, b"x\n")
    tally = reader.tally
    rows(reader)
    assert tally.lines == 28
    assert tally.lines == tally.rows + tally.duplicates + sum(tally.rejected.values())
