"""`espalier adapters`: look at a store's domains, and change what they are scored by, without a server."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from adapters_store.artifact import decode_adapter
from adapters_store.errors import DomainUnknown, WrongDomain
from adapters_store.manifest import AdapterManifest
from adapters_store.paging import Unreadable, domain_page
from adapters_store.records import DomainRecord, Switches
from adapters_store.releases import effective
from adapters_store.store import AdapterStore
from cli.stores import AsJson, StoreUrl, print_json, with_store

app = typer.Typer(help="Look at a store's domains, and change what they are scored by.", no_args_is_help=True)

BY = "espalier adapters"

DomainArgument = Annotated[str, typer.Argument(help="Domain id.")]
DomainOrAll = Annotated[str | None, typer.Argument(help="Domain id; without one, all domains.")]
RevisionArgument = Annotated[str, typer.Argument(help="Revision that the store has.")]
Reason = Annotated[str, typer.Option(help="Why, for whoever runs into it.")]
IfGeneration = Annotated[
    int | None, typer.Option(help="Only if the record still has this generation; else nothing changes.")
]


def _checked(percent: float) -> float:
    if not 0 < percent <= 100:
        raise typer.BadParameter(f"a percent is above 0 and up to 100, not {percent:g}")
    return percent


@app.command(name="list")
def list_(
    store: StoreUrl,
    as_json: AsJson = False,
    after: Annotated[str, typer.Option(help="Only domains that sort behind this one.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 100,
) -> None:
    """List domains and their live revisions."""
    page = with_store(store, lambda opened: domain_page(opened, after, limit))
    if as_json:
        print_json([asdict(row) if isinstance(row, Unreadable) else row.model_dump(mode="json") for row in page])
        return
    table = Table("domain", "division", "live", "generation", "updated", "by")
    for row in page:
        if isinstance(row, Unreadable):
            table.add_row(row.domain, "", f"unreadable: {row.error}")
        else:
            table.add_row(row.domain, row.division, _live(row), str(row.generation), row.updated_at, row.by)
    console = Console(highlight=False)
    console.print(table)
    if len(page) == limit:
        console.print(f"there may be more: --after {page[-1].domain}", markup=False)


@app.command()
def show(domain: DomainArgument, store: StoreUrl, as_json: AsJson = False) -> None:
    """Show one domain: what scores it, what was before, and what the live adapter says about itself."""

    async def read(opened: AdapterStore) -> tuple[DomainRecord, str | None, Switches, dict[str, object] | None]:
        record = await _recorded(opened, domain)
        live, switches = await effective_live(opened, record), await opened.switches()
        if live is None:
            return record, None, switches, None
        adapter = decode_adapter(await opened.get(live))
        manifest = adapter.manifest.model_dump(mode="json", by_alias=True)
        return record, live, switches, {**manifest, "size_bytes": adapter.size_bytes}

    record, live, switches, manifest = with_store(store, read)
    if as_json:
        shown = {"record": record.model_dump(mode="json"), "effective_live": live, "manifest": manifest}
        print_json({**shown, "switches": switches.model_dump(mode="json")})
        return
    _print_record(record, live)
    _print_switches(switches)
    if manifest is not None:
        table = Table("manifest", "", show_edge=False)
        for key in ("kind", "mode", "ranks", "fuses", "fusion", "calibration", "metrics", "created_at", "size_bytes"):
            table.add_row(key, json.dumps(manifest[key]) if manifest[key] is not None else "-")
        Console(highlight=False).print(table)


@app.command()
def activate(
    domain: DomainArgument,
    revision: RevisionArgument,
    store: StoreUrl,
    as_json: AsJson = False,
    if_generation: IfGeneration = None,
) -> None:
    """Make a stored revision live. Each replica verifies it again before it serves."""

    async def change(opened: AdapterStore) -> DomainRecord:
        manifest = await _manifest(opened, domain, revision)
        pins, fusion = dict(manifest.fuses), manifest.fusion
        return await opened.set_live(domain, manifest.division, revision, BY, if_generation, pins=pins, fusion=fusion)

    _report(with_store(store, change), as_json)


@app.command()
def canary(
    domain: DomainArgument,
    revision: RevisionArgument,
    store: StoreUrl,
    percent: Annotated[float, typer.Option(help="Share of the users, above 0 and up to 100.", callback=_checked)],
    as_json: AsJson = False,
    if_generation: IfGeneration = None,
) -> None:
    """Score a share of the users by a stored revision. Raising the share keeps the users that are in already."""

    async def change(opened: AdapterStore) -> DomainRecord:
        manifest = await _manifest(opened, domain, revision)
        return await opened.set_canary(
            domain, revision, percent, BY, if_generation, pins=manifest.fuses, fusion=manifest.fusion
        )

    _report(with_store(store, change), as_json)


@app.command()
def shadow(
    domain: DomainArgument,
    revision: RevisionArgument,
    store: StoreUrl,
    percent: Annotated[float, typer.Option(help="Share of the requests, above 0 and up to 100.", callback=_checked)],
    as_json: AsJson = False,
    if_generation: IfGeneration = None,
) -> None:
    """Score a share of the requests by a stored revision too, for the metrics alone: no reply changes."""

    async def change(opened: AdapterStore) -> DomainRecord:
        manifest = await _manifest(opened, domain, revision)
        return await opened.set_shadow(
            domain, revision, percent, BY, if_generation, pins=manifest.fuses, fusion=manifest.fusion
        )

    _report(with_store(store, change), as_json)


@app.command()
def clear(
    domain: DomainArgument,
    alias: Annotated[Literal["canary", "shadow"], typer.Argument(help="Which alias to end.")],
    store: StoreUrl,
    as_json: AsJson = False,
    if_generation: IfGeneration = None,
) -> None:
    """End a canary or a shadow; what is live stays."""

    def change(opened: AdapterStore) -> Awaitable[DomainRecord]:
        clearing = opened.clear_canary if alias == "canary" else opened.clear_shadow
        return clearing(domain, BY, if_generation)

    _report(with_store(store, change), as_json)


@app.command()
def rollback(
    domain: DomainArgument,
    store: StoreUrl,
    from_: Annotated[str, typer.Option("--from", help="The live revision that is to go.")],
    as_json: AsJson = False,
    if_generation: IfGeneration = None,
) -> None:
    """Walk back to the newest earlier revision that nobody rolled back from."""
    _report(with_store(store, lambda opened: opened.rollback(domain, from_, BY, if_generation)), as_json)


@app.command()
def delete(
    domain: DomainArgument, store: StoreUrl, as_json: AsJson = False, if_generation: IfGeneration = None
) -> None:
    """Take a domain's adapter out of service; its history stays, and activating brings it back."""
    _report(with_store(store, lambda opened: opened.delete(domain, BY, if_generation)), as_json)


