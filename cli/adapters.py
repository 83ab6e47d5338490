"""`espalier adapters`: look at a store's domains, and change what is live, without a server."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from adapters_store.artifact import decode_adapter
from adapters_store.errors import DomainUnknown, WrongDomain
from adapters_store.records import DomainRecord
from adapters_store.store import AdapterStore
from cli.stores import StoreUrl, with_store

app = typer.Typer(help="Look at a store's domains, and change what is live.", no_args_is_help=True)

BY = "espalier adapters"

DomainArgument = Annotated[str, typer.Argument(help="Domain id.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
IfGeneration = Annotated[
    int | None, typer.Option(help="Only if the record still has this generation; else nothing changes.")
]


@app.command(name="list")
def list_(
    store: StoreUrl,
    as_json: AsJson = False,
    after: Annotated[str, typer.Option(help="Only domains that sort behind this one.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 100,
) -> None:
    """List domains and their live revisions."""
    records = with_store(store, lambda opened: opened.domains(after, limit))
    if as_json:
        _print_json([record.model_dump(mode="json") for record in records])
        return
    table = Table("domain", "division", "live", "generation", "updated", "by")
    for record in records:
        table.add_row(
            record.domain, record.division, _live(record), str(record.generation), record.updated_at, record.by
        )
    console = Console(highlight=False)
    console.print(table)
    if len(records) == limit:
        console.print(f"there may be more: --after {records[-1].domain}", markup=False)


@app.command()
def show(domain: DomainArgument, store: StoreUrl, as_json: AsJson = False) -> None:
    """Show one domain: what is live, what was before, and what the live adapter says about itself."""

    async def read(opened: AdapterStore) -> tuple[DomainRecord, dict[str, object] | None]:
        record = await opened.domain(domain)
        if record is None:
            raise DomainUnknown(f"the store has no domain {domain!r}")
        if record.live is None:
            return record, None
        adapter = decode_adapter(await opened.get(record.live.revision))
        manifest = adapter.manifest.model_dump(mode="json", by_alias=True)
        return record, {**manifest, "size_bytes": adapter.size_bytes}

    record, manifest = with_store(store, read)
    if as_json:
        _print_json({"record": record.model_dump(mode="json"), "manifest": manifest})
        return
    _print_record(record)
    if manifest is not None:
        table = Table("manifest", "", show_edge=False)
        for key in ("kind", "mode", "ranks", "fuses", "fusion", "calibration", "metrics", "created_at", "size_bytes"):
            table.add_row(key, json.dumps(manifest[key]) if manifest[key] is not None else "-")
        Console(highlight=False).print(table)


@app.command()
def activate(
    domain: DomainArgument,
    revision: Annotated[str, typer.Argument(help="Revision that the store has.")],
    store: StoreUrl,
    as_json: AsJson = False,
    if_generation: IfGeneration = None,
) -> None:
    """Make a stored revision live. Each replica verifies it again before it serves."""

    async def change(opened: AdapterStore) -> DomainRecord:
        manifest = decode_adapter(await opened.get(revision)).manifest
        if manifest.domain != domain:
            raise WrongDomain(f"revision {revision} is of domain {manifest.domain!r}, not {domain!r}")
        return await opened.set_live(domain, manifest.division, revision, BY, if_generation)

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


def _report(record: DomainRecord, as_json: bool) -> None:
    if as_json:
        _print_json(record.model_dump(mode="json"))
    else:
        _print_record(record)


def _print_record(record: DomainRecord) -> None:
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{record.domain} of division {record.division}, generation {record.generation}", markup=False)
    console.print(f"live: {_live(record)}   changed {record.updated_at} by {record.by or '-'}", markup=False)
    for entry in record.previous:
        note = "   rolled back from" if entry.rolled_back else ""
        console.print(f"before: {entry.revision}{note}", markup=False)


def _live(record: DomainRecord) -> str:
    if record.live is not None:
        return record.live.revision
    return "deleted" if record.deleted else "-"


def _print_json(content: object) -> None:
    typer.echo(json.dumps(content, indent=2, sort_keys=True))
