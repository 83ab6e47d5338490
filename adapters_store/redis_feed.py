"""Where a reader of the Redis feed stands: one id a tag, and what follows from the events behind it.

An id is (count, mark); `redis_scripts` says how they are written. Whether nothing was missed is told by the ids alone:
each event names the one before it, so the first event behind a position must name exactly this position. A trimmed
stream, a wiped store, a restored one and a failover that lost the newest events all break that chain.
"""

import base64
import binascii
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_ID = struct.Struct(">QI")
_FORM = re.compile(r"([0-9]{1,20})-([0-9]{1,20})")
MARK_BITS = 32

Id = tuple[int, int]
START: Id = (0, 0)


@dataclass(frozen=True, slots=True)
class Event:
    """One entry of a stream.

    Args:
        id: Its own.
        after: The id of the event before it.
        key: Of the record.
    """

    id: Id
    after: Id
    key: str


def parse_id(text: bytes | str | None) -> Id:
    """The id in a stream's or a key's form; None is a tag without events.

    Raises:
        ValueError: It is no id.
    """
    if text is None:
        return START
    match = _FORM.fullmatch(text.decode("latin-1") if isinstance(text, bytes) else text)
    one = (int(match[1]), int(match[2])) if match else (1 << 64, 0)
    if one[0] >= 1 << 64 or one[1] >= 1 << MARK_BITS:
        raise ValueError(f"the feed holds {text!r:.40} where an id must be")
    return one


def format_id(one: Id) -> str:
    """The form that Redis knows."""
    return f"{one[0]}-{one[1]}"


def parse_events(reply: Any) -> list[Event]:
    """The events in XREAD's reply for one stream: None, or [[stream, [[id, [name, value, ...]], ...]]].

    Raises:
        ValueError: One is no event of ours.
    """
    try:
        entries = (
            [(name, dict(zip(pairs[::2], pairs[1::2], strict=True))) for name, pairs in reply[0][1]] if reply else []
        )
        return [Event(parse_id(name), parse_id(found[b"after"]), found[b"key"].decode()) for name, found in entries]
    except (AttributeError, IndexError, KeyError, TypeError):
        raise ValueError("an entry of the feed is not of the form that this build writes") from None


def pack(ids: Sequence[Id]) -> str:
    """A position: the ids of all tags, in their order, as printable text."""
    return base64.urlsafe_b64encode(b"".join(_ID.pack(*one) for one in ids)).decode()


def unpack(position: str | None, tags: int) -> list[Id] | None:
    """The ids of a position, or None if it is not one of a Redis feed."""
    try:
        packed = base64.urlsafe_b64decode(position or "")
        ids = [(count, mark) for count, mark in _ID.iter_unpack(packed)]
    except (binascii.Error, struct.error, ValueError):
        return None
    return ids if len(ids) == tags else None


def follow(at: Id, last: Id, events: Sequence[Event], whole: bool) -> Id | None:
    """Where a reader of one tag stands after these events, or None if it cannot know what it missed.

    Args:
        at: Where it stood.
        last: The newest id of the tag, asked for before the events were.
        events: All behind `at`, oldest first, or the first of them.
        whole: Whether there were no more when the events were read.
    """
    for event in events:
        if event.after != at:
            return None
        at = event.id
    if whole and at != last and (not events or at[0] <= last[0]):
        return None  # the stream ends before its newest event, or the reader is past the end
    return at


def keys_of(found: Mapping[int, Sequence[Event]]) -> frozenset[str]:
    """The records that events name."""
    return frozenset(event.key for events in found.values() for event in events)