@app.command()
def freeze(store: StoreUrl, reason: Reason, domain: DomainOrAll = None, as_json: AsJson = False) -> None:
    """Refuse every change of what is live, canary or shadow, and every flip; rolling back and deleting stay open."""
    _stop(store, domain, lambda opened: opened.freeze(domain, BY, reason), as_json)


@app.command()
def thaw(store: StoreUrl, domain: DomainOrAll = None, as_json: AsJson = False) -> None:
    """Take changes again."""
    _stop(store, domain, lambda opened: opened.thaw(domain, BY), as_json)


@app.command(name="backbone-only")
def backbone_only(
    state: Annotated[Literal["on", "off"], typer.Argument(help="on: no adapter scores, on any replica.")],
    store: StoreUrl,
    as_json: AsJson = False,
) -> None:
    """Score every domain by the backbone alone, for an emergency; the records stay as they are."""
    _stop(store, None, lambda opened: opened.switch_backbone_only(state == "on", BY), as_json)


def _stop(url: str, domain: str | None, change: Callable[[AdapterStore], Awaitable[object]], as_json: bool) -> None:
    """Throw a switch, of one domain or of all, and show where it stands then."""

    async def work(opened: AdapterStore) -> DomainRecord | Switches:
        await change(opened)
        return await opened.switches() if domain is None else await _recorded(opened, domain)

    changed = with_store(url, work)
    if isinstance(changed, DomainRecord):
        _report(changed, as_json)
    elif as_json:
        print_json(changed.model_dump(mode="json"))
    else:
        _print_switches(changed)


async def _recorded(opened: AdapterStore, domain: str) -> DomainRecord:
    record = await opened.domain(domain)
    if record is None:
        raise DomainUnknown(f"the store has no domain {domain!r}")
    return record


async def effective_live(opened: AdapterStore, record: DomainRecord) -> str | None:
    """The revision that scores a domain: its own, or the one of the fleet's release."""
    pointer = await opened.pointer()
    release = None if pointer.release is None else await opened.release(pointer.release)
    return effective(record, pointer, release, record.domain)


async def _manifest(opened: AdapterStore, domain: str, revision: str) -> AdapterManifest:
    manifest = decode_adapter(await opened.get(revision)).manifest
    if manifest.domain != domain:
        raise WrongDomain(f"revision {revision} is of domain {manifest.domain!r}, not {domain!r}")
    return manifest


def _report(record: DomainRecord, as_json: bool) -> None:
    if as_json:
        print_json(record.model_dump(mode="json"))
    else:
        _print_record(record, None if record.live is None else record.live.revision)


def _print_record(record: DomainRecord, live: str | None) -> None:
    console = Console(highlight=False, soft_wrap=True)

    def say(line: str) -> None:
        console.print(line, markup=False)

    say(f"{record.domain} of division {record.division}, generation {record.generation}")
    say(f"live: {_live(record)}   changed {record.updated_at} by {record.by or '-'}")
    if live is not None and (record.live is None or live != record.live.revision):
        say(f"the release's {live} scores instead, until this domain is published again")
    if record.canary is not None:
        say(f"canary: {record.canary.revision} for {record.canary.percent:g}% of the users")
    if record.shadow is not None:
        say(f"shadow: {record.shadow.revision} for {record.shadow.percent:g}% of the requests")
    if record.frozen is not None:
        say(f"frozen since {record.frozen.at} by {record.frozen.by}: {record.frozen.reason}")
    for entry in record.previous:
        say(f"before: {entry.revision}{'   rolled back from' if entry.rolled_back else ''}")


def _print_switches(switches: Switches) -> None:
    console = Console(highlight=False, soft_wrap=True)
    stop = switches.frozen
    if stop is not None:
        console.print(f"all domains are frozen since {stop.at} by {stop.by}: {stop.reason}", markup=False)
    if switches.adapters_only_backbone:
        console.print("adapters_only_backbone is on: the backbone scores every domain", markup=False)


def _live(record: DomainRecord) -> str:
    if record.live is not None:
        return record.live.revision
    return "deleted" if record.deleted else "-"
