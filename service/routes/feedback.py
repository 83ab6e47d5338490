"""POST /feedback: labels of what was shown, acknowledged when they are durable."""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import Depends, FastAPI
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request

from service.auth import Guard, Scope
from service.feedback.events import ID_CHARACTERS, MOST_EVENTS, FeedbackBody, check_events
from service.feedback.room import Feedback
from service.limits import read_body
from service.routes.access import caller_of
from service.routes.described import json_body, problems
from service.routes.reading import decode_json

BODY_BYTES = 1 << 19
SCORE = Scope("score")
_ID = {
    "anyOf": [
        {"type": "string", "minLength": 1, "maxLength": ID_CHARACTERS},
        {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1},
    ]
}
_NULL = {"type": "null"}
_EVENT: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["item_id", "label"],
    "anyOf": [
        {"required": ["request_id"], "properties": {"request_id": {"type": "string"}}},
        {
            "required": ["user_id", "domain_id"],
            "properties": {"user_id": {"not": _NULL}, "domain_id": {"type": "string"}},
        },
    ],
    "description": "Names its row by request_id, by user_id and domain_id, or by all three; null is as good as absent.",
    "properties": {
        "request_id": {"type": ["string", "null"], "pattern": "^[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}$"},
        "user_id": {"anyOf": [*_ID["anyOf"], _NULL]},
        "domain_id": {"type": ["string", "null"], "pattern": "^[A-Za-z0-9][A-Za-z0-9_:=.-]{0,127}$"},
        "item_id": _ID,
        "label": {"type": "integer", "enum": [0, 1]},
    },
}
_BODY = {
    "type": "object",
    "additionalProperties": False,
    "required": ["events"],
    "properties": {"events": {"type": "array", "minItems": 1, "maxItems": MOST_EVENTS, "items": _EVENT}},
    "example": {
        "events": [
            {"request_id": "8d0f9a3c", "item_id": 1193, "label": 1},
            {"user_id": "42", "domain_id": "women", "item_id": "914", "label": 0},
        ]
    },
}


class FeedbackReply(BaseModel):
    """Every event is on this replica's disk."""

    model_config = ConfigDict(frozen=True)

    accepted: int = Field(description="events, all of the request")
    matched: int = Field(description="of them, whose response this process still remembers; the others count as well")
    request_id: str


class FeedbackRoutes:
    """The route that takes labels.

    Args:
        feedback: makes them durable.
        guard: lets callers with the scope score in, before a byte of the body is read.
        body_read_s: longest a client may take to send its body.
        body_bytes: largest body.
    """

    def __init__(self, feedback: Feedback, guard: Guard, *, body_read_s: float, body_bytes: int = BODY_BYTES) -> None:
        self._feedback = feedback
        self._guard = guard
        self._body_read_s = body_read_s
        self._body_bytes = body_bytes
        self._decoder = msgspec.json.Decoder(FeedbackBody)

    def register(self, app: FastAPI) -> None:
        """Add the route to an app."""
        app.add_api_route(
            "/feedback",
            self.feedback,
            methods=["POST"],
            dependencies=[Depends(self._let_in)],
            responses=problems(400, 401, 403, 408, 413, 422, 429, 431, 503),
            openapi_extra={"requestBody": json_body(_BODY)},
            tags=["scoring"],
        )

    async def feedback(self, request: Request) -> FeedbackReply:
        """Say what became of shown items; a 200 means that every event is on disk.

        Send `user_id` and `domain_id` also beside `request_id`: another replica, or a later hour, does not know the
        response any more.
        """
        raw = await read_body(request.receive, request.headers, self._body_bytes, self._body_read_s)
        events = decode_json(self._decoder, raw).events
        check_events(events)
        taken = await self._feedback.take(events, caller_of(request).name)
        return FeedbackReply(accepted=taken.accepted, matched=taken.matched, request_id=request.state.request_id)

    async def _let_in(self, request: Request) -> None:
        caller = self._guard.authorize(request.headers.get("authorization"), SCORE)
        request.state.caller = caller
        request.state.account.by = caller.name
