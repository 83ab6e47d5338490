"""JSON with one byte form, and the digest that names bytes."""

import hashlib
import json
import math
from typing import NoReturn


def canonical_json(value: object) -> bytes:
    """Write JSON in its one canonical form: UTF-8, sorted keys, no spaces, finite numbers.

    Args:
        value: Anything the json module can write.

    Returns:
        The bytes; equal values give equal bytes.

    Raises:
        ValueError: A number is not finite or a string is not valid Unicode.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def parse_json(content: bytes | str) -> object:
    """Read JSON strictly: no duplicate key, no NaN or infinity, no lone surrogate, no extreme nesting.

    Args:
        content: UTF-8 bytes or text; its size is the caller's to limit.

    Returns:
        The value.

    Raises:
        ValueError: The text is not such JSON; the message says where or why.
    """
    try:
        text = content if isinstance(content, str) else content.decode()
        value: object = json.loads(
            text, object_pairs_hook=_no_duplicates, parse_constant=_no_constant, parse_float=_finite
        )
        if "\\u" in text:  # the only way in for a lone surrogate, which could never be written again
            canonical_json(value)
    except RecursionError:
        raise ValueError("JSON nested too deeply") from None
    return value


def digest(content: bytes | bytearray | memoryview) -> str:
    """Name bytes by their sha256, in hex: the revision of an artifact."""
    return hashlib.sha256(content).hexdigest()


def _no_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"duplicate JSON key {key!r}")
        found[key] = value
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text[:40]} is not finite as a float64")
    return number
