"""The form of feedback: one JSON object a line, in segments. The service writes it, training reads it.

::

    <folder>/<name>.open.ndjson              one process appends to it, and holds its flock(2) as long as it lives
    <folder>/<day>/<name>.ndjson             closed: it never changes again
    <folder>/<day>/<name>.shipped.ndjson     closed, and in the object store; the first to go when room is needed
    <store>/feedback/<day>/<name>.ndjson

`<name>` is `<time opened, UTC, to the millisecond>-<who wrote it>-<8 hex>`, so names sort by time. Lines hold user ids.
"""

import re
from typing import Any, Literal

import msgspec

SCHEMA = 1
SUFFIX = ".ndjson"
OPEN = f".open{SUFFIX}"
SHIPPED = f".shipped{SUFFIX}"
_NAME = re.compile(
    r"(?P<name>(?P<year>\d{4})(?P<month>\d\d)(?P<day>\d\d)T\d{9}Z-[A-Za-z0-9_:=.-]{1,160}-[0-9a-f]{8})"
    r"(?P<state>\.open|\.shipped|)\.ndjson"
)
State = Literal["open", "closed", "shipped"]


class FeedbackLine(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """One label for one item that was shown, with what is known of how it was scored.

    Args:
        schema: of this form.
        at: when the service took it, seconds since 1970.
        item_id: as a string; so are all ids.
        label: 1 or 0.
        request_id: of the response that was shown, if the client named it.
        user_id, domain_id: as the client said, else those of the response; absent where neither is known.
        by: name of the token that sent it.
        matched: the response was found; what follows is of it.
        completes: no event of its own: another process of the replica took the event, and this one knew its response.
        score: probability that the service gave.
        backbone, revision, alias, fallback: what scored, as in the response's `served`.
        context: of the request; absent where there was none, or where it was too large to keep.
    """

    schema: int
    at: float
    item_id: str
    label: Literal[0, 1]
    request_id: str | None = None
    user_id: str | None = None
    domain_id: str | None = None
    by: str | None = None
    matched: bool = False
    completes: bool = False
    score: float | None = None
    backbone: str | None = None
    revision: str | None = None
    alias: str | None = None
    fallback: str | None = None
    context: dict[str, Any] | None = None


class SegmentName(msgspec.Struct, frozen=True):
    """What a segment's file name says.

    Args:
        name: without its suffix; the same in every state.
        state: open, closed or shipped.
        day: of its opening, such as 2026-11-21.
    """

    name: str
    state: State
    day: str

    @property
    def key(self) -> str:
        """Its path below `feedback/` in an object store."""
        return f"{self.day}/{self.name}{SUFFIX}"


def parse_name(file_name: str) -> SegmentName | None:
    """What a file name says, or None where it is no segment's."""
    found = _NAME.fullmatch(file_name)
    if found is None:
        return None
    states: dict[str, State] = {".open": "open", ".shipped": "shipped", "": "closed"}
    return SegmentName(found["name"], states[found["state"]], f"{found['year']}-{found['month']}-{found['day']}")
