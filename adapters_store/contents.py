"""What a blob says of itself: its kind, whose it is, and which blobs it needs."""

import struct
from dataclasses import dataclass

from adapters_store.canonical import parse_json

_HEADER = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class Contents:
    """What a blob says of itself.

    Args:
        kind: `lora`, `fused`, `fusion`, `features`, `release`, `bundle`, or `unknown` for whatever cannot be read.
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
        manifest = parse_json(content) if content[:1] == b"{" else _metadata(content)
    except (ValueError, KeyError, TypeError, struct.error):
        manifest = None
    if not isinstance(manifest, dict):
        return Contents("unknown", size_bytes=len(content))
    kind, names = str(manifest.get("kind", "unknown")), set()
    if kind == "release":
        divisions = manifest.get("divisions") or {}
        names = {revision for domains in divisions.values() for revision in domains.values()}
    elif "files" in manifest:
        kind, names = "bundle", {entry["sha256"] for entry in manifest["files"]}
    else:
        names = {*(manifest.get("fuses") or {}).values(), manifest.get("fusion"), manifest.get("parent")}
    found = frozenset(name for name in names if isinstance(name, str))
    return Contents(kind, str(manifest.get("domain", "")), found, len(content))


def _metadata(content: bytes) -> object:
    """The manifest inside a tensor file's header."""
    (size,) = _HEADER.unpack_from(content)
    header = parse_json(content[_HEADER.size : _HEADER.size + size])
    if not isinstance(header, dict):
        raise ValueError("the header is no object")
    return parse_json(header["__metadata__"]["espalier"])
