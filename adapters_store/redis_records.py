"""The form of a record in Redis: `<generation>-<sha1>`, a line feed, the canonical JSON.

The first part is the record's version, and stands in the tag's hash of versions too. The sha1 is over the record's key,
a line feed and the JSON: it shows at every read that the record is damaged, or that it is another's.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

from adapters_store.backend import Versioned
from adapters_store.canonical import canonical_json, parse_json
from adapters_store.errors import MalformedRecord


def form_stored(key: str, record: Mapping[str, Any]) -> tuple[bytes, str]:
    """What is stored of a record, and its version."""
    content = canonical_json(dict(record))
    held = f"{record.get('generation')}-{_sha1(key, content)}"
    return held.encode() + b"\n" + content, held


def fits(key: str, value: bytes) -> bool:
    """Whether a stored record fits its version, and is this one."""
    held, _, content = value.partition(b"\n")
    return held.partition(b"-")[2] == _sha1(key, content).encode()


def parse_stored(key: str, value: bytes) -> Versioned:
    """A stored record.

    Raises:
        MalformedRecord: It does not fit its version, or is no JSON object with a generation.
    """
    if not fits(key, value):
        raise MalformedRecord(f"record {key!r} does not match its digest: it was damaged, or not written by Espalier")
    held, _, content = value.partition(b"\n")
    try:
        record = parse_json(content)
    except ValueError as error:
        raise MalformedRecord(f"record {key!r} is no JSON: {error}") from None
    if not isinstance(record, dict) or type(record.get("generation")) is not int:
        raise MalformedRecord(f"record {key!r} is no JSON object with a generation")
    return Versioned(record, held.decode())


def _sha1(key: str, content: bytes) -> str:
    return hashlib.sha1(key.encode() + b"\n" + content, usedforsecurity=False).hexdigest()
