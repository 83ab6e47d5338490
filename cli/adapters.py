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
from adapters_store.backbone import MANIFEST_BOUND, parse_bundle_manifest
from adapters_store.errors import ArtifactError, BlobMissing, WrongDomain
from adapters_store.manifest import AdapterManifest
from adapters_store.paging import Unreadable, domain_page
from adapters_store.records import DomainRecord, Switches
from adapters_store.store import AdapterStore
from cli.audit import audited, audited_domain, author, effective_live, recorded
from cli.printing import AsJson, print_json
from cli.stores import StoreUrl, with_store
from features.fields import Division
from service.errors import NeverTried
from service.logs import Action

app = typer.Typer(help="Look at a store's domains, and change what they are scored by.", no_args_is_help=True)

COMMAND = "espalier adapters"

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
        record = await recorded(opened, domain)
        live, switches = await effective_live(opened, record, domain), await opened.switches()
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

    async def change(opened: AdapterStore, by: str) -> DomainRecord:
        manifest = await _manifest(opened, domain, revision)
        pins, fusion = dict(manifest.fuses), manifest.fusion
        return await opened.set_live(domain, manifest.division, revision, by, if_generation, pins=pins, fusion=fusion)

    _change(store, "set_live", domain, change, as_json, revision=revision)


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

    async def change(opened: AdapterStore, by: str) -> DomainRecord:
        manifest = await _tried(opened, domain, revision, "canary")
        return await opened.set_canary(
            domain, revision, percent, by, if_generation, pins=manifest.fuses, fusion=manifest.fusion
        )

    _change(store, "set_canary", domain, change, as_json, revision=revision)


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

    async def change(opened: AdapterStore, by: str) -> DomainRecord:
        manifest = await _tried(opened, domain, revision, "shadow")
        return await opened.set_shadow(
            domain, revision, percent, by, if_generation, pins=manifest.fuses, fusion=manifest.fusion
        )

    _change(store, "set_shadow", domain, change, as_json, revision=revision)


@app.command()
def clear(
    domain: DomainArgument,
    alias: Annotated[Literal["canary", "shadow"], typer.Argument(help="Which alias to end.")],
    store: StoreUrl,
    as_json: AsJson = False,
    if_generation: IfGeneration = None,
) -> None:
    """End a canary or a shadow; what is live stays."""

    def change(opened: AdapterStore, by: str) -> Awaitable[DomainRecord]:
        clearing = opened.clear_canary if alias == "canary" else opened.clear_shadow
        return clearing(domain, by, if_generation)

    _change(store, "clear_canary" if alias == "canary" else "clear_shadow", domain, change, as_json)


@app.command()
def rollback(
    domain: DomainArgument,
    store: StoreUrl,
    from_: Annotated[str, typer.Option("--from", help="The live revision that is to go.")],
    as_json: AsJson = False,
    if_generation: IfGeneration = None,
) -> None:
    """Walk back to the newest earlier revision that nobody rolled back from."""

    def change(opened: AdapterStore, by: str) -> Awaitable[DomainRecord]:
        return opened.rollback(domain, from_, by, if_generation)

    _change(store, "rollback", domain, change, as_json, revision=from_)


@app.command()
def delete(
    domain: DomainArgument, store: StoreUrl, as_json: AsJson = False, if_generation: IfGeneration = None
) -> None:
    """Take a domain's adapter out of service; its history stays, and activating brings it back."""
    _change(store, "delete", domain, lambda opened, by: opened.delete(domain, by, if_generation), as_json)


@app.command()
def freeze(store: StoreUrl, reason: Reason, domain: DomainOrAll = None, as_json: AsJson = False) -> None:
    """Refuse every change of what is live, canary or shadow, and every flip; rolling back and deleting stay open."""
    _stop(store, "freeze", domain, lambda opened, by: opened.freeze(domain, by, reason), as_json, reason=reason)


@app.command()
def thaw(store: StoreUrl, domain: DomainOrAll = None, as_json: AsJson = False) -> None:
    """Take changes again."""
    _stop(store, "thaw", domain, lambda opened, by: opened.thaw(domain, by), as_json)


@app.command(name="backbone-only")
def backbone_only(
    state: Annotated[Literal["on", "off"], typer.Argument(help="on: no adapter scores, on any replica.")],
    store: StoreUrl,
    as_json: AsJson = False,
) -> None:
    """Score every domain by the backbone alone, for an emergency; the records stay as they are."""
    _stop(store, "backbone_only", None, lambda opened, by: opened.switch_backbone_only(state == "on", by), as_json)


def _change(
    url: str,
    action: Action,
    domain: str,
    change: Callable[[AdapterStore, str], Awaitable[DomainRecord]],
    as_json: bool,
    **facts: object,
) -> None:
    """Change a domain's record, audit it, and show the record as it is then."""
    by = author(COMMAND)

    def work(opened: AdapterStore) -> Awaitable[DomainRecord]:
        return audited_domain(opened, url, action, by, domain, lambda: change(opened, by), **facts)

    _report(with_store(url, work), as_json)


def _stop(
    url: str,
    action: Action,
    domain: str | None,
    change: Callable[[AdapterStore, str], Awaitable[object]],
    as_json: bool,
    **facts: object,
) -> None:
    """Throw a switch, of one domain or of all, audit it, and show where it stands then."""
    by = author(COMMAND)

    async def of_domain(opened: AdapterStore, by: str) -> DomainRecord:
        await change(opened, by)
        return await recorded(opened, domain or "")

    async def of_all(opened: AdapterStore) -> Switches:
        with audited(action, by, url, **facts) as entry:
            before = await opened.switches()
            await change(opened, by)
            after = await opened.switches()
            entry.moved(_standing(before, action), _standing(after, action))
            entry.done("unchanged" if before == after else "changed", generation=after.generation)
        return after

    if domain is not None:
        _change(url, action, domain, of_domain, as_json, **facts)
        return
    changed = with_store(url, of_all)
    if as_json:
        print_json(changed.model_dump(mode="json"))
    else:
        _print_switches(changed)


def _standing(switches: Switches, action: Action) -> bool:
    return switches.adapters_only_backbone if action == "backbone_only" else switches.frozen is not None


async def _manifest(opened: AdapterStore, domain: str, revision: str) -> AdapterManifest:
    manifest = decode_adapter(await opened.get(revision)).manifest
    if manifest.domain != domain:
        raise WrongDomain(f"revision {revision} is of domain {manifest.domain!r}, not {domain!r}")
    return manifest


async def _tried(opened: AdapterStore, domain: str, revision: str, alias: str) -> AdapterManifest:
    """The manifest of what shall be a canary or shadow; auxiliary divisions of the default backbone have neither."""
    manifest = await _manifest(opened, domain, revision)
    division = await _division(opened, manifest.division)
    if division is not None and not division.natural:
        raise WrongDomain(str(NeverTried(domain, division.name, alias)))
    return manifest


async def _division(opened: AdapterStore, name: str) -> Division | None:
    default = (await opened.backbone_record()).default
    if default is None:
        return None
    try:
        return parse_bundle_manifest(await opened.get(default, MANIFEST_BOUND)).division(name)
    except (BlobMissing, ArtifactError):  # collected, or damaged: no reason to refuse a change
        return None


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
