"""`espalier backbone`: which bundle scores what has no adapter, make another the default, go back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated

import typer
from rich.console import Console

from adapters_store.backbone import parse_bundle_manifest
from adapters_store.errors import ArtifactError, BlobMissing
from adapters_store.records import BackboneRecord
from adapters_store.store import AdapterStore
from cli.audit import audited, author
from cli.printing import AsJson, print_json
from cli.stores import StoreUrl, with_store
from service.logs import Action

app = typer.Typer(
    help="Show the default backbone, make another bundle the default, go back. Replicas follow without a restart.",
    no_args_is_help=True,
)

COMMAND = "espalier backbone"


@app.command()
def show(store: StoreUrl, as_json: AsJson = False) -> None:
    """Show the default bundle and those before it, newest first, with their fingerprints."""

    async def read(opened: AdapterStore) -> tuple[BackboneRecord, Sequence[str | None]]:
        record = await opened.backbone_record()
        return record, [await _fingerprint(opened, revision) for revision in _named(record)]

    record, fingerprints = with_store(store, read)
    rows = list(zip(["default", *["before"] * len(record.previous)], _named(record), fingerprints, strict=False))
    if as_json:
        bundles = [{"role": role, "revision": revision, "fingerprint": found} for role, revision, found in rows]
        print_json({"record": record.model_dump(mode="json"), "bundles": bundles})
        return
    console = Console(highlight=False, soft_wrap=True)
    if record.default is None:
        console.print("no bundle is the default: publish one with `espalier publish`", markup=False)
        return
    for role, revision, found in rows:
        weights = "not readable any more" if found is None else f"fingerprint {found[:12]}"
        console.print(f"{role:8}{revision}  {weights}", markup=False)
    console.print(f"generation {record.generation}, by {record.by or 'someone'} at {record.updated_at}", markup=False)


@app.command()
def default(
    revision: Annotated[str, typer.Argument(help="Revision of a bundle that the store has.")],
    store: StoreUrl,
    as_json: AsJson = False,
) -> None:
    """Make a stored bundle the default. Domains with an adapter of another stay on that until theirs is published."""
    by = author(COMMAND)
    _change(store, "set_backbone", by, revision, lambda opened: opened.set_default_backbone(revision, by), as_json)


@app.command()
def rollback(
    from_: Annotated[str, typer.Option("--from", help="Revision of the bundle that is to go; it must be the default.")],
    store: StoreUrl,
    as_json: AsJson = False,
) -> None:
    """Make the bundle before the default again; replicas have it in memory still. Once more leads back."""
    by = author(COMMAND)
    _change(store, "rollback_backbone", by, from_, lambda opened: opened.roll_back_default(from_, by), as_json)


def _change(
    url: str,
    action: Action,
    by: str,
    revision: str,
    change: Callable[[AdapterStore], Awaitable[BackboneRecord]],
    as_json: bool,
) -> None:
    """Move the default, audit it, and show the record as it is then."""

    async def work(opened: AdapterStore) -> BackboneRecord:
        with audited(action, by, url, revision=revision) as entry:
            before = await opened.backbone_record()
            after = await change(opened)
            entry.moved(before.default, after.default)
            outcome = "unchanged" if before.generation == after.generation else "changed"
            entry.done(outcome, revision=revision, generation=after.generation)
        return after

    record = with_store(url, work)
    if as_json:
        print_json(record.model_dump(mode="json"))
        return
    typer.echo(f"default backbone: {record.default} (generation {record.generation})")
    if record.previous:
        typer.echo(f"the one before: {record.previous[0]}")


def _named(record: BackboneRecord) -> list[str]:
    return [*([] if record.default is None else [record.default]), *record.previous]


async def _fingerprint(store: AdapterStore, revision: str) -> str | None:
    """Of a bundle; None where it was collected, or is damaged."""
    try:
        return parse_bundle_manifest(await store.get(revision)).fingerprint
    except (BlobMissing, ArtifactError):
        return None
