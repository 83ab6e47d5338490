"""Loaded by schemathesis itself: how it writes and reads MessagePack, which it does not know."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import schemathesis

MSGPACK = "application/x-msgpack"


@schemathesis.serializer(MSGPACK)
def written(context: Any, value: Any) -> bytes:
    """A generated body. What MessagePack cannot say, such as an integer of 65 bits, goes out as JSON, whose every byte
    is a number to MessagePack: the service has to refuse it."""
    if isinstance(value, bytes):
        return value
    try:
        return msgspec.msgpack.encode(value)
    except (TypeError, ValueError, OverflowError):
        return json.dumps(value, default=str).encode()


@schemathesis.deserializer(MSGPACK)
def read(context: Any, response: Any) -> Any:
    """An answer, to be held against its schema."""
    return msgspec.msgpack.decode(response.content)
