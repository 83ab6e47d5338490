"""Stores and activates artifacts by the thousand: bounded batches in flight, and nothing sent that is there already."""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from adapters_store.canonical import digest
from adapters_store.domain_changes import Outcome
from adapters_store.errors import DigestMismatch, StoreUnavailable
from adapters_store.releases import Release
from adapters_store.store import AdapterStore

PUT_BATCH = 128
PUT_BATCHES_IN_FLIGHT = 4
ACTIVATE_BATCH = 1000

OnStep = Callable[[str, int], None]
"""Called with `stored` or `activated` and how many more of them are done."""


def silent(what: str, more: int) -> None:
    """Tell nobody."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """One adapter of a fleet.

    Args:
        domain: Whose.
        division: Of that domain.
        revision: Digest of the bytes.
        content: The bytes, or the file that has them; read only if the store lacks them.
        pins: Auxiliary domain to revision that it pins.
        fusion: That it pins, or None.
    """

    domain: str
    division: str
    revision: str
    content: bytes | Path
    pins: Mapping[str, str] = field(default_factory=dict)
    fusion: str | None = None


@dataclass(slots=True)
class Shipped:
    """What publishing a fleet came to.

    Args:
        stored: Blobs sent.
        stored_bytes: What they took.
        there: Blobs that were in the store already.
        activated: Domains that serve something else now.
        unchanged: Domains that served it already.
        release: Revision of the release, if it was published as one.
    """

    stored: int = 0
    stored_bytes: int = 0
    there: int = 0
    activated: int = 0
    unchanged: int = 0
    release: str | None = None


async def publish_fleet(
    parcels: Iterable[Parcel],
    store: AdapterStore,
    by: str,
    as_release: bool = False,
    stage: bool = True,
    on_step: OnStep = silent,
) -> Shipped:
    """Store adapters, then make all of them live; verifying them was the caller's part.

    Nothing is visible before everything is stored. An interruption leaves unused blobs, or some domains on their new
    adapters; publishing again sends only what is missing and finishes it.

    Args:
        parcels: Taken a few batches ahead, so that their bytes need not be in memory together; pinned adapters first.
        store: Where to.
        by: Who asks; recorded.
        as_release: Make one release of them and leave the domains' records alone.
        stage: Let replicas prepare the release.
        on_step: Called as it goes.

    Returns:
        What it came to.

    Raises:
        BadId: An id is none.
        DigestMismatch: Bytes are not those of their revision.
        BlobMissing: A pin is not in the store.
        WrongDomain: A domain is in use and of another division.
        Frozen: Changes are stopped.
        StoreUnavailable: The store, or a file, failed; publish again.
    """
    shipped = Shipped()
    kept: list[Parcel] = []

    def light() -> Iterator[Parcel]:
        for parcel in parcels:
            kept.append(Parcel(parcel.domain, parcel.division, parcel.revision, b"", parcel.pins, parcel.fusion))
            yield parcel

    await store_parcels(light(), store, shipped, on_step)
    if as_release:
        shipped.release = await release_parcels(kept, store, by, stage)
        return shipped
    for outcome in await activate_parcels(kept, store, by, on_step):
        shipped.activated += outcome.changed
        shipped.unchanged += not outcome.changed
    return shipped


async def store_parcels(
    parcels: Iterable[Parcel], store: AdapterStore, shipped: Shipped, on_step: OnStep = silent
) -> None:
    """Store the bytes of parcels; arguments and errors as `publish_fleet`, counts go into `shipped`."""
    room = asyncio.Semaphore(PUT_BATCHES_IN_FLIGHT)
    waiting = iter(parcels)

    async def put(batch: Sequence[Parcel]) -> None:
        try:
            there = await store.has_many([parcel.revision for parcel in batch])
            missing = {parcel.revision: parcel for parcel in batch if parcel.revision not in there}
            blobs = await asyncio.to_thread(_read, missing)
            await store.backend.put_blobs(blobs)
        finally:
            room.release()
        shipped.stored += len(blobs)
        shipped.stored_bytes += sum(map(len, blobs.values()))
        shipped.there += len(batch) - len(blobs)
        on_step("stored", len(batch))

    try:
        async with asyncio.TaskGroup() as group:
            while batch := list(islice(waiting, PUT_BATCH)):
                await room.acquire()
                group.create_task(put(batch))
    except BaseExceptionGroup as raised:
        raise raised.exceptions[0] from None


async def activate_parcels(
    parcels: Sequence[Parcel], store: AdapterStore, by: str, on_step: OnStep = silent
) -> list[Outcome]:
    """Make stored parcels live, a batch at a time; what became of each, in order. Errors as `publish_fleet`."""
    outcomes: list[Outcome] = []
    for start in range(0, len(parcels), ACTIVATE_BATCH):
        batch = parcels[start : start + ACTIVATE_BATCH]
        found = await store.change_many(
            [
                store.activation(one.domain, one.division, one.revision, by, pins=one.pins, fusion=one.fusion)
                for one in batch
            ]
        )
        for outcome in found:
            if outcome.error is not None:
                raise outcome.error
        outcomes += found
        on_step("activated", len(batch))
    return outcomes


async def release_parcels(parcels: Iterable[Parcel], store: AdapterStore, by: str, stage: bool) -> str:
    """Store one release of parcels, and stage it; its revision. Errors as `publish_fleet`."""
    divisions: dict[str, dict[str, str]] = {}
    for parcel in parcels:
        divisions.setdefault(parcel.division, {})[parcel.domain] = parcel.revision
    revision = await store.put_release(Release(divisions=divisions))
    if stage:
        await store.stage(revision, by)
    return revision


def _read(missing: Mapping[str, Parcel]) -> dict[str, bytes]:
    blobs = {}
    for revision, parcel in missing.items():
        content, name = parcel.content, f"the adapter of domain {parcel.domain!r}"
        if isinstance(content, Path):
            name = content.name
            try:
                content = content.read_bytes()
            except OSError as error:
                raise StoreUnavailable(f"cannot read {name}: {error.strerror}") from error
        if digest(content) != revision:
            raise DigestMismatch(f"{name} changed after it was verified: publish again")
        blobs[revision] = content
    return blobs
