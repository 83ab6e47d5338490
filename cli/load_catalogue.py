"""`espalier load-catalogue`: what a load test has to know of a store, as files that a stranger to Espalier can read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from adapters_store.artifact import decode_adapter, encode_adapter
from adapters_store.durable import write_durably
from adapters_store.errors import DomainUnknown, StoreError
from adapters_store.manifest import AdapterManifest, Calibration
from adapters_store.paging import Unreadable, domain_page
from adapters_store.releases import effective
from adapters_store.store import AdapterStore
from cli.audit import audited, author
from cli.stores import StoreUrl, refused, with_store

if TYPE_CHECKING:
    from adapters_store.artifact import Adapter
    from adapters_store.backbone import Backbone

COMMAND = "espalier load-catalogue"
SCHEMA = 1
PAGE = 1000
# wide enough apart that any row tells two of them, narrow enough that a probability keeps its digits
INTERCEPTS = 1.4


@dataclass(frozen=True)
class Live:
    """A natural domain that is scored by an adapter, and which one."""

    domain: str
    revision: str


def load_catalogue(
    store: StoreUrl,
    out: Annotated[Path, typer.Option(help="Folder for catalogue.json and the dyes.", file_okay=False)],
    users: Annotated[int, typer.Option(min=1, help="User ids to list, evenly spread over the bundle's.")] = 2000,
    items: Annotated[int, typer.Option(min=1, help="Item ids to list, evenly spread over the bundle's.")] = 2000,
    dyed: Annotated[int, typer.Option(min=0, help="Domains, the first ones, that get dyes to publish.")] = 4,
    dyes: Annotated[
        int, typer.Option(min=2, max=16, help="Dyes of each: copies that differ in their calibration.")
    ] = 8,
    copies: Annotated[
        int, typer.Option(min=0, help="Domains `copy-...` to add TO THE STORE, so that a test has cold ones.")
    ] = 0,
) -> None:
    """Write the domains, users, items and adapters that loadtest/ scores and publishes.

    Copies are live adapters under a new domain id, with an audit line each; without --copies nothing is written to the
    store.
    """

    async def read(opened: AdapterStore) -> dict[str, Any]:
        bundle = await opened.bundle(await default_bundle(opened))
        natural = next(division.name for division in bundle.manifest.divisions if division.natural)
        found = [live for live in await live_domains(opened, natural) if not live.domain.startswith("copy-")]
        if not found:
            raise DomainUnknown("no natural domain of this store has a live adapter: `espalier publish` comes first")
        cold = await add_copies(opened, store, found, copies)
        marked = {live.domain: await write_dyes(opened, live, out, dyes) for live in found[:dyed]}
        return {
            "schema": SCHEMA,
            "domains": [live.domain for live in found],
            "cold": cold,
            "users": listed(bundle, "users", users),
            "items": listed(bundle, "items", items),
            "dyes": marked,
        }

    try:
        out.mkdir(parents=True, exist_ok=True)
        content = with_store(store, read)
        write_durably(out / "catalogue.json", json.dumps(content, indent=1).encode())
    except OSError as error:
        raise refused(error) from error
    counts = ", ".join(f"{len(content[name])} {name}" for name in ("domains", "cold", "users", "items", "dyes"))
    Console(highlight=False, soft_wrap=True).print(f"{out / 'catalogue.json'}: {counts}", markup=False)


async def default_bundle(store: AdapterStore) -> str:
    """The default backbone's revision.

    Raises:
        DomainUnknown: the store has none.
    """
    revision = (await store.backbone_record()).default
    if revision is None:
        raise DomainUnknown("this store has no backbone: `espalier publish` comes first")
    return revision


async def live_domains(store: AdapterStore, division: str) -> list[Live]:
    """Every domain of a division that an adapter scores, by its record or by the release, in order of ids."""
    pointer = await store.pointer()
    release = None if pointer.release is None else await store.release(pointer.release)
    found = {} if release is None else dict(release.divisions.get(division, {}))
    after = ""
    while page := await domain_page(store, after, PAGE):
        after = page[-1].domain
        for row in page:
            if isinstance(row, Unreadable) or row.division != division:
                continue
            revision = effective(row, pointer, release, row.domain)
            found.pop(row.domain, None)
            if revision is not None:
                found[row.domain] = revision
    return [Live(domain, found[domain]) for domain in sorted(found)]


async def write_dyes(store: AdapterStore, live: Live, out: Path, count: int) -> list[dict[str, Any]]:
    """Write a domain's dyes into a folder: its live adapter with other intercepts.

    The golden rows stay right, for they are of the tensors, before calibration (design 1).

    Returns:
        Per revision its calibration and, for those that may be published, its file; the live one has none.
    """
    adapter = decode_adapter(await store.get(live.revision))
    slope, intercept = adapter.manifest.calibration.slope, adapter.manifest.calibration.intercept
    known: list[dict[str, Any]] = []
    for number in range(count):
        dye = -INTERCEPTS + 2 * INTERCEPTS * number / (count - 1)
        manifest = adapter.manifest.model_copy(update={"calibration": Calibration(slope=slope, intercept=dye)})
        body = encode_adapter(manifest, adapter.tensors)
        revision = decode_adapter(body).revision
        name = f"{revision}.safetensors"
        write_durably(out / name, body)
        known.append({"revision": revision, "file": name, "slope": slope, "intercept": dye})
    if all(dye["revision"] != live.revision for dye in known):  # else an earlier test left a dye live
        known.append({"revision": live.revision, "file": None, "slope": slope, "intercept": intercept})
    return known


async def add_copies(store: AdapterStore, url: str, found: Sequence[Live], count: int) -> list[str]:
    """Make live adapters live under new domain ids too; what is there already stays.

    Args:
        store: where.
        url: of the store; its secrets stay out of the audit.
        found: what is copied, by turns.
        count: how many copies there shall be.

    Returns:
        Ids of all copies.

    Raises:
        adapters_store.errors.StoreError: a copy was refused; the others are made, and all are audited.
    """
    there = {live.domain for live in found}
    names = [f"copy-{number:05d}" for number in range(count)]
    missing = [name for name in names if name not in there and await store.domain(name) is None]
    sources: dict[str, Adapter] = {}
    bodies, manifests = [], []
    for name in missing:
        source = found[int(name.removeprefix("copy-")) % len(found)].revision
        if source not in sources:
            sources[source] = decode_adapter(await store.get(source))
        manifest: AdapterManifest = sources[source].manifest.model_copy(update={"domain": name})
        manifests.append(manifest)
        bodies.append(encode_adapter(manifest, sources[source].tensors))
    revisions, by = await store.put_many(bodies), author(COMMAND)
    outcomes = await store.change_many(
        [
            store.activation(m.domain, m.division, revision, by, pins=m.fuses, fusion=m.fusion)
            for m, revision in zip(manifests, revisions, strict=True)
        ]
    )
    refused_first: StoreError | None = None
    for name, revision, outcome in zip(missing, revisions, outcomes, strict=True):
        try:
            with audited("publish", by, url, domain=name, revision=revision, to=revision) as entry:
                if outcome.error is not None:
                    raise outcome.error
                entry.done("changed" if outcome.changed else "unchanged")
        except StoreError as error:
            refused_first = refused_first or error
    if refused_first is not None:
        raise refused_first
    return names


def listed(bundle: Backbone, table: str, count: int) -> list[str]:
    """Ids of a feature table, evenly spread over it."""
    from features.index import RawIndex

    index = RawIndex.from_tensors(bundle.tensors(table), "index")
    step = max(1, len(index) / count)
    return [index.raw(int(position * step)) for position in range(min(count, len(index)))]
