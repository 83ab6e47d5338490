"""What a client tells: `{request_id, item_id, label}` or `{user_id, item_id, domain_id, label}`, or both at once."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from service.refusals import InvalidRequest

MOST_EVENTS = 1000
ID_CHARACTERS = 256

Integer = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Id = Annotated[str, Meta(min_length=1, max_length=ID_CHARACTERS)] | Integer
# Python's `$` would let a newline follow
DomainId = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_:=.-]{0,127}$(?!\n)")]
RequestId = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}$(?!\n)")]


class FeedbackEvent(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """A label for one item that was shown. An integer id equals its decimal string."""

    item_id: Id
    label: Literal[0, 1]
    request_id: RequestId | None = None
    user_id: Id | None = None
    domain_id: DomainId | None = None


class FeedbackBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """Labels; all of them are taken, or none."""

    events: Annotated[list[FeedbackEvent], Meta(min_length=1, max_length=MOST_EVENTS)]


def check_events(events: list[FeedbackEvent]) -> None:
    """Each event must say which row it labels.

    Raises:
        InvalidRequest: one does not; names its place.
    """
    for place, event in enumerate(events):
        whose = event.user_id is not None, event.domain_id is not None
        if event.request_id is None and whose == (False, False):
            raise InvalidRequest(
                f"events[{place}] must have request_id, or user_id and domain_id", f"events[{place}].request_id"
            )
        if any(whose) and not all(whose):
            missing = "domain_id" if whose[0] else "user_id"
            given = "user_id" if whose[0] else "domain_id"
            raise InvalidRequest(
                f"events[{place}] has {given} and no {missing}; they go together", f"events[{place}].{missing}"
            )
