"""Everything that a store's records and releases hold on to."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from adapters_store.backend import Versioned, in_flight
from adapters_store.contents import contents_of
from adapters_store.errors import BlobMissing
from adapters_store.ids import is_revision
from adapters_store.record_store import (
    BACKBONE,
    DOMAIN,
    FEATURES,
    GARBAGE,
    PREWARM,
    RELEASE,
    REPLICA,
    STAGED,
    SWITCHES,
)
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
_KNOWN = (DOMAIN, REPLICA, PREWARM, SWITCHES)
# Adapters and bundles in memory at once while their references are read.
_OPEN = 8

OnStep = Callable[[str, int, int], None]
"""Called with what is being done, how many of it are done, and of how many."""


def silent(what: str, done: int, of: int) -> None:
    """Tell nobody."""


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
        BlobMissing: The live or the staged release is not there.
        ArtifactError: A kept release, a bundle or a feature layer is damaged: then nobody knows what it names.
        StoreUnavailable: The store cannot be read.
    """
    held = Held()
    async for key, record in domain_records(store):
        held.domains.add(record.domain)
        held.adapters |= record.names() | _revisions_in(record.model_dump(exclude={"condemned"}))
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
        # an earlier one may have been collected when fewer were kept
        kept = await store.has_many([revision for revision in past if revision is not None])
        kept |= {pointer.release} if pointer.release else set()
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
    held.others = kept | await _closure(store, bundles | layers | await _named_elsewhere(store, found))
    return held


async def _named_elsewhere(store: AdapterStore, known: Mapping[str, Versioned]) -> set[str]:
    """What may be revisions in keys and kinds of records that a newer build knows, and this one does not."""
    novel = [key for key in await store.backend.list_records("") if not key.startswith(_KNOWN) and key not in known]
    records = {**known, **await store.backend.read_records(novel)}
    found: set[str] = set()
    for key, held in records.items():
        if key not in (RELEASE, STAGED, GARBAGE):  # releases are counted; a mark of garbage holds on to nothing
            found |= _revisions_in(held.record)
    return found


def _revisions_in(value: object) -> set[str]:
    if isinstance(value, str):
        return {value} if is_revision(value) else set()
    if isinstance(value, Mapping):
        value = [*value.keys(), *value.values()]
    return set().union(*map(_revisions_in, value)) if isinstance(value, list) else set()


async def pins_of(
    store: AdapterStore, adapters: Sequence[str], opened: dict[str, frozenset[str]], on_step: OnStep = silent
) -> set[str]:
    """What adapters pin.

    Args:
        store: Which.
        adapters: Their revisions; one that is not there pins nothing.
        opened: Revision to pins of those read before; what is read now is added.
        on_step: Called as they are read.

    Raises:
        DigestMismatch: One is damaged, or came damaged: then nobody knows what it pins.
        StoreUnavailable: The store cannot be read.
    """
    done = 0

    async def open_(revision: str) -> None:
        nonlocal done
        try:
            opened[revision] = contents_of(await store.get(revision)).names
        except BlobMissing:
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
        except BlobMissing:
            continue
        if head.kind == "bundle":
            found |= head.names  # its files name nothing
        else:
            left |= head.names - found
    return found
