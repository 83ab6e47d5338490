"""Laws of the form of feedback: names sort by time and say their state; what is unknown is not written."""

from __future__ import annotations

import msgspec
import pytest

from adapters_store.feedback_lines import FeedbackLine, SegmentName, parse_name

NAME = "20251121T172000123Z-host.a-17-2-0a1b2c3d"


@pytest.mark.parametrize(("suffix", "state"), [("", "closed"), (".open", "open"), (".shipped", "shipped")])
def test_a_file_name_tells_state_and_day(suffix: str, state: str) -> None:
    """Law: one name in three states; its key in an object store does not depend on the state."""
    named = parse_name(f"{NAME}{suffix}.ndjson")
    assert named == SegmentName(NAME, state, "2025-11-21")  # type: ignore[arg-type]
    assert named.key == f"2025-11-21/{NAME}.ndjson"


@pytest.mark.parametrize(
    "name", ["notes.ndjson", f"{NAME}.json", f"{NAME}.new", f"x/{NAME}.ndjson", f"{NAME}.ndjson\n", f".{NAME}.ndjson"]
)
def test_other_files_are_no_segments(name: str) -> None:
    """Law: what somebody else put into the folder has no part in it."""
    assert parse_name(name) is None


def test_a_line_holds_what_is_known_and_takes_what_it_does_not_know() -> None:
    """Law: absent values are not written, and fields of a later build are passed over."""
    content = msgspec.json.encode(FeedbackLine(schema=1, at=1.5, item_id="a", label=0))
    assert content == b'{"schema":1,"at":1.5,"item_id":"a","label":0}'
    later = content.replace(b"}", b',"weight":2}')
    assert msgspec.json.decode(later, type=FeedbackLine) == msgspec.json.decode(content, type=FeedbackLine)
