"""What names what: a blob's own references, and everything that records and releases hold on to."""

import struct
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from adapters_store.backend import in_flight
from adapters_store.canonical import parse_json
from adapters_store.errors import ArtifactError, BlobMissing
from adapters_store.record_store import BACKBONE, DOMAIN, FEATURES, GARBAGE, RELEASE, STAGED
from adapters_store.records import (
    HISTORY,
    BackboneRecord,
    DomainRecord,
    FeatureRecord,
    GarbageRecord,
    Mark,
    ReleasePointer,
    StagedRelease,
    parse_record,
)
from adapters_store.store import AdapterStore

PAGE = 1000
# Adapters and bundles in memory at once while their references are read.
_OPEN = 8
_HEADER = struct.Struct("<Q")

OnStep = Callable[[str, int, int], None]
"""Called with what is being done, how many of it are done, and of how many."""


def silent(what: str, done: int, of: int) -> None:
    """Tell nobody."""


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


@dataclass(slots=True)
class Held:
    """What a store's records hold on to.

    Args:
        adapters: Revisions that domain records and kept releases name.
        others: Bundles, their files, releases, feature layers.
        marks: Record key to its marks of garbage collection.
        domains: Domains that have a record.
    """

    adapters: set[str] = field(default_factory=set)
    others: set[str] = field(default_factory=set)
    marks: dict[str, Mapping[str, Mark]] = field(default_factory=dict)
    domains: set[str] = field(default_factory=set)


async def domain_records(store: AdapterStore) -> AsyncIterator[tuple[str, DomainRecord]]:
    """Every domain record with its key, a page in memory at a time.

    Raises:
        RecordError: One cannot be read by this build; named.
        StoreUnavailable: The store cannot be read.
    """
    after = DOMAIN
    while keys := await store.backend.list_records(DOMAIN, after, PAGE):
        after = keys[-1]
        held = await store.backend.read_records(keys)
        for key in keys:
            if key in held:
                yield key, parse_record(held[key].record, DomainRecord, key)


async def held_by_records(store: AdapterStore, releases: int = HISTORY) -> Held:
    """Read every record, and the releases, bundles and feature layers that they name.

    Args:
        store: Which.
        releases: So many releases before the live one are kept.

    Returns:
        What they hold on to; what adapters pin comes with `pins_of`.

    Raises:
        RecordError: A record cannot be read by this build: then nobody knows what it names.
        ArtifactError: A kept release is damaged.
        StoreUnavailable: The store cannot be read.
    """
    held = Held()
    async for key, record in domain_records(store):
        held.domains.add(record.domain)
        held.adapters |= record.names()
        if record.condemned:
            held.marks[key] = record.condemned
    keys = [BACKBONE, RELEASE, STAGED, GARBAGE, *await store.backend.list_records(FEATURES)]
    found = await store.backend.read_records(keys)
    if GARBAGE in found:
        held.marks[GARBAGE] = parse_record(found[GARBAGE].record, GarbageRecord, GARBAGE).condemned
    bundles: set[str] = set()
    if BACKBONE in found:
        backbone = parse_record(found[BACKBONE].record, BackboneRecord, BACKBONE)
        bundles = {*([backbone.default] if backbone.default else []), *backbone.previous}
    kept: set[str] = set()
    if RELEASE in found:
        pointer = parse_record(found[RELEASE].record, ReleasePointer, RELEASE)
        past = [entry.release for entry in pointer.previous[: max(1, releases)]]
        kept = {revision for revision in (pointer.release, *past) if revision is not None}
    if STAGED in found:
        staged = parse_record(found[STAGED].record, StagedRelease, STAGED).release
        kept |= {staged} if staged else set()
    for revision in kept:
        held.adapters |= (await store.release(revision)).revisions()
    layers: set[str] = set()
    for key in keys:
        if key.startswith(FEATURES) and key in found:
            record_ = parse_record(found[key].record, FeatureRecord, key)
            layers |= {*([record_.revision] if record_.revision else []), *record_.previous}
    held.others = kept | await _closure(store, bundles | layers)
    return held


async def pins_of(
    store: AdapterStore, adapters: Sequence[str], opened: dict[str, frozenset[str]], on_step: OnStep = silent
) -> set[str]:
    """What adapters pin.

    Args:
        store: Which.
        adapters: Their revisions; one that is not there or damaged pins nothing.
        opened: Revision to pins of those read before; what is read now is added.
        on_step: Called as they are read.

    Raises:
        StoreUnavailable: The store cannot be read.
    """
    done = 0

    async def open_(revision: str) -> None:
        nonlocal done
        try:
            opened[revision] = contents_of(await store.get(revision)).names
        except (BlobMissing, ArtifactError):
            opened[revision] = frozenset()
        done += 1
        on_step("reading pins", done, len(missing))

    missing = [revision for revision in adapters if revision not in opened]
    await in_flight(missing, open_, _OPEN)
    return {pin for revision in adapters for pin in opened[revision]}


async def _closure(store: AdapterStore, roots: set[str]) -> set[str]:
    """Roots, what they name, what that names, and so on; for bundles and feature layers, of which there are few."""
    found: set[str] = set()
    left = set(roots)
    while left:
        revision = left.pop()
        found.add(revision)
        try:
            head = contents_of(await store.get(revision))
        except (BlobMissing, ArtifactError):
            continue
        if head.kind == "bundle":
            found |= head.names  # its files name nothing
        else:
            left |= head.names - found
    return found
