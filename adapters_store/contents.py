"""What a blob says of itself: its kind, whose it is, and which blobs it needs."""

import struct
from dataclasses import dataclass
from typing import Any

from adapters_store.canonical import parse_json
from adapters_store.ids import is_revision

_HEADER = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class Contents:
    """What a blob says of itself.

    Args:
        kind: `lora`, `fused`, `delta`, `fusion`, `features`, `release`, `bundle`, or `unknown` for what cannot be read.
        domain: Whose adapter it is; empty for others.
        names: Blobs that it needs: pins, the fusion, a bundle's files, a layer's parent.
        size_bytes: Of the blob.
    """

    kind: str
    domain: str = ""
    names: frozenset[str] = frozenset()
    size_bytes: int = 0


def contents_of(content: bytes) -> Contents:
    """Read a blob's references without believing anything else of it."""
    try:
        manifest: Any = parse_json(content) if content[:1] == b"{" else _metadata(content)
        kind, names = _named(manifest)
        domain = str(manifest.get("domain", ""))
    except (ValueError, KeyError, TypeError, AttributeError, struct.error):  # it is not of our making
        return Contents("unknown", size_bytes=len(content))
    found = frozenset(name for name in names if isinstance(name, str) and is_revision(name))
    return Contents(kind, domain, found, len(content))


def _named(manifest: Any) -> tuple[str, list[object]]:
    """Kind, and what may be revisions; any exception of a wrong type may come of a strange manifest."""
    kind = str(manifest.get("kind", "unknown"))
    if kind == "release":
        divisions = manifest.get("divisions") or {}
        return kind, [revision for domains in divisions.values() for revision in domains.values()]
    if "files" in manifest:
        return "bundle", [entry["sha256"] for entry in manifest["files"]]
    return kind, [*(manifest.get("fuses") or {}).values(), manifest.get("fusion"), manifest.get("parent")]


def _metadata(content: bytes) -> Any:
    """The manifest inside a tensor file's header."""
    (size,) = _HEADER.unpack_from(content)
    header = parse_json(content[_HEADER.size : _HEADER.size + size])
    if not isinstance(header, dict):
        raise ValueError("the header is no object")
    return parse_json(header["__metadata__"]["espalier"])
