"""`espalier features`: publish tables of users and items beside a backbone, and look at them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from adapters_store.backbone import Backbone
from adapters_store.errors import ArtifactError, BlobMissing, StoreUnavailable
from adapters_store.feature_publishing import PublishedLayer, publish_layer
from adapters_store.feature_tables import SIDES, bundled_revision, read_manifest, side_divisions, side_fields
from adapters_store.store import AdapterStore
from cli.audit import audited, author
from cli.printing import AsJson, print_json
from cli.stores import StoreUrl, refused, with_store
from features.errors import BadTable
from features.parquet import ReadTable, read_parquet
from features.vocabulary import Vocabulary

app = typer.Typer(help="Publish tables of users and items, and look at them.", no_args_is_help=True)

COMMAND = "espalier features publish"
Side = Literal["users", "items"]
Bundle = Annotated[
    str | None,
    typer.Option("--backbone", help="Revision of a stored bundle whose tables are meant; absent: the default's."),
]


@app.command()
def publish(
    file: Annotated[
        Path, typer.Argument(help="Parquet: a column `id` and one for each field.", exists=True, dir_okay=False)
    ],
    store: StoreUrl,
    side: Annotated[Side, typer.Option(help="Whose table it is.")],
    parent: Annotated[
        str | None, typer.Option(help="The file is a delta for this revision: upserts, and `deleted` rows.")
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="The file is the whole table; it replaces what there is.")
    ] = False,
    bundle: Bundle = None,
    by: Annotated[
        str | None, typer.Option(help="Who publishes, for the record; the user and the machine if absent.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Encode and verify, write nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Encode a table by a backbone's vocabulary and make it current for all bundles of its weights.

    Replicas swap it while they serve. Each backbone has tables of its own: while one takes over from another, publish
    for both.
    """
    if full == (parent is not None):
        raise typer.BadParameter("name either --full, or --parent and the revision that `features show` prints")

    async def work(opened: AdapterStore) -> tuple[ReadTable, PublishedLayer]:
        backbone = await _backbone(opened, bundle)
        table = await asyncio.to_thread(_read, file, backbone, side, parent is not None)
        who = by or author(COMMAND)
        with audited("publish_features", who, store, side=side, fingerprint=backbone.fingerprint) as entry:
            before = await opened.feature_record(backbone.fingerprint, side)
            done = await publish_layer(
                opened, backbone, side, table.rows, table.unknown_values, parent=parent, by=who, dry_run=dry_run
            )
            if not dry_run:
                entry.moved(before.revision or bundled_revision(backbone, side), done.revision)
            entry.done(done.status, revision=done.revision)
        return table, done

    try:
        table, done = with_store(store, work)
    except BadTable as error:
        raise refused(error) from error
    if as_json:
        print_json(_content(table, done))
    else:
        _say(side, table, done, parent is not None)


@app.command()
def show(store: StoreUrl, bundle: Bundle = None, as_json: AsJson = False) -> None:
    """Show which tables are current: the revisions that a delta names as its --parent."""

    async def read(opened: AdapterStore) -> dict[str, dict[str, object]]:
        backbone = await _backbone(opened, bundle)
        return {side: await _state(opened, backbone, side) for side in SIDES}

    found = with_store(store, read)
    if as_json:
        print_json(found)
        return
    console = Console(highlight=False, soft_wrap=True)
    for side, state in found.items():
        console.print(f"{side}: {state['revision']}", markup=False)
        console.print(f"  {_described(state)}", markup=False)


async def _backbone(store: AdapterStore, revision: str | None) -> Backbone:
    if revision is not None:
        try:
            return await store.bundle(revision)
        except (ArtifactError, BlobMissing) as error:
            advice = "`espalier backbone show` names those that are or were the default"
            raise BlobMissing(f"{revision} is no bundle of this store ({error}): {advice}") from error
    record = await store.backbone_record()
    if record.default is None:
        raise StoreUnavailable("the store has no default backbone: publish one with `espalier publish RUN --store URL`")
    return await store.bundle(record.default)


def _read(file: Path, backbone: Backbone, side: Side, is_delta: bool) -> ReadTable:
    fields = side_fields(backbone.manifest, side)
    vocabulary = Vocabulary.from_tensors(backbone.tensors("vocabulary"), backbone.manifest.fields)
    return read_parquet(file, fields, side_divisions(backbone.manifest, side), vocabulary, is_delta)


async def _state(store: AdapterStore, backbone: Backbone, side: str) -> dict[str, object]:
    record = await store.feature_record(backbone.fingerprint, side)
    revision = record.revision or bundled_revision(backbone, side)
    manifest = await asyncio.to_thread(read_manifest, await store.map(revision))
    said = {} if manifest is None else manifest.model_dump(mode="json", by_alias=True, exclude={"divisions"})
    return {"revision": revision, "record": record.model_dump(mode="json", by_alias=True), "manifest": said}


def _described(state: dict[str, object]) -> str:
    said = state["manifest"]
    assert isinstance(said, dict)
    if not said:
        return "the bundle's own table"
    rows = f"{said['layer']} layer of {said['rows']:,} rows"
    if said["layer"] == "full":
        return rows
    return f"{rows}, {said['deleted']:,} deleted, delta {said['deltas']} on its full layer; parent {said['parent']}"


def _content(table: ReadTable, done: PublishedLayer) -> dict[str, object]:
    manifest = done.manifest.model_dump(mode="json", by_alias=True, exclude={"divisions"})
    return {
        "revision": done.revision,
        "status": done.status,
        "size_bytes": done.size_bytes,
        "unnamed_divisions": list(table.unnamed_divisions),
        "manifest": manifest,
    }


def _say(side: str, table: ReadTable, done: PublishedLayer, is_delta: bool) -> None:
    console = Console(highlight=False, soft_wrap=True)
    manifest = done.manifest
    rows = f"{len(table.rows.index):,} rows, {len(table.rows.deleted):,} deleted"
    outcome = {
        "created": f"{side} {done.revision} is now current",
        "unchanged": f"nothing to do: {side} {done.revision} is current already",
        "verified": f"verified: {side} would be {done.revision}; nothing written",
    }[done.status]
    console.print(outcome, markup=False)
    console.print(f"{rows}; {manifest.layer} layer, {done.size_bytes:,} bytes", markup=False)
    if is_delta and manifest.layer == "full":
        console.print(f"the chain of deltas was at its longest: all {manifest.rows:,} rows were written anew")
    for field, count in table.unknown_values.items():
        if count:
            console.print(
                f"field {field}: {count:,} values are not in the vocabulary and score as unknown", markup=False
            )
    for name in table.unnamed_divisions:
        effect = "stays as it is" if is_delta else "is none for every row"
        console.print(f"division {name}: the file does not tell it, so it {effect}", markup=False)
