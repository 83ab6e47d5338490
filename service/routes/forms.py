"""The forms that a body comes in and an answer leaves in: JSON, and MessagePack for whoever counts microseconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Generic

import msgspec

from service.refusals import UnsupportedMediaType
from service.routes.reading import Body, decode_json, decode_msgpack

JSON = "application/json"
MSGPACK = "application/x-msgpack"
# what a client says that was told nothing: curl -d and urllib name a form that nobody filled in
_READ_AS_JSON = ("", JSON, "text/json", "application/x-www-form-urlencoded")
_SHOWN = 120


@dataclass(frozen=True, slots=True, eq=False)
class Form(Generic[Body]):
    """One form of a body.

    Args:
        media_type: names it in headers.
        decode: reads a body strictly; raises MalformedRequest, InvalidRequest.
        encode: writes an answer.
    """

    media_type: str
    decode: Callable[[bytes], Body]
    encode: Callable[[object], bytes]


class Forms(Generic[Body]):
    """Chooses the form by the headers of a request.

    Args:
        json: what a body of JSON is read into.
        msgpack: what a body of MessagePack is read into.
    """

    def __init__(self, json: type[Body], msgpack: type[Body]) -> None:
        self._json = Form(JSON, partial(decode_json, msgspec.json.Decoder(json)), msgspec.json.Encoder().encode)
        self._msgpack = Form(
            MSGPACK, partial(decode_msgpack, msgspec.msgpack.Decoder(msgpack)), msgspec.msgpack.Encoder().encode
        )

    def of_body(self, content_type: str | None) -> Form[Body]:
        """The form of a request's body.

        Args:
            content_type: its header, or None: JSON.

        Raises:
            UnsupportedMediaType: it names another form.
        """
        if content_type is None or content_type == JSON:
            return self._json
        if content_type == MSGPACK:
            return self._msgpack
        media_type = content_type.partition(";")[0].strip().lower()
        if media_type == MSGPACK:
            return self._msgpack
        if media_type in _READ_AS_JSON or media_type.endswith("+json"):
            return self._json
        raise UnsupportedMediaType(f"Content-Type must be {JSON} or {MSGPACK}, not {content_type[:_SHOWN]!r}")

    def of_answer(self, accept: str | None, asked: Form[Body]) -> Form[Body]:
        """The form of the answer: what Accept prefers, and that of the body where it is as good.

        An Accept that names neither is passed over (RFC 9110 12.5.1 leaves that to the server).

        Args:
            accept: the header, or None.
            asked: the form of the body.
        """
        if accept is None or accept in ("*/*", asked.media_type):
            return asked
        other = self._msgpack if asked is self._json else self._json
        weights = _weights(accept)
        return other if _weight(weights, other.media_type) > _weight(weights, asked.media_type) else asked


def _weights(accept: str) -> dict[str, float]:
    """Media range -> its weight (RFC 9110 12.4.2); one that cannot be read weighs nothing."""
    weights: dict[str, float] = {}
    for part in accept.lower().split(","):
        media_range, *parameters = (piece.strip() for piece in part.split(";"))
        weights[media_range] = next((_number(each[2:]) for each in parameters if each.startswith("q=")), 1.0)
    return weights


def _weight(weights: dict[str, float], media_type: str) -> float:
    return next((weights[each] for each in (media_type, "application/*", "*/*") if each in weights), 0.0)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
